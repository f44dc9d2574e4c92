"""A native directory, or a mount, as the subject of the random operations.

Times are compared by which operation set them, since the clock is not ours; an inode's atime only where no read can
have moved it.
"""

from __future__ import annotations

import stat
from typing import Any

from tests.property.operations import START, Clock, World
from tests.support.compare import READ_WHOLE, Seen, look
from tests.support.model import Model
from tests.support.native import Native

TIMES = {"atime", "mtime", "ctime"}


class Stamps:
    """Names each time by the operation after which it was first seen, unless it was given explicitly."""

    def __init__(self) -> None:
        self.names: dict[tuple[int, str, int], str] = {}

    def rename(self, seen: Seen, ino: int, step: int) -> Seen:
        """The same inode with comparable times."""
        attributes: dict[str, Any] = dict(seen.attributes)
        if stat.S_ISLNK(attributes["mode"]):
            del attributes["atime"]  # readlink sets it here, and no option prevents that
        for field in TIMES & attributes.keys():
            value = attributes[field]
            if value >= START:
                attributes[field] = self.names.setdefault((ino, field, value), f"operation {step}")
        return seen._replace(attributes=attributes)


class NativeWorld(World):
    """A directory; every inode is looked at after every operation, to see which times moved.

    ``reserves``: it is a native filesystem, which counts its own metadata in st_blocks and may reserve pages.
    """

    uids = (0,)

    def __init__(self, clock: Clock, path: str, root_mode: int, reserves: bool) -> None:
        super().__init__(clock, Model(clock, root_mode))
        self.native = Native(path)
        self.reserves = reserves
        self.through_kernel = not reserves
        self.step = 0
        self.stamps = Stamps(), Stamps()

    @property
    def subject(self) -> Native:
        return self.native

    def align(self) -> None:
        self.step += 1
        self.native.next_ino = self.model.next_ino

    def see(self, ino: int) -> Seen:
        return self._comparable(look(self.native, ino), self.stamps[0], ino)

    def expect(self, ino: int) -> Seen:
        return self._comparable(look(self.model, ino), self.stamps[1], ino)

    def _comparable(self, seen: Seen, stamps: Stamps, ino: int) -> Seen:
        seen = stamps.rename(seen, ino, self.step)
        if self.reserves:
            del seen.attributes["blocks"]
        if ino in self.reserved:
            far = seen.attributes["size"] > READ_WHOLE
            seen = seen._replace(ranges=(), data=b"" if far else seen.data)
        return seen

    def settled(self, gone: set[int]) -> None:
        for ino in gone:
            self.native.drop(ino)
        self.compare()
