"""``cowfs doctor``."""

import os
import platform
import shutil
from collections.abc import Iterator
from typing import Any

import click

from cowfs.errors import CowfsError
from cowfs_cli import examine
from cowfs_cli.common import Session, options, plural, size

Finding = dict[str, Any]
_MIN_KERNEL = (5, 15)
_MIN_FREE_BYTES = 512 << 20


@click.command()
@click.option("--fix", is_flag=True, help="Abort and detach mounts of this store that nobody serves.")
@options
def command(session: Session, fix: bool) -> None:
    """Look whether this machine and this store can work, and say what to do where they cannot.

    Changes nothing without --fix. With it, connections of this store whose server is gone are aborted, so that
    programs that wait for it get an error, and their mounts are taken away; it says which.

    \b
    Example:
      cowfs doctor
    """
    found = [*_machine(), *_store(session), *_connections(session, fix)]
    session.out(found, lambda: _lines(found))
    failed = sum(not each["ok"] for each in found)
    if failed:
        raise CowfsError(f"doctor found {plural(failed, 'problem')}")


def _lines(found: list[Finding]) -> Iterator[str]:
    for each in found:
        hint = f" ({each['hint']})" if each["hint"] and not each["ok"] else ""
        yield f"{'ok  ' if each['ok'] else 'BAD '} {each['check']}: {each['detail']}{hint}"


def _finding(check: str, ok: bool, detail: str, hint: str) -> Finding:
    return {"check": check, "ok": ok, "detail": detail, "hint": hint}


def _machine() -> Iterator[Finding]:
    release = platform.release()
    numbers = tuple(int(part) for part in release.split("-")[0].split(".")[:2] if part.isdigit())
    yield _finding("kernel", numbers >= _MIN_KERNEL, f"Linux {release}", "cowfs needs Linux 5.15 or newer")
    usable = os.access("/dev/fuse", os.R_OK | os.W_OK)
    there = os.path.exists("/dev/fuse")
    detail = "usable" if usable else "this user may not open it" if there else "missing"
    hint = "let users open it, as udev does: chmod 666 /dev/fuse" if there else "load the module: modprobe fuse"
    yield _finding("/dev/fuse", usable, detail, hint)
    mounter = os.geteuid() == 0 or shutil.which("fusermount3") is not None
    how = "root" if os.geteuid() == 0 else shutil.which("fusermount3") or "neither root nor fusermount3"
    yield _finding("mounting", mounter, how, "run as root, or install fuse3")
    runtime = "/run" if os.geteuid() == 0 else os.environ.get("XDG_RUNTIME_DIR", "")
    writable = bool(runtime) and os.access(runtime, os.W_OK)
    yield _finding("mount directory", writable, runtime or "XDG_RUNTIME_DIR is not set", "set XDG_RUNTIME_DIR")
    yield from examine.machine()


def _connections(session: Session, fix: bool) -> Iterator[Finding]:
    """The mounts of the store: each is asked for an answer."""
    try:
        path = session.path()
        if not os.path.isfile(os.path.join(path, "superblock")):
            return
        from cowfs.client.launch import run_tool

        told = run_tool("connections", "--store", path, *(["--fix"] if fix else []))
    except CowfsError as error:
        yield _finding("connections", False, error.message, error.hint)
        return
    for each in told["connections"]:
        waiting = f", {plural(each['waiting'], 'request')} waiting" if each["waiting"] else ""
        detail = f"{each['path']} (connection {each['number']}) is {each['state']}{waiting}"
        done = f": {each['done']}" if each["done"] else ""
        hint = "cowfs doctor --fix aborts and detaches it; the next command mounts it again"
        yield _finding("connection", each["state"] == "served" or "detached" in each["done"], detail + done, hint)


def _store(session: Session) -> Iterator[Finding]:
    try:
        path = session.path()
    except CowfsError as error:
        yield _finding("store", False, error.message, error.hint)
        return
    try:
        belongs = os.stat(path).st_uid
    except FileNotFoundError:
        yield _finding("store", False, f"nothing at {path}", f"cowfs init --store {path}")
        return
    except OSError as error:
        hint = "ask its owner, or run this as root; a store serves one user"
        yield _finding("store", False, f"{path} cannot be reached by user {os.geteuid()}: {error.strerror}", hint)
        return
    if not os.path.isdir(path) or not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        hint = "run this as that user or as root; or make a store of your own: cowfs init --store DIR"
        mine = f"{path} belongs to user {belongs}, and user {os.geteuid()} may not use it"
        yield _finding("store", False, mine if os.path.isdir(path) else f"{path} is no directory", hint)
        return
    yield _finding("store", True, path, "")
    yield from examine.store(path)
    free = shutil.disk_usage(path).free
    yield _finding("free space", free >= _MIN_FREE_BYTES, size(free), "free some space: changes need segments")
    try:
        status = session.wire(start=False).call("GET", "/v1/daemon")
        yield _finding("daemon", True, f"pid {status['supervisor']['pid']}", "")
        yield from examine.daemon(status)
    except CowfsError as error:
        # No daemon is fine: the next command starts it.
        yield _finding("daemon", error.code == "not_found", error.message, error.hint)
