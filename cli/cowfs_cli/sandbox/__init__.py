"""Running programs with a workspace as their root."""
