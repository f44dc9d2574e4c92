"""``cowfs daemon uninstall``."""

import contextlib
import os

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
    from cowfs.client.launch import no_keeper, start_lock
    from cowfs.client.place import daemon_dir, is_store

    store = session.path()
    if not is_store(store):
        raise NotFound(f"no store at {store}")
    left = [f"the store, {store}, with its log, its locks and its list of mounts in {daemon_dir(store)}"]
    with start_lock(store):  # any other command would start the daemon again as soon as it has stopped
        removed = _stop(session, force)
        with no_keeper(store):  # `cowfs daemon run` takes no start lock
            removed += _remove_socket(store)
            directory = _runtime_dir(store)
            if directory is not None and os.path.isdir(directory):
                _remove_places(directory, removed, left)
    left += [f"the unit {unit}: systemctl disable it, then remove it" for unit in _units(store)]
    session.out(
        {"removed": removed, "left": left},
        lambda: [*(f"removed  {each}" for each in removed), *(f"left     {each}" for each in left)],
    )


def _stop(session: Session, force: bool) -> list[str]:
    """End the daemon, if there is one, with its keeper; what that was."""
    from cowfs.client.launch import wait_stopped

    try:
        wire = session.wire(start=False)
        found = wire.call("GET", "/v1/daemon")
        keeper = found["keeper"] or found["supervisor"]
        wait_stopped(keeper["pid"], lambda: wire.call("POST", "/v1/daemon/stop", {"force": force}))
    except NotFound:
        return []
    return [f"daemon, pid {found['supervisor']['pid']}"]


def _remove_socket(store: str) -> list[str]:
    """What a daemon that was killed has left. Locks stay: one that is unlinked locks out nobody, and whoever waits for
    it, or holds it (a worker without its daemon), would go on beside who makes it anew."""
    from cowfs.client.place import SOCKET_NAME, daemon_dir

    path = os.path.join(daemon_dir(store), SOCKET_NAME)
    try:
        os.unlink(path)
    except FileNotFoundError:
        return []
    return [path]


def _runtime_dir(store: str) -> str | None:
    """Where this store's mounts are made."""
    with open(os.path.join(store, "superblock"), "rb") as file:
        store_id = file.read(32)[16:32].hex()
    base = "/run" if os.geteuid() == 0 else os.environ.get("XDG_RUNTIME_DIR")
    return None if not base or len(store_id) != 32 else os.path.join(base, "cowfs", store_id)


def _remove_places(directory: str, removed: list[str], left: list[str]) -> None:
    """The places of mounts, empty ones alone: the files in any other are a workspace's. Raises CowfsError when
    something is mounted."""
    with open("/proc/self/mountinfo") as lines:
        mounted = [path for line in lines if (path := line.split()[4]).startswith(directory + "/")]
    if mounted:
        raise CowfsError(
            f"nobody serves what is mounted at {mounted[0]}", hint=f"umount -l {mounted[0]}, then try again"
        )
    for name in os.listdir(directory):
        with contextlib.suppress(OSError):
            os.rmdir(os.path.join(directory, name))
    try:
        os.rmdir(directory)
        removed.append(directory)
        with contextlib.suppress(OSError):  # another store's lie there, too
            os.rmdir(os.path.dirname(directory))
            removed.append(os.path.dirname(directory))
    except OSError as error:
        left.append(f"{directory}, which is not only empty places of mounts: {error.strerror}")


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
