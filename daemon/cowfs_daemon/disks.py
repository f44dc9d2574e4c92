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
from cowfs_daemon.users import MountPoint, lasting_users_of, mount_points, mounted_at, named, openers, other_places

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
            file = loops.Backing(found.st_dev, found.st_ino)
            point = mounted_at(place)
            if point is not None and loops.backing(point.device) == file:
                return Mounted(mounted.ref, place, mounted.read_only)
            if point is not None:
                _drop(place)
            if devices := loops.devices_of(file):
                raise Busy(
                    f"the disk of {ref} is attached to {', '.join(devices)} already",
                    hint="Programs may still use it after --force: end them. See: losetup --list",
                )
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
            Mounted(ref, point.path, "@" in os.path.basename(point.path.removesuffix(SUFFIX)))
            for ref, point, live in self._places()
            if live
        ]

    def is_attached(self, ref: str) -> bool:
        """Whether the disk of a workspace is attached here. Asked by every checkpoint, so the table of mounts is read
        only where there is a place for a disk."""
        path = self._mounts.path_of(ref)
        if path is None or not os.path.lexists(path + SUFFIX):
            return False
        return any(each.ref == ref for each in self.attached())

    def _places(self) -> list[tuple[str, MountPoint, bool]]:
        """(reference, where, whether what is behind it is served) of all that was attached.

        A mount whose worker is being replaced counts as served; one of a daemon that died with its keeper does not.
        """
        points = {point.path: point for point in mount_points()}
        found = []
        for path, point in points.items():
            if not path.endswith(SUFFIX):
                continue
            workspace, _, snapshot = os.path.basename(path.removesuffix(SUFFIX)).partition("@")
            ref = snapshot or workspace
            if self._mounts.path_of(ref) == path.removesuffix(SUFFIX):
                below = points.get(path.removesuffix(SUFFIX))
                file = loops.backing(point.device)
                live = below is not None and file is not None and _device(file.device) == below.device
                found.append((ref, point, live))
        return found

    def detach(self, ref: str, force: bool = False) -> None:
        """Detach a disk; everything is in the workspace then. Raises NotFound, and Busy while it is used (``force``:
        programs keep what they have open there, until the workspace is unmounted)."""
        found = self._find(ref)
        if found is None:
            raise NotFound(f"the disk of {ref} is not attached", hint="`cowfs disk list` shows those that are")
        self._detach(*found, force)

    @contextmanager
    def released(self, ref: str, force: bool) -> Iterator[None]:
        """The disk, if it is attached, is detached for what unmounts its workspace within; attached again if that
        fails. Raises Busy."""
        found = self._find(ref)
        if found is None:
            yield
            return
        self._detach(*found, force)
        try:
            yield
        except BaseException:
            self._attach_again(found[0])
            raise

    def _attach_again(self, ref: str) -> None:
        try:
            self.attach(ref)
        except (CowfsError, OSError) as error:
            log.error("cannot attach the disk of %s again: %s", ref, error)

    def _find(self, ref: str) -> tuple[str, str, MountPoint] | None:
        """(reference, place, mount point) of an attached disk."""
        known = {each.ref: each for each in self.attached()}
        if known and ref not in known and not any(each.name == ref for each in self._engine.list()):
            with suppress(NotFound):  # it is mounted, and has been removed since
                ref = self._engine.snapshot(ref).id
        found = known.get(ref)
        point = None if found is None else mounted_at(found.path)
        return None if found is None or point is None else (found.ref, found.path, point)

    def _detach(self, ref: str, place: str, point: MountPoint, force: bool) -> None:
        self._refuse_if_used(ref, point, force)
        file = loops.backing(point.device)
        with suppress(OSError):  # a frozen one could be neither written out nor thawed once it has no place
            loops.thaw(place)
        try:
            unmount(place)
            loops.wait_let_go(point.device, file)
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
                self._attach_again(ref)
            raise

    @contextmanager
    def frozen(self, ref: str) -> Iterator[None]:
        """The filesystem on the attached disk of a live workspace stands still within; no disk: nothing happens."""
        path = self._mounts.path_of(ref)
        place = "" if path is None else path + SUFFIX
        if path is None or not self.is_attached(ref):
            yield
            return
        timer = threading.Timer(self._frozen_seconds, self._late, (place,))
        timer.daemon = True
        if not loops.freeze(place):  # whoever did that thaws it
            yield
            return
        try:
            timer.start()
            yield
        finally:
            timer.cancel()
            with suppress(FileNotFoundError):  # detached by a daemon that is stopping, which thaws before
                loops.thaw(place)

    def _late(self, place: str) -> None:
        log.warning("%s was frozen for %s s: thawed before the checkpoint has ended", place, self._frozen_seconds)
        with suppress(OSError):
            loops.thaw(place)

    def recover(self) -> None:
        """Thaw what a daemon that was killed within a checkpoint has left frozen; let go of what has nothing behind it
        any more, since the daemon died with its keeper."""
        for _, point, live in self._places():
            if not live:
                _drop(point.path)
        for each in self.attached():
            try:
                if loops.thaw(each.path):
                    log.warning("%s was left frozen by a daemon before: thawed", each.path)
            except OSError as error:
                log.error("cannot look at %s: %s", each.path, error.strerror)


def _device(number: int) -> str:
    """A device as mountinfo has it."""
    return f"{os.major(number)}:{os.minor(number)}"


def _drop(place: str) -> None:
    log.warning("detaching what a daemon before has left at %s", place)
    unmount(place, force=True)


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
