"""What a check found."""

from __future__ import annotations

from typing import NamedTuple


class Problem(NamedTuple):
    """``where``: a root with inode and path, a layer, a workspace; ``what`` is wrong with it, on one line."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


def shown(name: bytes) -> str:
    """A file name or path on one printable line."""
    return ascii(name.decode("utf-8", "surrogateescape"))
