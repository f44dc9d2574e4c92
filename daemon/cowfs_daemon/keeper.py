"""The keeper: starts the supervisor, starts another when it dies or hangs, and holds the mounts' descriptors meanwhile.

A FUSE connection lives as long as any process has its descriptor open. The keeper has a copy of each, and does so
little that it does not fail: while supervisor and worker are replaced, programs in a workspace wait, and go on.

One thread, standard library only; it listens to ``cowfs_daemon.packets``.
"""

import contextlib
import ctypes
import fcntl
import os
import select
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from cowfs.blocks.suspect import Deaths
from cowfs.client.place import KEEPER_LOCK_NAME, daemon_dir, is_store
from cowfs.errors import Busy, CowfsError, NotFound
from cowfs_daemon import lingering, succession
from cowfs_daemon.activity import Limits, Silence
from cowfs_daemon.packets import PROTOCOL, receive
from cowfs_daemon.reindexing import EXIT_REINDEX
from cowfs_daemon.start import Ready, answers
from cowfs_daemon.storing import FdStore, handed_in, manager_address
from cowfs_daemon.succession import Legacy
from cowfs_daemon.surroundings import KEEPER_OOM, set_oom_score
from cowfs_daemon.table import Table

OTHER_KEEPER_SECONDS = 30.0
CHILDREN_SECONDS = 15.0
"""How long a dead supervisor's workers and settler have for ending by themselves."""

FAST_SECONDS, PAUSE_MAX_SECONDS = 10.0, 5.0
"""A supervisor that ended within the first of its start has its successor wait: longer each time, up to the second."""

ANSWERED_PAUSE_MAX_SECONDS = 0.5
"""The same when it had answered before it ended: verbs wait for the next one."""

STARTS_MAX = 20
"""So many supervisors in a row may end before they ever answered; then the keeper gives up."""

RESTART_CODE = 76
"""With which a supervisor ends that wants to be replaced by the installed code, mounts kept."""

BEAT_SECONDS, LIMITS = 5.0, Limits(idle_beats=12, busy_beats=60)
"""A supervisor that says nothing for a minute (five, when it is at work) hangs."""

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent(number: int) -> None:
    """Get the signal ``number`` when the parent process ends."""
    parent = os.getppid()
    _libc.prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


class Options(NamedTuple):
    """How a keeper was started. ``as_json``: how failures are said when nobody waits; ``workers``: how many at most."""

    store: str
    as_json: bool = False
    workers: int | None = None


class Keeper:
    """``run`` is the whole life. ``lock``: the descriptor that makes this the keeper."""

    def __init__(
        self, options: Options, ready: Ready, lock: int, notify: str = "", legacy: Legacy | None = None
    ) -> None:
        self._options = options
        self._ready = ready
        self._lock = lock
        self._notify = notify
        self._table = Table(FdStore(notify) if notify else None, self._renew)
        self._renewing = False
        self._supervisor = 0
        self._stopping = False
        if legacy is None:
            self._sock, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        else:
            self._sock, self._theirs = (socket.socket(fileno=fd) for fd in (legacy.ours, legacy.theirs))
            self._supervisor = legacy.supervisor
            self._table.answered = legacy.answered
            for key, fields, fd in legacy.kept:
                self._table.adopt(key, fields, fd)
        self._wake, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._on_term)
        # The supervisor gets a terminal's Ctrl-C, too, and stops.
        signal.signal(signal.SIGINT, lambda *_: None)
        succession.unblock_signals()
        self._poll = select.poll()
        self._poll.register(self._sock, select.POLLIN)
        self._poll.register(self._wake, select.POLLIN)

    def adopt(self, key: str, fields: Any, descriptor: int) -> None:
        """Keep a mount that a service manager kept."""
        self._table.adopt(key, fields, descriptor)

    def _on_term(self, *_: object) -> None:
        self._stopping = True
        if self._supervisor:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(self._supervisor, signal.SIGTERM)

    def run(self) -> int:
        """Keep a supervisor running until one ends in good order; the exit code."""
        _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
        set_oom_score(KEEPER_OOM)
        fast = silent = 0
        deaths = Deaths(Path(self._options.store) / "index")
        served = self._table.answered
        while True:
            began = time.monotonic()
            if not self._supervisor:
                self._table.answered = self._table.ending = False
                self._start()
            code = os.waitstatus_to_exitcode(self._serve())
            ended, self._supervisor = self._supervisor, 0
            self._end_children()
            answered = self._table.answered
            served = served or answered
            if code == RESTART_CODE and answered and not self._stopping:
                fast = silent = 0
                continue
            deaths.died("supervisor", code)
            index_damaged = code in (EXIT_REINDEX, -signal.SIGBUS)
            if not index_damaged:
                self._ready.close()
            if code == 0 or self._stopping or self._table.ending or not (served or index_damaged):
                return max(code, 1) if code else 0
            print(f"keeper: supervisor {ended} ended with {code}", file=sys.stderr, flush=True)
            fast = fast + 1 if time.monotonic() - began < FAST_SECONDS else 0
            silent = 0 if answered else silent + 1
            if silent >= STARTS_MAX:
                print(f"keeper: {silent} of them in a row never answered: giving up", file=sys.stderr, flush=True)
                return 1
            longest = ANSWERED_PAUSE_MAX_SECONDS if answered else PAUSE_MAX_SECONDS
            time.sleep(min(0.05 * 2 ** (fast - 1), longest) if fast > 1 else 0)
            if self._stopping:
                return 0

    def _start(self) -> None:
        """Start a supervisor."""
        words = [sys.executable, "-P", "-m", "cowfs_daemon", "supervise", "--store", self._options.store]
        words += ["--keeper-fd", str(self._theirs.fileno()), "--keeper-protocol", str(PROTOCOL)]
        words += ["--json"] if self._options.as_json else []
        words += ["--fd-stored"] if self._notify else []
        if self._options.workers is not None:
            words += ["--workers", str(self._options.workers)]
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

    def _serve(self) -> int:
        """Serve the supervisor until it ends, or hangs and is killed; its wait status."""
        silence = Silence(self._supervisor, BEAT_SECONDS, LIMITS)
        beats = self._table.beats
        next_beat = time.monotonic() + BEAT_SECONDS
        ended = self._reap()
        while ended is None:
            self._handle(max(int((next_beat - time.monotonic()) * 1000), 0) + 1)
            ended = self._reap()
            if self._renewing and ended is None:
                self._go_on_as_installed()
            if time.monotonic() < next_beat or ended is not None:
                continue
            next_beat = time.monotonic() + BEAT_SECONDS
            if self._table.beats != beats:
                beats = self._table.beats
                silence.progress()
            elif silence.missed():
                print(f"keeper: supervisor {self._supervisor} hangs: killing it", file=sys.stderr, flush=True)
                os.kill(self._supervisor, signal.SIGKILL)
                silence.progress()
        return ended

    def _handle(self, wait_ms: int) -> None:
        """Do what packets say, those that are there or the first to come."""
        for fd, _ in self._poll.poll(wait_ms):
            if fd == self._wake:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake, 4096)
            else:
                self._table.handle(*receive(self._sock))
                if self._table.answered:
                    self._ready.close()

    def _renew(self) -> dict[str, Any]:
        """Whether this process can go on as the installed code, which it does once that is answered."""
        try:
            found = succession.check_installed()
        except CowfsError as error:
            return {"error": error.message, "hint": error.hint}
        self._renewing = True
        return {"pid": os.getpid(), "version": found.get("version")}

    def _go_on_as_installed(self) -> None:
        self._renewing = False
        kept = [(key, fields, fd) for key, (fields, fd) in self._table.kept.items()]
        legacy = Legacy(
            PROTOCOL, self._options.store, self._lock, self._sock.fileno(), self._theirs.fileno(), self._supervisor,
            self._options.workers, self._options.as_json, self._table.answered, self._notify, kept,
        )  # fmt: skip
        try:
            succession.become_installed(legacy)
        except OSError as error:
            print(f"keeper: cannot go on as the installed code: {error}", file=sys.stderr, flush=True)

    def _reap(self) -> int | None:
        """Reap every child that has ended; the supervisor's wait status if it is among them."""
        ended = None
        with contextlib.suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                if found[0] == self._supervisor:
                    ended = found[1]
        return ended

    def _end_children(self) -> None:
        """Return when nothing of the last supervisor can write any more: journals have one writer at a time.

        The worker ends by itself when its supervisor does; what does not is killed.
        """
        until = time.monotonic() + CHILDREN_SECONDS
        while True:
            self._reap()
            children = _children()
            if all(lingering.harmless(pid) for pid in children):
                return
            if time.monotonic() > until:
                for pid in children:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            self._handle(200)


def _children() -> list[int]:
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return [int(pid) for pid in file.read().split()]


def lock(store: str, wait: bool) -> int | None:
    """Become the keeper of ``store``: a descriptor to hold. None when ``wait`` and another one's daemon answers.

    Raises Busy, naming the other keeper, when it does not answer within 30 s, or at once without ``wait``.
    """
    directory = daemon_dir(store)
    os.makedirs(directory, mode=0o700, exist_ok=True)
    fd = os.open(os.path.join(directory, KEEPER_LOCK_NAME), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
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
                if wait:
                    message = f"the daemon of {store} does not answer: keeper {owner} is starting it again"
                    raise Busy(message, hint="try again; `cowfs daemon log` says why") from None
                raise Busy(f"{store} has a daemon already: keeper {owner}", hint="cowfs daemon stop") from None
            time.sleep(0.05)
            continue
        os.ftruncate(fd, 0)
        os.pwrite(fd, str(os.getpid()).encode(), 0)
        return fd


def keep(options: Options, ready: Ready, *, background: bool) -> int:
    """Be the keeper of a store; the exit code."""
    store = options.store
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
        notify = manager_address(os.environ)
        keeper = Keeper(options, ready, held, notify)
        for key, fields, descriptor in handed_in(os.environ):
            keeper.adopt(key, fields, descriptor)
        return keeper.run()
    finally:
        os.close(held)


def resume(memory: int) -> int:
    """Go on as the keeper that this process was before it executed the installed code; the exit code."""
    legacy = succession.take_legacy(memory)
    options = Options(legacy.store, legacy.as_json, legacy.workers)
    keeper = Keeper(options, Ready(None), legacy.lock, legacy.notify, legacy)
    print(f"keeper: goes on as the installed code, keeping {len(legacy.kept)} mounts", file=sys.stderr, flush=True)
    try:
        return keeper.run()
    finally:
        os.close(legacy.lock)
