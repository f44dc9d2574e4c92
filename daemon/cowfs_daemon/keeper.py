"""The keeper: starts the supervisor, starts another when it dies, and holds the mounts' descriptors meanwhile.

A FUSE connection lives as long as any process has its descriptor open. The keeper has a copy of each, and does so
little that it does not fail: while supervisor and worker are replaced, programs in a workspace wait, and go on.

One thread, standard library only. Packets on a SOCK_SEQPACKET pair, whose other end is inherited by every supervisor
and worker: a JSON object of at most 8 KiB, and at most one descriptor. Answers go to a socket that comes with the
question, since many share the pair.

    {"op": "keep", "key", "fields"} + fd    remember a mount; ``fields`` is the worker's business
    {"op": "drop", "key"}                   forget it
    {"op": "get", "key"} + socket           answered by {"key", "fields"} + fd, or {"end": true} when it is unknown
    {"op": "list"} + socket                 answered by {"key"} for each, then {"end": true}
    {"op": "ready"}                         the supervisor answers requests
"""

import array
import contextlib
import ctypes
import fcntl
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cowfs.blocks.suspect import Deaths
from cowfs.client.place import daemon_dir, is_store
from cowfs.errors import Busy, CowfsError, NotFound
from cowfs_daemon.reindexing import EXIT_REINDEX
from cowfs_daemon.start import Ready, answers

PACKET_BYTES = 8192
ANSWER_SECONDS = 2.0
LOCK_NAME = "keeper.lock"
OTHER_KEEPER_SECONDS = 30.0
CHILDREN_SECONDS = 15.0
"""How long a dead supervisor's workers and settler have for ending by themselves."""

FAST_SECONDS, PAUSE_MAX_SECONDS = 10.0, 5.0
"""A supervisor that ended within the first of its start has its successor wait: longer each time, up to the second."""

STARTS_MAX = 20
"""So many supervisors in a row may end before they ever answered; then the keeper gives up."""

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_libc = ctypes.CDLL(None, use_errno=True)


def send(sock: socket.socket, message: dict[str, Any], descriptor: int | None = None) -> None:
    """Send one packet. Raises OSError when the other end is gone."""
    rights = [] if descriptor is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))]
    sock.sendmsg([json.dumps(message).encode()], rights)


def receive(sock: socket.socket) -> tuple[dict[str, Any] | None, int | None]:
    """(message, descriptor) of one packet; (None, None) when the other end is gone or speaks nonsense."""
    data, rights, _, _ = sock.recvmsg(PACKET_BYTES, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
    descriptors = array.array("i")
    for level, kind, payload in rights:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(payload[: len(payload) // 4 * 4])
    descriptor = descriptors[0] if descriptors else None
    try:
        message = json.loads(data)
        if isinstance(message, dict):
            return message, descriptor
    except ValueError:
        pass
    if descriptor is not None:
        os.close(descriptor)
    return None, None


@contextlib.contextmanager
def _answering(descriptor: int) -> Iterator[socket.socket]:
    """The socket to answer on. Who does not listen loses the answer; the keeper waits for nobody."""
    with socket.socket(fileno=descriptor) as sock, contextlib.suppress(OSError):
        sock.settimeout(ANSWER_SECONDS)
        yield sock


def die_with_parent(number: int) -> None:
    """Get the signal ``number`` when the parent process ends."""
    parent = os.getppid()
    _libc.prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


class Table:
    """The mounts that are kept: key -> (fields, descriptor). ``answered``: a supervisor has said that it is ready."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[Any, int]] = {}
        self.answered = False

    def handle(self, message: dict[str, Any] | None, descriptor: int | None) -> None:
        """Do what a packet says."""
        match message:
            case {"op": "keep", "key": str(key), "fields": fields} if descriptor is not None:
                self._drop(key)
                self._kept[key] = (fields, descriptor)
                return
            case {"op": "drop", "key": str(key)}:
                self._drop(key)
            case {"op": "get", "key": str(key)} if descriptor is not None:
                with _answering(descriptor) as sock:
                    known = self._kept.get(key)
                    if known is None:
                        send(sock, {"end": True})
                    else:
                        send(sock, {"key": key, "fields": known[0]}, known[1])
                return
            case {"op": "list"} if descriptor is not None:
                with _answering(descriptor) as sock:
                    for key in self._kept:
                        send(sock, {"key": key})
                    send(sock, {"end": True})
                return
            case {"op": "ready"}:
                self.answered = True
        if descriptor is not None:
            os.close(descriptor)

    def _drop(self, key: str) -> None:
        known = self._kept.pop(key, None)
        if known is not None:
            os.close(known[1])


class Keeper:
    """``run`` is the whole life."""

    def __init__(self, store: str, ready: Ready, as_json: bool, workers: int | None) -> None:
        self._store = store
        self._workers = workers
        self._as_json = as_json
        self._ready = ready
        self._table = Table()
        self._supervisor = 0
        self._stopping = False
        self._sock, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._wake, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._on_term)
        # The supervisor gets a terminal's Ctrl-C, too, and stops.
        signal.signal(signal.SIGINT, lambda *_: None)
        self._poll = select.poll()
        self._poll.register(self._sock, select.POLLIN)
        self._poll.register(self._wake, select.POLLIN)

    def _on_term(self, *_: object) -> None:
        self._stopping = True
        if self._supervisor:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(self._supervisor, signal.SIGTERM)

    def run(self) -> int:
        """Keep a supervisor running until one ends in good order; the exit code."""
        _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            file.write("-900")
        fast = silent = 0
        deaths = Deaths(Path(self._store) / "index")
        served = False
        while True:
            began = time.monotonic()
            self._table.answered = False
            status = self._supervise()
            code = os.waitstatus_to_exitcode(status)
            self._end_children()
            answered = self._table.answered
            served = served or answered
            deaths.died("supervisor", code)
            index_damaged = code in (EXIT_REINDEX, -signal.SIGBUS)
            if not index_damaged:
                self._ready.close()
            if code == 0 or self._stopping or not (served or index_damaged):
                return max(code, 1) if code else 0
            print(f"keeper: supervisor {self._supervisor} ended with {code}", file=sys.stderr, flush=True)
            fast = fast + 1 if time.monotonic() - began < FAST_SECONDS else 0
            silent = 0 if answered else silent + 1
            if silent >= STARTS_MAX:
                print(f"keeper: {silent} of them in a row never answered: giving up", file=sys.stderr, flush=True)
                return 1
            time.sleep(min(0.05 * 2 ** (fast - 1), PAUSE_MAX_SECONDS) if fast > 1 else 0)
            if self._stopping:
                return 0

    def _supervise(self) -> int:
        """Start a supervisor and serve it until it ends; its wait status."""
        words = [sys.executable, "-P", "-m", "cowfs_daemon", "supervise", "--store", self._store]
        words += ["--keeper-fd", str(self._theirs.fileno()), *(["--json"] if self._as_json else [])]
        if self._workers is not None:
            words += ["--workers", str(self._workers)]
        inherited = [self._theirs.fileno()]
        if self._ready.fd is not None:
            words += ["--ready-fd", str(self._ready.fd)]
            inherited.append(self._ready.fd)
        for fd in inherited:
            os.set_inheritable(fd, True)
        defaults = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
        self._supervisor = os.posix_spawn(sys.executable, words, os.environ, setsigdef=defaults)
        for fd in inherited:
            os.set_inheritable(fd, False)
        if self._stopping:
            os.kill(self._supervisor, signal.SIGTERM)
        while True:
            for fd, _ in self._poll.poll():
                if fd == self._wake:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._wake, 4096)
                else:
                    self._table.handle(*receive(self._sock))
                    if self._table.answered:
                        self._ready.close()
            ended = self._reap()
            if ended is not None:
                return ended

    def _reap(self) -> int | None:
        """Reap every child that has ended; the supervisor's wait status if it is among them."""
        ended = None
        with contextlib.suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                if found[0] == self._supervisor:
                    ended = found[1]
        return ended

    def _end_children(self) -> None:
        """Return when nothing of the last supervisor runs any more: journals have one writer at a time.

        The worker ends by itself when its supervisor does; what does not is killed.
        """
        until = time.monotonic() + CHILDREN_SECONDS
        while True:
            self._reap()
            children = _children()
            if not children:
                return
            if time.monotonic() > until:
                for pid in children:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            for fd, _ in self._poll.poll(200):
                if fd == self._wake:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._wake, 4096)
                else:
                    self._table.handle(*receive(self._sock))


def _children() -> list[int]:
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return [int(pid) for pid in file.read().split()]


def lock(store: str, wait: bool) -> int | None:
    """Become the keeper of ``store``: a descriptor to hold. None when ``wait`` and another one's daemon answers.

    Raises Busy, naming the other keeper, when it does not answer within 30 s, or at once without ``wait``.
    """
    directory = daemon_dir(store)
    os.makedirs(directory, mode=0o700, exist_ok=True)
    fd = os.open(os.path.join(directory, LOCK_NAME), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    until = time.monotonic() + (OTHER_KEEPER_SECONDS if wait else 0)
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if wait and answers(store):
                os.close(fd)
                return None
            if time.monotonic() > until:
                owner = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "another process"
                os.close(fd)
                raise Busy(f"{store} has a daemon already: keeper {owner}", hint="cowfs daemon stop") from None
            time.sleep(0.05)
            continue
        os.ftruncate(fd, 0)
        os.pwrite(fd, str(os.getpid()).encode(), 0)
        return fd


def keep(store: str, ready: Ready, *, background: bool, as_json: bool = False, workers: int | None = None) -> int:
    """Be the keeper of ``store``; the exit code. ``as_json``: how failures are said when nobody waits for ``ready``.

    ``workers``: how many there may be; one per CPU by default.
    """
    if not is_store(store):
        raise NotFound(f"no store at {store}", hint=f"cowfs init --store {store}")
    try:
        held = lock(store, wait=background)
        if held is None:
            ready.tell({"pid": 0})
            return 0
    except OSError as error:
        raise CowfsError(f"cannot keep {store}: {error}") from error
    try:
        return Keeper(store, ready, as_json, workers).run()
    finally:
        os.close(held)
