"""The store directory: its layout, its superblock, and the lock that makes one process its owner.

superblock   format version, store id, geometry
lock         held (flock) by the owner
control/     control log
index/       LMDB: block id -> place in a segment
segments/    block records
journals/    one directory per workspace
tmp/         files of running jobs; emptied at open
shown/       files of read-only mounts, written out for the kernel to read; may be missing
reserve      room that is given up when the disk is full (cowfs.reserve); may be missing
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from contextlib import ExitStack, suppress
from pathlib import Path

from cowfs.blocks.index import BlockIndex
from cowfs.catalog.catalog import Catalog
from cowfs.catalog.log import LOG, LOG_NEW
from cowfs.durable import sync_directory, write_durably
from cowfs.errors import Busy, Conflict, Corrupt, Invalid, NoSpace, NotFound
from cowfs.formats.control_file import FILE_HEADER_BYTES
from cowfs.formats.superblock import Superblock, decode_superblock, encode_superblock

_MEND = "Restore what is missing from a copy of it, or run: cowfs fsck --repair"
_SUPERBLOCK_NEW = "superblock.new"
PARTS = ("control", "index", "segments", "journals", "tmp")


class StoreDirectory:
    """Paths within one store; ``superblock`` is what it says of itself."""

    def __init__(self, path: Path, superblock: Superblock) -> None:
        path = path.absolute()  # child processes have another working directory
        self.path = path
        self.superblock = superblock
        self.control = path / "control"
        self.index = path / "index"
        self.segments = path / "segments"
        self.journals = path / "journals"
        self.tmp = path / "tmp"
        self.shown = path / "shown"

    @classmethod
    def create(cls, path: Path, superblock: Superblock) -> StoreDirectory:
        """Make an empty store, or nothing. Raises Conflict when something is there, Invalid, NoSpace."""
        try:
            path.mkdir(mode=0o700, exist_ok=True)
            _clear_beginnings(path)
            if any(path.iterdir()):
                raise Conflict(f"{path} is not empty", hint="Choose a new or empty directory for the store.")
            with ExitStack() as undo:
                for part in PARTS:
                    (path / part).mkdir(mode=0o700)
                    undo.callback(shutil.rmtree, path / part)
                undo.callback((path / "superblock").unlink, missing_ok=True)
                Catalog.open(path / "control", create=True, salt=cls(path, superblock).salt).close()
                # Made here, not by the first to open the store: a power loss then could leave half an index.
                BlockIndex(path / "index", writable=True).close()
                write_durably(path / "superblock", encode_superblock(superblock))
                with suppress(PermissionError):  # that of a directory which only others may list
                    sync_directory(path.absolute().parent)
                undo.pop_all()
        except OSError as error:
            raise _unusable(path, error) from None
        return cls(path, superblock)

    @property
    def salt(self) -> int:
        """Of its control log."""
        return int.from_bytes(self.superblock.store_id[:8], "little")

    @classmethod
    def look(cls, path: Path) -> StoreDirectory:
        """A store that may lack parts. Raises NotFound, Invalid (not a store, or not readable), Corrupt."""
        try:
            data = (path / "superblock").read_bytes()
        except FileNotFoundError:
            raise NotFound(
                f"there is no cowfs store at {path}", hint="Make one with: cowfs init --store PATH"
            ) from None
        except OSError as error:
            raise _unusable(path, error) from None
        return cls(path, decode_superblock(data))

    @classmethod
    def open(cls, path: Path) -> StoreDirectory:
        """Look at an existing store. Raises what :meth:`look` does, and Corrupt when it lacks a part."""
        store = cls.look(path)
        # The index is made anew when it is lost.
        wanted = (*(part for part in PARTS if part != "index"), f"control/{LOG}")
        missing = [part for part in wanted if not (path / part).exists()]
        if missing:
            raise Corrupt(
                f"the store at {path} lacks {', '.join(missing)}",
                hint=_MEND,
            )
        return store

    def lock(self) -> int:
        """Become the owner; returns a descriptor to keep open. Raises Busy, naming the owner's process."""
        fd = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
            os.close(fd)
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise _unusable(self.path, error) from None
            who = f"process {owner}" if owner.isdigit() else "another process"
            raise Busy(
                f"the store at {self.path} is in use by {who}", hint="Use its daemon, or stop it first."
            ) from None
        with suppress(OSError):  # a full disk: who is refused will not be told by whom
            os.ftruncate(fd, 0)
            os.pwrite(fd, str(os.getpid()).encode(), 0)
        return fd

    def unlock(self, owner: int) -> None:
        """Give the store up; ``owner`` is what :meth:`lock` returned."""
        os.close(owner)

    def sweep_tmp(self) -> None:
        """Remove what dead jobs left behind. Only the owner may."""
        for entry in self.tmp.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()


def _clear_beginnings(path: Path) -> None:
    """Remove what a :meth:`StoreDirectory.create` that was killed has left: at most an empty control log and index."""
    found = {entry.name for entry in path.iterdir()}
    if not found or not found <= {*PARTS, _SUPERBLOCK_NEW}:
        return
    parts = [path / name for name in found if name != _SUPERBLOCK_NEW]
    inside = [entry for part in parts for entry in part.iterdir()]
    logs = (path / "control" / LOG, path / "control" / LOG_NEW)
    index = (path / "index" / "data.mdb", path / "index" / "lock.mdb")
    if all(entry in index or (entry in logs and entry.stat().st_size <= FILE_HEADER_BYTES) for entry in inside):
        for part in parts:
            shutil.rmtree(part)
        (path / _SUPERBLOCK_NEW).unlink(missing_ok=True)


def _unusable(path: Path, error: OSError) -> Exception:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(f"no space left for the store at {path}", hint="Free some space, then try again.")
    return Invalid(f"cannot use {path} as a store: {error.strerror}")
