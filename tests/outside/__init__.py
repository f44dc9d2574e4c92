"""Suites and exercisers that others wrote, run unchanged in a mounted workspace and on ext4."""
