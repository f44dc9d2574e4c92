"""The fixtures of the command line: a served store, and commands run in this process."""

from tests.cli.conftest import cowfs, served

__all__ = ["cowfs", "served"]
