"""What a program inside a sandbox may ask of its host: the verbs, for its own workspace alone."""
