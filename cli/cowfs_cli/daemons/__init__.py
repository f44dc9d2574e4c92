"""Subcommands of ``cowfs daemon`` for who operates it."""
