"""Start the daemon of a store, detached, and wait until it answers. Loaded only when there is none.

The daemon says on a pipe when it is ready or why it is not, so nothing polls. A lock in the store makes two racing
starters one: the second finds the socket answering once it gets the lock.
"""

import contextlib
import fcntl
import importlib.util
import json
import os
import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

from cowfs.client.place import KEEPER_LOCK_NAME, LOG_NAME, START_LOCK_NAME, connect_socket, daemon_dir, is_store
from cowfs.client.wire import error_from
from cowfs.errors import Busy, CowfsError, Invalid, NotFound

_KEPT = (
    *("HOME", "LANG", "LC_ALL", "PATH", "TZ", "XDG_RUNTIME_DIR"),
    *("COWFS_CACHE_BYTES", "COWFS_LOG_FORMAT", "COWFS_RUNTIME_DIR"),
)
_LOG_TAIL_BYTES = 2000


def daemon_command(*arguments: str) -> list[str]:
    """The command line of a ``cowfs_daemon`` subcommand, run by this interpreter."""
    return [sys.executable, "-P", "-m", "cowfs_daemon", *arguments]


def daemon_environment() -> dict[str, str]:
    """A clean environment in which the interpreter finds the same packages as this one.

    Raises Invalid when the daemon is not installed.
    """
    ours, spec = importlib.util.find_spec("cowfs"), importlib.util.find_spec("cowfs_daemon")
    if ours is None or not ours.submodule_search_locations or spec is None or not spec.submodule_search_locations:
        raise Invalid("the daemon is not installed here", hint="pip install 'cowfs[daemon]'")
    packages = (*ours.submodule_search_locations, *spec.submodule_search_locations)
    roots = [os.path.dirname(os.path.abspath(path)) for path in packages]
    environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
    environment["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(roots))
    return environment


def start_daemon(store: str, workers: int | None = None) -> int:
    """Start the daemon of ``store`` unless one answers; return its pid (0: it was there already).

    ``workers``: how many processes may serve files; one per CPU by default.
    Raises NotFound when there is no store, and what made the start fail otherwise.
    """
    environment = daemon_environment()
    with start_lock(store):
        if _answers(store):
            return 0
        return _spawn(store, environment, workers)


@contextlib.contextmanager
def start_lock(store: str) -> Iterator[None]:
    """No client starts the daemon of ``store`` within; waits for one that does. Raises NotFound, Invalid."""
    if not is_store(store):
        raise NotFound(f"no store at {store}", hint=f"cowfs init --store {store}")
    try:
        lock = _open_lock(store, START_LOCK_NAME)
    except OSError as error:
        raise Invalid(f"cannot start or stop a daemon for {store}: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


@contextlib.contextmanager
def no_keeper(store: str) -> Iterator[None]:
    """``store`` has no daemon, whoever starts it, within. Raises Busy when it has one."""
    lock = _open_lock(store, KEEPER_LOCK_NAME)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy(f"{store} has a daemon that does not answer, or has just got one", hint="try again") from None
        yield
    finally:
        os.close(lock)


def _open_lock(store: str, name: str) -> int:
    os.makedirs(daemon_dir(store), mode=0o700, exist_ok=True)
    return os.open(os.path.join(daemon_dir(store), name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _answers(store: str) -> bool:
    with contextlib.suppress(OSError):
        connect_socket(store).close()
        return True
    return False


def _spawn(store: str, environment: dict[str, str], workers: int | None) -> int:
    ready, tell = os.pipe2(os.O_CLOEXEC)
    words = daemon_command("run", "--store", store, "--detach", "--ready-fd", str(tell))
    try:
        child = subprocess.Popen(
            words if workers is None else [*words, "--workers", str(workers)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd="/",
            env=environment,
            start_new_session=True,
            pass_fds=(tell,),
        )
    finally:
        os.close(tell)
    with open(ready, "rb") as pipe:
        said = pipe.read()
    # The child only forks the daemon and ends; its standard error is for what happens before the fork.
    early = child.communicate()[1].decode(errors="replace").strip()
    if not said:
        tail = early.splitlines()[-1:] or _log_tail(store)
        raise CowfsError(
            "the daemon ended while it started" + (f": {tail[0]}" if tail else ""),
            hint=f"see {os.path.join(daemon_dir(store), LOG_NAME)}",
        )
    message = json.loads(said)
    if "error" in message:
        raise error_from(500, said)
    return int(message["pid"])


def _log_tail(store: str) -> list[str]:
    try:
        with open(os.path.join(daemon_dir(store), LOG_NAME), "rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - _LOG_TAIL_BYTES))
            return log.read().decode(errors="replace").splitlines()[-1:]
    except OSError:
        return []


def run_tool(*arguments: str) -> dict[str, Any]:
    """Run a ``cowfs_daemon`` subcommand that needs no daemon (init, fsck) to its end; the JSON object it prints.

    Raises the error it reports.
    """
    done = subprocess.run(
        daemon_command(*arguments), capture_output=True, stdin=subprocess.DEVNULL, env=daemon_environment(), cwd="/"
    )
    try:
        said = json.loads(done.stdout)
    except ValueError:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise CowfsError(f"`cowfs_daemon {arguments[0]}` failed" + (f": {last[0]}" if last else "")) from None
    if "error" in said:
        raise error_from(500, done.stdout)
    result: dict[str, Any] = said
    return result


def wait_stopped(pid: int, stop: Callable[[], object]) -> None:
    """Call ``stop`` and return when the process ``pid`` has ended."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        stop()
        select.select([process], [], [])
    finally:
        os.close(process)
