"""Every verb on a disk that is full at any point of it: nothing acknowledged is lost, all goes on once there is room.

``python -m tests.fault.full_disk [--every N] [--cases NAME ...] DIRECTORY`` makes an ext4 of 512 MB in a file, leaves a
verb 0, 1, 2, … blocks until it succeeds, with and without the reserve, and prints a JSON object; exit code 1 when
anything is wrong. Needs root.
"""

from __future__ import annotations

import argparse
import errno
import gc
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cowfs.errors import CowfsError, NoSpace
from tests.support.judged import LATER_IDS, VERB_IDS, Undisturbed, judge
from tests.support.verbs import CASES, Case, VerbLab, World, copy_store, make_base

DISK_BYTES = 512 << 20
BLOCK = 4096
FINE = 64
"""Up to so many blocks every number of them is tried; then each next is a quarter more."""

MUST = ("checkpoint", "checkpoint of nothing", "restore", "restore --discard", "fork", "label", "rename", "undo",
        "remove workspace", "remove snapshot")  # fmt: skip
"""What the reserve is for: these succeed on a disk without a free block."""


@contextmanager
def loop_ext4(directory: Path, size: int) -> Iterator[Path]:
    """An ext4 of so many bytes, mounted."""
    image, place = directory / "image", directory / "disk"
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(size)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)
        image.unlink()


def free_blocks(place: Path) -> int:
    """What is left on a disk."""
    found = os.statvfs(place)
    return found.f_bavail * found.f_frsize // BLOCK


def fill(place: Path, left: int) -> Path:
    """Take everything but ``left`` blocks; the file that does."""
    ballast = place / "ballast"
    fd = os.open(ballast, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        at = 0
        step = DISK_BYTES
        while step >= BLOCK:
            while (free_blocks(place) - left) * BLOCK >= step:
                try:
                    os.posix_fallocate(fd, at, step)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    break
                at += step
            step //= 2
    finally:
        os.close(fd)
    return ballast


def amounts() -> Iterator[int]:
    """Free blocks to try, ascending."""
    blocks = 0
    while True:
        yield blocks
        blocks = blocks + 1 if blocks < FINE else blocks * 5 // 4


class Campaign:
    """All cases on one disk; ``wrong`` says what went wrong."""

    def __init__(self, place: Path, scratch: Path, every: int = 1) -> None:
        self._place, self._scratch, self._every = place, scratch, every
        self._base, self._source = scratch / "base", scratch / "source"
        self._source.mkdir()
        for number in range(30):
            (self._source / f"f{number}").write_bytes(os.urandom(20_000))
            os.utime(self._source / f"f{number}", ns=(1, 1))
        os.utime(self._source, ns=(1, 1))
        make_base(self._base)
        self.wrong: list[str] = []
        self.counts = {"runs": 0, "refused": 0, "done": 0, "reopened while full": 0}

    def run(self, names: Sequence[str]) -> dict[str, Any]:
        """The report."""
        for name in names:
            for reserve in (False, True):
                self._case(name, reserve)
        return self.counts | {"wrong": self.wrong}

    def _calm(self, case: Case) -> Undisturbed:
        path = copy_store(self._base, self._scratch / "calm")
        lab = VerbLab.at(path, VERB_IDS)
        before = World.of(lab)
        result = case.run(lab, self._source)
        after = World.of(lab)
        lab.engine.close()
        shutil.rmtree(path)
        return Undisturbed(before, after, [], result)

    def _case(self, name: str, reserve: bool) -> None:
        calm, row = self._calm(CASES[name]), 0
        for number, blocks in enumerate(amounts()):
            if number % self._every:
                continue
            what = f"{name}, {blocks} blocks free{', reserve' if reserve else ''}"
            try:
                done = self._once(CASES[name], calm, blocks, reserve)
                if not done and reserve and name in MUST:
                    self.wrong.append(f"{what}: refused in spite of the reserve")
            except Exception as error:
                self.wrong.append(f"{what}: {error!r}")
                done = True
            row = row + 1 if done else 0
            if row == 3:
                return

    def _once(self, case: Case, calm: Undisturbed, blocks: int, reserve: bool) -> bool:
        """One run; whether the verb succeeded."""
        self.counts["runs"] += 1
        path = copy_store(self._base, self._place / "store")
        ballast = self._place / "ballast"
        try:
            lab = VerbLab.at(path, VERB_IDS)
            if reserve:
                lab.engine.reserve.refill()
            fill(self._place, blocks)
            done = self._try(lambda: case.run(lab, self._source))
            with suppress(CowfsError, OSError):
                lab.engine.close()
            if self._try(lambda: VerbLab.at(path, LATER_IDS).engine.close()):
                self.counts["reopened while full"] += 1
            ballast.unlink()
            lab = VerbLab.at(path, LATER_IDS)
            try:
                judge(lab, case, calm, self._source, done or None)
            finally:
                lab.engine.close()
        finally:
            ballast.unlink(missing_ok=True)
            shutil.rmtree(path)
        self.counts["done" if done else "refused"] += 1
        return done

    @staticmethod
    def _try(call: Any) -> bool:
        """Whether it succeeds; False when it is refused for want of space. Raises anything else."""
        try:
            call()
        except NoSpace:
            return False
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            return False
        return True


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--every", type=int, default=1, help="try every Nth amount of free space only")
    parser.add_argument("--cases", nargs="*", default=list(CASES), metavar="NAME")
    options = parser.parse_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    with loop_ext4(options.directory, DISK_BYTES) as place:
        report = Campaign(place, options.directory, options.every).run(options.cases)
        gc.collect()  # what a failed opening left in tracebacks holds descriptors
    print(json.dumps(report, indent=1))
    return 1 if report["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
