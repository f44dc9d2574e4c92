"""A daemon that lives long: what one cycle of verbs leaves behind in memory, descriptors, threads and files."""
