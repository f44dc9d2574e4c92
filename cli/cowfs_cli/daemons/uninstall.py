"""``cowfs daemon uninstall``."""

import contextlib
import os
import shutil

import click

from cowfs.errors import CowfsError, NotFound
from cowfs_cli.common import Session, options


@click.command("uninstall")
@click.option("--force", is_flag=True, help="Detach mounts that programs still use.")
@options
def command(session: Session, force: bool) -> None:
    """Unmount and stop everything, and remove what the daemon has made outside of the store. The store stays.

    Nothing is lost: any command that needs the daemon starts it again, and mounts what was mounted. While programs use
    a mount, it is busy (exit code 5) and nothing changes.

    \b
    Example:
      cowfs daemon uninstall --store /var/lib/cowfs && pip uninstall cowfs
    """
    from cowfs.client.launch import wait_stopped
    from cowfs.client.place import LOG_NAME, SOCKET_NAME, START_LOCK_NAME, daemon_dir, is_store

    store = session.path()
    if not is_store(store):
        raise NotFound(f"no store at {store}")
    removed: list[str] = []
    with contextlib.suppress(NotFound):
        wire = session.wire(start=False)
        found = wire.call("GET", "/v1/daemon")
        keeper = found["keeper"] or found["supervisor"]
        wait_stopped(keeper["pid"], lambda: wire.call("POST", "/v1/daemon/stop", {"force": force}))
        removed.append(f"daemon, pid {found['supervisor']['pid']}")
    directory = _runtime_dir(store)
    if directory is not None and os.path.isdir(directory):
        _refuse_mounted(directory)
        shutil.rmtree(directory)
        removed.append(directory)
        with contextlib.suppress(OSError):  # another store's lie there, too
            os.rmdir(os.path.dirname(directory))
            removed.append(os.path.dirname(directory))
    for name in (SOCKET_NAME, START_LOCK_NAME, "keeper.lock", "workers.lock", f"{LOG_NAME}.lock"):
        path = os.path.join(daemon_dir(store), name)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
            removed.append(path)
    left = [f"the store, {store}, with its log and its list of mounts in {daemon_dir(store)}"]
    left += [f"the unit {unit}: systemctl disable it, then remove it" for unit in _units(store)]
    session.out(
        {"removed": removed, "left": left},
        lambda: [*(f"removed  {each}" for each in removed), *(f"left     {each}" for each in left)],
    )


def _runtime_dir(store: str) -> str | None:
    """Where this store's mounts are made."""
    with open(os.path.join(store, "superblock"), "rb") as file:
        store_id = file.read(32)[16:32].hex()
    base = "/run" if os.geteuid() == 0 else os.environ.get("XDG_RUNTIME_DIR")
    return None if not base or len(store_id) != 32 else os.path.join(base, "cowfs", store_id)


def _refuse_mounted(directory: str) -> None:
    """What is mounted must not be removed with its mount point."""
    with open("/proc/self/mountinfo") as lines:
        mounted = [path for line in lines if (path := line.split()[4]).startswith(directory + "/")]
    if mounted:
        raise CowfsError(
            f"nobody serves what is mounted at {mounted[0]}", hint=f"umount -l {mounted[0]}, then try again"
        )


def _units(store: str) -> list[str]:
    found = []
    for directory in ("/etc/systemd/system", os.path.expanduser("~/.config/systemd/user")):
        with contextlib.suppress(OSError):
            for name in sorted(os.listdir(directory)):
                path = os.path.join(directory, name)
                with contextlib.suppress(OSError, UnicodeDecodeError), open(path) as file:
                    if name.endswith(".service") and "daemon run --store" in (text := file.read()) and store in text:
                        found.append(path)
    return found
