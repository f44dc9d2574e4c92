"""``python -m tests.support.ordinary COMMAND...``: run a command as an ordinary user of this machine, from root.

What the command needs to read (this checkout, its environment, the interpreter) may lie below folders that only root
may enter. In a mount namespace of the command's own, such folders are covered by empty ones that hold only that.
"""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

USER = "games"
"""An account that every Debian has (base-passwd), without any rights. Not nobody: its number stands for no user."""

REPOSITORY = Path(__file__).parents[2]
_NEEDED = (REPOSITORY, Path(sys.prefix), Path(sys.base_prefix))


def _closed(path: Path) -> Path | None:
    """The topmost of the folders above ``path`` that others may not enter."""
    return next((each for each in reversed(path.parents) if not each.stat().st_mode & 0o001), None)


def _device() -> list[str]:
    """Shell commands that let everybody open /dev/fuse, as on every machine with udev."""
    if os.stat("/dev/fuse").st_mode & 0o006 == 0o006:
        return []
    # In a file system of its own: that of the stash may not know devices.
    return [
        'mount -t tmpfs -o mode=755 cowfs-test "$1"',
        'mknod -m 666 "$1/fuse" c 10 229',
        'mount --bind "$1/fuse" /dev/fuse',
    ]


def _script(needed: Iterable[Path], stash: Path) -> list[str]:
    """Shell commands that open the way to ``needed``."""
    lines: list[str] = []
    opened: dict[Path, list[tuple[Path, Path]]] = {}
    for number, path in enumerate(dict.fromkeys(needed)):
        closed = _closed(path)
        if closed is not None:
            kept = stash / str(number)
            lines += [f"mkdir '{kept}'", f"mount --bind '{path}' '{kept}'"]
            opened.setdefault(closed, []).append((path, kept))
    for closed, inside in opened.items():
        lines += [f"mount -t tmpfs -o mode=755 cowfs-test '{closed}'"]
        for path, kept in inside:
            lines += [f"mkdir -p '{path}'", f"mount --bind '{kept}' '{path}'"]
    return lines


def run(
    words: Sequence[str],
    timeout_s: float,
    *,
    files: Mapping[str, str] | None = None,
    prepare: Sequence[str] = (),
    **variables: str,
) -> subprocess.CompletedProcess[str]:
    """Run a command in this checkout; its home, store folder and mounts are below a new folder that goes afterwards.

    In its mount namespace, ``files`` (path of an existing file -> text) stand in for those of the machine, and
    ``prepare``, lines of shell, are run by root before.
    """
    who = pwd.getpwnam(USER)
    with tempfile.TemporaryDirectory(prefix="cowfs-ordinary-", dir="/tmp") as made:
        home, stash = Path(made, "home"), Path(made, "stash")
        os.chmod(made, 0o755)
        for folder in (home, home / "run"):
            folder.mkdir(mode=0o700)
            os.chown(folder, who.pw_uid, who.pw_gid)
        device = Path(made, "device")
        for folder in (stash, device):
            folder.mkdir()
        lines = ["set -e", *_script(_NEEDED, stash), *_device()]
        for number, (path, text) in enumerate((files or {}).items()):
            Path(made, f"file-{number}").write_text(text)
            lines.append(f"mount --bind '{made}/file-{number}' '{path}'")
        lines += [*prepare, f"cd '{REPOSITORY}'", "shift", '"$@"']
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "TMPDIR": str(home),
            "XDG_RUNTIME_DIR": str(home / "run"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": os.pathsep.join(str(REPOSITORY / each) for each in (".", "daemon", "cli", "guest")),
            **variables,
        }
        # Its mounts go with its namespace, and its processes with the first of a process namespace: the shell, which
        # reaps what loses its parent.
        become = ["setpriv", "--reuid", USER, "--regid", USER, "--clear-groups", "--inh-caps=-all", *words]
        outer = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private"]
        return subprocess.run(
            [*outer, "sh", "-c", "\n".join(lines), "sh", str(device), *become],
            env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s,
        )  # fmt: skip


def main() -> int:
    """See the module."""
    done = run(sys.argv[1:], 3600)
    sys.stdout.write(done.stdout)
    sys.stderr.write(done.stderr)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
