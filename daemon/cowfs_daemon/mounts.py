"""The mounts of a store: where each workspace or snapshot is mounted, kept over restarts.

The owner's side: it chooses paths, remembers, and knows who uses a mount; a ``Server`` (the worker) mounts and
serves. ``STORE/daemon/mounts.json`` lists what should be mounted; it changes only by mount and umount, so a daemon
that was stopped or killed mounts the same again. The idempotency key of an unmount is written with the list that lacks
the mount.

Thread-safe: ``_lock`` guards ``_table`` (what is mounted and served), ``_unserved`` (mounted, but its worker has ended)
and ``_wanted`` (what should be). ``_mounting``, taken before it, is held while something is being mounted.
"""

import contextlib
import json
import logging
import os
import stat
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from cowfs.errors import Busy, Conflict, CowfsError, Invalid, NotFound
from cowfs.remembered import Request
from cowfs_daemon.fuse.mount import abort, unmount
from cowfs_daemon.ports import Mounted, WorkerGone
from cowfs_daemon.users import lasting_users_of, mount_points, mounted_at, named, other_places

log = logging.getLogger("cowfs.mounts")
KEYS_MAX = 1_000
"""Idempotency keys of the last unmounts that are kept, with the list of mounts."""

BLAMED_MAX = 5
"""A workspace during whose mounting so many workers in a row have ended is left alone until somebody mounts it."""


class Server(Protocol):
    """What mounts and serves: a worker."""

    def serve(self, ref: str, path: str, read_only: bool) -> None:
        """Mount at ``path`` and serve, or go on serving what a predecessor mounted there; usable on return."""
        ...

    def serves(self, ref: str) -> bool:
        """Whether nothing has ended since that ``serve`` of ``ref``."""
        ...

    def unserve(self, ref: str, path: str, force: bool) -> None:
        """Unmount ``path`` (lazily with ``force``) and end its session. Raises Busy when the kernel refuses."""
        ...

    def pids(self) -> frozenset[int]:
        """The processes that serve."""
        ...


def runtime_dir(store_id: str, environment: dict[str, str], uid: int) -> str:
    """``/run/cowfs/STORE-ID`` for root, else under XDG_RUNTIME_DIR. Raises Invalid when there is none."""
    if uid == 0:
        base = "/run"
    elif "XDG_RUNTIME_DIR" in environment:
        base = environment["XDG_RUNTIME_DIR"]
    else:
        raise Invalid("no directory for mounts", hint="set XDG_RUNTIME_DIR to a directory of your own")
    return os.path.join(base, "cowfs", store_id)


class Mounts:
    """``resolve(ref)`` gives ("workspace name or snapshot id", the name of its mount point, read_only)."""

    def __init__(
        self, server: Server, directory: str, state_path: str, resolve: Callable[[str], tuple[str, str, bool]]
    ) -> None:
        self._server = server
        self._directory = directory
        self._state_path = state_path
        self._resolve = resolve
        self._lock = threading.Lock()
        self._mounting = threading.Lock()
        self._table: dict[str, Mounted] = {}
        self._unserved: dict[str, Mounted] = {}
        self._wanted, self._unmounted = self._load()
        self._blamed: Counter[str] = Counter()
        self._stopping = False

    def mount(self, ref: str) -> Mounted:
        asked = ref
        ref, _, _ = self._resolve(asked)
        with self._lock:
            self._refuse_stopping()
            known = self._table.get(ref)
        if known is not None and mounted_at(known.path) is not None:
            return known
        with self._mounting:
            return self._mount_unless(asked)

    def _mount_unless(self, asked: str) -> Mounted:
        """Mount what is not. Held: ``_mounting``."""
        ref, point, read_only = self._resolve(asked)  # it may have been renamed meanwhile
        mounted = Mounted(ref, os.path.join(self._directory, point), read_only)
        with self._lock:
            self._refuse_stopping()
            known = self._table.get(ref)
        if known is None or mounted_at(known.path) is None:
            self._mount(mounted)
        return mounted

    def _mount_again(self, ref: str) -> None:
        """Mount what should be, unless it has been unmounted since ``ref`` was listed."""
        with self._mounting:
            if ref in self.wanted():
                self._mount_unless(ref)

    def _refuse_stopping(self) -> None:
        if self._stopping:
            raise Busy("the daemon is stopping", hint="try again: the next command starts a new one")

    def _mount(self, mounted: Mounted) -> None:
        self._make_private(self._directory)
        try:
            self._server.serve(mounted.ref, mounted.path, mounted.read_only)
        except WorkerGone:
            raise  # its successor may be mounting there by now
        except BaseException:
            with contextlib.suppress(OSError):
                os.rmdir(mounted.path)
                os.rmdir(self._directory)
            raise
        with self._lock:
            self._wanted.add(mounted.ref)
            self._save()
            if not self._server.serves(mounted.ref):  # `lost` has come too early to find it in the table
                raise WorkerGone(f"{mounted.ref} is just being mounted again", hint="try again")
            self._table[mounted.ref] = mounted
            self._unserved.pop(mounted.ref, None)
            self._blamed.pop(mounted.ref, None)

    def lost(self, refs: Iterable[str]) -> None:
        """Who served ``refs`` is gone: they are not mounted any more, but should be (``restore_all``)."""
        with self._lock:
            for ref in refs:
                if (mounted := self._table.pop(ref, None)) is not None:
                    self._unserved[ref] = mounted

    def was_unmounted(self, request: Request | None) -> bool:
        """See cowfs_daemon.ports.MountsLike."""
        digest = None if request is None else self._unmounted.get(request.key)
        if request is not None and digest not in (None, request.digest.hex()):
            raise Conflict("this idempotency key was used for another request", hint="Use a new one.")
        return digest is not None

    def umount(self, ref: str, force: bool = False, request: Request | None = None) -> None:
        """See cowfs_daemon.ports.MountsLike."""
        if ref not in self.wanted():  # what is mounted may have been removed since: it can be named all the same
            ref, _, _ = self._resolve(ref)
        with self._lock:
            mounted = self._table.get(ref)
            coming = mounted is None and ref in self._wanted and self._blamed[ref] < BLAMED_MAX
            given_up = None if coming else self._unserved.get(ref)
        if coming:
            raise WorkerGone(f"{ref} is just being mounted again", hint="try again")
        if mounted is not None:
            self._detach(mounted, force)
        elif given_up is not None:
            clear_place(given_up.path)
            os.rmdir(given_up.path)
        else:
            raise NotFound(f"{ref} is not mounted", hint="`cowfs mount` lists what is")
        with self._lock:
            self._table.pop(ref, None)
            self._unserved.pop(ref, None)
            self._wanted.discard(ref)
            if request is not None:
                self._unmounted[request.key] = request.digest.hex()
                for key in list(self._unmounted)[:-KEYS_MAX]:
                    del self._unmounted[key]
            self._save()

    def umount_all(self, refs: Iterable[str], force: bool = False) -> None:
        """See cowfs_daemon.ports.MountsLike."""
        gone = []
        try:
            for ref in refs:
                with contextlib.suppress(NotFound):
                    self.umount(ref, force)
                    gone.append(ref)
        except BaseException:
            for ref in gone:
                try:
                    self.mount(ref)
                except (CowfsError, OSError) as error:
                    log.error("cannot mount %s again: %s", ref, error)
            raise

    def mounted(self) -> list[Mounted]:
        with self._lock:
            return list(self._table.values())

    def wanted(self) -> set[str]:
        """See cowfs_daemon.ports.MountsLike."""
        with self._lock:
            return set(self._wanted)

    def path_of(self, name: str) -> str | None:
        mounted = self._table.get(name) or self._unserved.get(name)
        return None if mounted is None else mounted.path

    @contextlib.contextmanager
    def unmounted(self, name: str) -> Iterator[None]:
        """See cowfs_daemon.ports.MountsLike."""
        with self._mounting:
            if self.path_of(name) is not None:
                raise Busy(f"{name} is mounted", hint=f"cowfs umount {name}, then rename it")
            yield

    def restore_all(self) -> None:
        """Mount what was mounted before. What cannot be is logged, and forgotten when it no longer exists."""
        with self._lock:
            refs = sorted(self._wanted)
        for ref in refs:
            if self._blamed[ref] >= BLAMED_MAX:
                log.error("%s is left alone: %d workers in a row ended while mounting it", ref, BLAMED_MAX)
                continue
            try:
                self._mount_again(ref)
            except Busy as error:
                self._blamed[ref] += 1
                log.error("cannot mount %s again: %s", ref, error)
            except NotFound as error:
                self._forget_if_gone(ref, error)
            except (CowfsError, OSError) as error:
                log.error("cannot mount %s again: %s", ref, error)

    def _forget_if_gone(self, ref: str, error: NotFound) -> None:
        """``error`` was in the way of mounting: what ``ref`` names may be no more."""
        try:
            self._resolve(ref)
        except NotFound:
            log.warning("no longer mounted: %s: %s", ref, error)
            with self._lock:
                self._wanted.discard(ref)
                self._unserved.pop(ref, None)
                self._save()
        else:
            log.error("cannot mount %s again: %s", ref, error)

    def _present(self) -> list[Mounted]:
        """What the kernel has, served or not."""
        with self._lock:
            return list({**self._unserved, **self._table}.values())

    def detach_all(self, force: bool) -> None:
        """Unmount everything before the daemon ends, all or nothing; the list stays for ``restore_all``.

        Raises Busy, naming the processes, when something is in use and not ``force``.
        """
        if not force:
            for mounted in self._present():
                self._refuse_if_used(mounted)
        with self._lock:
            self._stopping = True
        try:
            with self._mounting:  # what is just being mounted, after a worker's end, is detached too
                mounts = self._present()
            for mounted in mounts:
                self._detach(mounted, force)
            self._clear_unknown()
        except BaseException:
            with self._lock:
                self._stopping = False
            self.restore_all()
            raise

    def _clear_unknown(self) -> None:
        """Detach what a worker has mounted whose answer has reached no supervisor: nobody serves it from now on."""
        for point in mount_points():
            if os.path.dirname(point.path) == self._directory:
                log.warning("detaching %s, of which nobody knew", point.path)
                clear_place(point.path)
                with contextlib.suppress(OSError):
                    os.rmdir(point.path)
                    os.rmdir(self._directory)

    def _detach(self, mounted: Mounted, force: bool) -> None:
        if not force:
            self._refuse_if_used(mounted)
        try:
            self._server.unserve(mounted.ref, mounted.path, force)
        except WorkerGone:
            if not self._stopping:
                raise
        if self._stopping and mounted_at(mounted.path) is not None:
            # Who served it has just ended, and no successor is given it; everything answered is in the journal.
            clear_place(mounted.path)
        try:
            os.rmdir(mounted.path)
        except OSError as error:
            # With force it may still be mounted elsewhere in the namespace; an empty directory does no harm.
            log.info("left %s behind: %s", mounted.path, error.strerror)
        with contextlib.suppress(OSError):  # not empty: others are mounted
            os.rmdir(self._directory)

    def _refuse_if_used(self, mounted: Mounted) -> None:
        point = mounted_at(mounted.path)
        if point is None:
            return
        if places := other_places(point):
            raise Busy(f"{mounted.ref} is mounted at {', '.join(places)} too", hint="unmount it there, or --force")
        users = lasting_users_of(point, but=self._server.pids())
        if users:
            raise Busy(f"{mounted.ref} is in use by {named(users)}", hint="stop them, or --force to detach it")

    def _make_private(self, directory: str) -> None:
        """Make ``directory`` and its parent ours and 0700. Raises Invalid when another user has put them there."""
        for each in (os.path.dirname(directory), directory):
            os.makedirs(each, mode=0o700, exist_ok=True)
            found = os.lstat(each)
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
                raise Invalid(f"{each} belongs to another user", hint="remove it, or move it away")
            if stat.S_IMODE(found.st_mode) != 0o700:
                os.chmod(each, 0o700)

    def _save(self) -> None:
        """Keep what should be mounted. On a full disk it is lost at most: mounting and unmounting work all the same."""
        new = self._state_path + ".new"
        try:
            with open(new, "w", encoding="utf-8") as file:
                json.dump({"mounts": sorted(self._wanted), "unmounted": self._unmounted}, file)
                file.flush()
                os.fdatasync(file.fileno())
            os.replace(new, self._state_path)
        except OSError as error:
            log.error("the next start will not know what is mounted: %s", error)

    def _load(self) -> tuple[set[str], dict[str, str]]:
        """References of what should be mounted, and digests of unmount requests by their keys, oldest first."""
        try:
            with open(self._state_path, encoding="utf-8") as file:
                value = json.load(file)
            refs, keys = value["mounts"], value.get("unmounted", {})
            if not isinstance(refs, list) or not all(isinstance(ref, str) for ref in refs):
                raise ValueError("not a list of references")
            if not isinstance(keys, dict) or not all(isinstance(digest, str) for digest in keys.values()):
                raise ValueError("not a table of keys")
        except FileNotFoundError:
            return set(), {}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            # Only a convenience is lost: everything can be mounted again by hand.
            log.error("ignoring %s: %s", self._state_path, error)
            return set(), {}
        return set(refs), keys


def clear_place(path: str) -> None:
    """Make the directory ``path``, and detach what a killed daemon left mounted there, which nobody serves any more.

    Its connection is aborted: a worker that was killed while it opened its own mount waits for itself, descriptors and
    all, and would do so for ever.
    """
    while (point := mounted_at(path)) is not None:
        major, _, minor = point.device.partition(":")
        if major == "0":  # a connection has the number of its device, and no filesystem on a disk has major 0
            with contextlib.suppress(OSError, CowfsError):
                abort(int(minor))
        unmount(path, force=True)
    os.makedirs(path, mode=0o700, exist_ok=True)
