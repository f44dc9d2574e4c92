"""Disks: a file of a workspace that holds a machine's filesystem, attached on the host through a loop device.

The setting ``disk`` names the file. What is attached is what the kernel says, so nothing needs to be remembered: the
mount of a workspace at PATH has its disk at ``PATH@disk`` (no workspace's name has an @).

A checkpoint or fork of a workspace whose disk is attached freezes that filesystem for as long as it takes, so that it
has everything whose system call had returned. Whoever ends meanwhile leaves it frozen: a timer thaws it, and so does
the next daemon.
"""

from __future__ import annotations

import logging
import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from cowfs.errors import Busy, CowfsError, Invalid, NotFound
from cowfs_daemon import loops
from cowfs_daemon.fuse.mount import unmount
from cowfs_daemon.ports import EngineLike, Mounted, MountsLike
from cowfs_daemon.users import MountPoint, lasting_users_of, mounted_at, named, openers, other_places

log = logging.getLogger("cowfs.disks")
SETTING = "disk"
SUFFIX = "@disk"
FROZEN_SECONDS = 20.0
"""A filesystem is frozen for so long at most. A checkpoint that takes longer is still one moment of the disk."""


class Disks:
    """The disks of a store. Locks of the workspaces are the caller's."""

    def __init__(self, engine: EngineLike, mounts: MountsLike, *, frozen_seconds: float = FROZEN_SECONDS) -> None:
        self._engine = engine
        self._mounts = mounts
        self._frozen_seconds = frozen_seconds

    def attach(self, ref: str) -> Mounted:
        """Attach the disk of a workspace, or of a snapshot read-only; a no-op when it is.

        Raises Invalid (no disk, not root, no filesystem), NotFound, Busy (a machine has it open).
        """
        if os.geteuid() != 0:
            raise Invalid(
                "attaching a disk needs root: the kernel mounts filesystems from files for nobody else",
                hint="Boot it in a machine instead: cowfs disk config WS --machine qemu",
            )
        name = self._image_of(ref)
        mounted = self._mounts.mount(ref)
        place = mounted.path + SUFFIX
        image = _open(mounted.path, name, mounted.read_only)
        try:
            found = os.fstat(image)
            point = mounted_at(place)
            if point is not None and loops.backing(point.device) == loops.Backing(found.st_dev, found.st_ino):
                return Mounted(mounted.ref, place, mounted.read_only)
            if point is not None:
                log.warning("detaching what a daemon before has left at %s", place)
                unmount(place, force=True)
            if not mounted.read_only and (users := openers(found.st_dev, found.st_ino, but=frozenset((os.getpid(),)))):
                raise Busy(f"the disk of {ref} is in use by {named(users)}", hint="Stop that machine first.")
            os.makedirs(place, mode=0o700, exist_ok=True)
            try:
                loops.attach(image, place, read_only=mounted.read_only)
            except BaseException:
                os.rmdir(place)
                raise
        finally:
            os.close(image)
        return Mounted(mounted.ref, place, mounted.read_only)

    def _image_of(self, ref: str) -> str:
        settings = {each.key: each.value for each in self._engine.settings(self._workspace_of(ref))}
        name = settings.get(SETTING)
        if not isinstance(name, str):
            raise Invalid(f"{ref} has no disk", hint="Make one: cowfs create NAME --disk 8G")
        if "/" in name or name in (".", ".."):
            raise Invalid(f"the setting disk of {ref} is no name of a file at its top: {name[:80]!a}")
        return name

    def _workspace_of(self, ref: str) -> str:
        if any(each.name == ref for each in self._engine.list()):
            return ref
        return self._engine.snapshot(ref).workspace

    def attached(self) -> list[Mounted]:
        """The disks that are attached; ``path``: where their files are."""
        return [
            Mounted(each.ref, each.path + SUFFIX, each.read_only)
            for each in self._mounts.mounted()
            if mounted_at(each.path + SUFFIX) is not None
        ]

    def detach(self, ref: str, force: bool = False) -> None:
        """Detach a disk; everything is in the workspace then. Raises NotFound, and Busy while it is used (``force``:
        programs keep what they have open there, until the workspace is unmounted)."""
        found = self._find(ref)
        if found is None:
            raise NotFound(f"the disk of {ref} is not attached", hint="`cowfs disk list` shows those that are")
        self._detach(*found, force)

    def release(self, ref: str, force: bool) -> None:
        """Detach the disk, if it is attached, of what is about to be unmounted. Raises Busy."""
        with suppress(NotFound):
            self.detach(ref, force)

    def _find(self, ref: str) -> tuple[str, str, MountPoint] | None:
        """(reference, place, mount point) of an attached disk."""
        known = {each.ref: each for each in self.attached()}
        if known and ref not in known and not any(each.name == ref for each in self._engine.list()):
            ref = self._engine.snapshot(ref).id
        found = known.get(ref)
        point = None if found is None else mounted_at(found.path)
        return None if found is None or point is None else (found.ref, found.path, point)

    def _detach(self, ref: str, place: str, point: MountPoint, force: bool) -> None:
        self._refuse_if_used(ref, point, force)
        try:
            unmount(place)
            loops.wait_let_go(point.device)
        except Busy:
            if not force:
                raise
            unmount(place, force=True)
        with suppress(OSError):  # with force, it may be somebody's working directory elsewhere
            os.rmdir(place)

    @staticmethod
    def _refuse_if_used(ref: str, point: MountPoint, force: bool) -> None:
        if force:
            return
        if places := other_places(point):
            raise Busy(f"the disk of {ref} is mounted at {', '.join(places)} too", hint="Unmount it there, or --force.")
        if users := lasting_users_of(point):
            raise Busy(f"the disk of {ref} is in use by {named(users)}", hint="Stop them, or --force to detach it.")

    def detach_all(self, force: bool, then: Callable[[], None]) -> None:
        """Detach every disk, then do ``then``: all or nothing. Raises Busy."""
        found = [each for each in map(self._find, (disk.ref for disk in self.attached())) if each is not None]
        for ref, _, point in found:
            self._refuse_if_used(ref, point, force)
        gone: list[str] = []
        try:
            for each in found:
                self._detach(*each, force)
                gone.append(each[0])
            then()
        except BaseException:
            for ref in gone:
                try:
                    self.attach(ref)
                except (CowfsError, OSError) as error:
                    log.error("cannot attach the disk of %s again: %s", ref, error)
            raise

    @contextmanager
    def frozen(self, ref: str) -> Iterator[None]:
        """The filesystem on the attached disk of a live workspace stands still within; no disk: nothing happens."""
        path = self._mounts.path_of(ref)
        place = "" if path is None else path + SUFFIX
        if path is None or mounted_at(place) is None:
            yield
            return
        timer = threading.Timer(self._frozen_seconds, self._late, (place,))
        timer.daemon = True
        if not loops.freeze(place):  # whoever did that thaws it
            yield
            return
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            loops.thaw(place)

    def _late(self, place: str) -> None:
        log.warning("%s was frozen for %s s: thawed before the checkpoint has ended", place, self._frozen_seconds)
        with suppress(OSError):
            loops.thaw(place)

    def thaw_all(self) -> None:
        """Thaw what a daemon that was killed within a checkpoint has left frozen."""
        for each in self.attached():
            try:
                if loops.thaw(each.path):
                    log.warning("%s was left frozen by a daemon before: thawed", each.path)
            except OSError as error:
                log.error("cannot look at %s: %s", each.path, error.strerror)


def _open(root: str, name: str, read_only: bool) -> int:
    """The image, which must be a regular file at the top of the mount ``root``. Raises Invalid."""
    flags = (os.O_RDONLY if read_only else os.O_RDWR) | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        image = os.open(os.path.join(root, name), flags)
    except OSError as error:
        raise Invalid(f"the disk {name} cannot be opened: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(image).st_mode):
        os.close(image)
        raise Invalid(f"the disk {name} is no regular file")
    return image
