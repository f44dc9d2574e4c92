"""Real programs in a mounted workspace, with a checkpoint and a restore in between, compared with ext4."""
