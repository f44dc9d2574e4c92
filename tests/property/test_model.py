"""The model against a native directory: the same random operations, the same results, errors and visible state.

This is what makes the model an oracle. Times are compared by which operation set them, since the native clock is the
kernel's; allocated blocks are not compared, since a native filesystem counts its own metadata in.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from typing import Any

import pytest
from hypothesis import settings

from tests.property.operations import START, Clock, FilesystemMachine, World
from tests.support.compare import READ_WHOLE, Seen, look
from tests.support.model import Model
from tests.support.native import Native

TIMES = {"atime", "mtime", "ctime"}


class Stamps:
    """Names each time by the operation that set it, unless it was given explicitly."""

    def __init__(self) -> None:
        self.last: dict[tuple[int, str], tuple[int, Any]] = {}

    def rename(self, seen: Seen, ino: int, step: int) -> Seen:
        """The same inode with comparable times."""
        attributes: dict[str, Any] = dict(seen.attributes)
        del attributes["blocks"]
        if stat.S_ISLNK(attributes["mode"]):
            del attributes["atime"]  # readlink sets it here, and no option prevents that
        for field in TIMES & attributes.keys():
            value = attributes[field]
            previous, label = self.last.get((ino, field), (None, None))
            if value != previous:
                label = value if value < START else f"operation {step}"
            self.last[ino, field] = (value, label)
            attributes[field] = label
        return seen._replace(attributes=attributes)


class NativeWorld(World):
    """A native directory; every inode is looked at after every operation, to see which times moved."""

    uids = (0,)
    reserves = True

    def __init__(self, clock: Clock, path: str) -> None:
        super().__init__(clock, Model(clock, root_mode=0o700))
        self.native = Native(path)
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
        if ino in self.reserved:
            far = seen.attributes["size"] > READ_WHOLE
            seen = seen._replace(ranges=(), data=b"" if far else seen.data)
        return seen

    def settled(self, gone: set[int]) -> None:
        for ino in gone:
            self.native.drop(ino)
        self.compare()


class NativeMachine(FilesystemMachine):
    """Native directory and model."""

    def __init__(self) -> None:
        super().__init__()
        self.path = tempfile.mkdtemp(prefix="cowfs-model-")
        self.native_world = NativeWorld(self.clock, self.path)
        self.native_world.compare()
        self.worlds = [self.native_world]

    def teardown(self) -> None:
        self.native_world.native.close()
        shutil.rmtree(self.path)


TestModel = NativeMachine.TestCase
TestModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None, report_multiple_bugs=False)
TestModel.pytestmark = [  # type: ignore[attr-defined]
    pytest.mark.skipif(os.geteuid() != 0, reason="owners, devices and trusted attributes need root")
]
