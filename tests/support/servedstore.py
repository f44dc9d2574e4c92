"""A real engine behind the real API, served by a thread of this process on a real socket; only mounts are in memory."""

from __future__ import annotations

import itertools
import os
import stat
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import trio

from cowfs.client.store import Store, connect
from cowfs.engine import Engine
from cowfs.errors import Busy, NotFound
from cowfs.remembered import Request
from cowfs.view.inode import Caller, SetAttr
from cowfs_daemon.ports import Mounted, Parts
from cowfs_daemon.start import listen, unlisten
from cowfs_daemon.supervised import Supervised
from cowfs_daemon.supervisor import supervise


class MemoryMounts:
    """Mounts as the API sees them, with no kernel behind; ``busy`` makes every one of them in use."""

    def __init__(self) -> None:
        self.table: dict[str, Mounted] = {}
        self.busy = False
        self._unmounted: dict[str, bytes] = {}

    def mount(self, ref: str) -> Mounted:
        """Pretend to mount."""
        return self.table.setdefault(ref, Mounted(ref, f"/mounts/{ref}", "@" in ref))

    def was_unmounted(self, request: Request | None) -> bool:
        """Whether it was this request."""
        return request is not None and self._unmounted.get(request.key) == request.digest

    def umount(self, ref: str, force: bool = False, request: Request | None = None) -> None:
        """Pretend to unmount. Raises NotFound, Busy."""
        if self.busy and not force:
            raise Busy(f"{ref} is in use by 12 (bash)", hint="--force")
        if self.table.pop(ref, None) is None:
            raise NotFound(f"{ref} is not mounted")
        if request is not None:
            self._unmounted[request.key] = request.digest

    def umount_all(self, refs: Iterable[str], force: bool = False) -> None:
        """Pretend to unmount several. Raises Busy."""
        for ref in refs:
            with suppress(NotFound):
                self.umount(ref, force)

    def wanted(self) -> set[str]:
        """What should be mounted."""
        return set(self.table)

    def mounted(self) -> list[Mounted]:
        """What is."""
        return list(self.table.values())

    @contextmanager
    def unmounted(self, name: str) -> Iterator[None]:
        """See MountsLike."""
        if name in self.table:
            raise Busy(f"{name} is mounted", hint=f"cowfs umount {name}, then rename it")
        yield

    def path_of(self, name: str) -> str | None:
        """Where."""
        return self.table[name].path if name in self.table else None

    def detach_all(self, force: bool) -> None:
        """Everything."""
        for ref in list(self.table):
            self.umount(ref, force)


class ServedStore:
    """``engine`` and ``mounts`` are the objects behind the API; ids count up from 1."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "served"
        numbers = itertools.count(1)
        Engine.create_store(self.path, time.time_ns, os.urandom(16))
        self.engine = Engine.open(self.path, time.time_ns, lambda prefix: f"{prefix}-{next(numbers):016x}")
        self.mounts = MemoryMounts()
        self.thread = threading.Thread(target=self._run)
        self._ready = threading.Event()

    def _run(self) -> None:
        parts = Parts(
            engine=self.engine,
            mounts=self.mounts,
            details=lambda: {"keeper": None, "workers": [], "settlers": [], "queues": {}},
            detach_all=self.mounts.detach_all,
            unlisten=lambda: unlisten(str(self.path)),
            changed=lambda: None,
            supervised=Supervised(),
            outdated=lambda: False,
            scrub=lambda rate, progress: self.engine.scrubber.scrub(rate, lambda _: True, progress),
            samples=lambda: (),
        )
        with listen(str(self.path)) as sock:
            trio.run(supervise, sock, parts, self._ready.set, False)

    def start(self) -> None:
        """Return when it answers."""
        self.thread.start()
        assert self._ready.wait(20)

    def connect(self) -> Store:
        """A new client."""
        return connect(self.path, start=False)

    def stop(self) -> None:
        """Stop it unless that has happened, check the store, close it."""
        with suppress(NotFound), self.connect() as client:
            client.stop_daemon(force=True)
        self.thread.join(20)
        assert not self.thread.is_alive()
        try:
            self.engine.settle()
            assert [str(problem) for problem in self.engine.fsck()] == []
        finally:
            self.engine.close()

    def write(self, name: str, path: bytes, data: bytes | None) -> None:
        """Give a file of a workspace this content, making directories on the way; None removes it."""
        workspace = self.engine.host.workspace(self.engine.open_workspace(name))
        caller = Caller()
        *above, last = path.split(b"/")
        with workspace.lock:
            view, at = workspace.view, 1
            for part in above:
                at = (view.lookup(at, part) or view.mkdir(at, part, 0o755, caller)).ino
            found = view.lookup(at, last)
            if data is None:
                view.unlink(at, last, caller)
                return
            ino = (found or view.mknod(at, last, stat.S_IFREG | 0o644, 0, caller)).ino
            view.setattr(ino, SetAttr(size=0), caller)
            view.write(ino, 0, data, caller)

    def read(self, ref: str, path: bytes) -> bytes | None:
        """The content of a file; None when there is none."""
        try:
            return b"".join(self.engine.show(ref, path))
        except NotFound:
            return None
