"""Programs that verify themselves in real mounts, while every process of the daemon is killed at random."""
