"""Directories inside a workspace that something is mounted over: made without ever following a link.

What a workspace holds is not trusted: a link in it could lead anywhere on the host.
"""

import errno
import os
from collections.abc import Iterable

from cowfs.errors import Invalid

MODES = {"/tmp": 0o1777}
_OPEN = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def inside(path: str) -> str:
    """An absolute path in the sandbox, normalized. Raises Invalid for others, for ``/`` and for ``..``."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if not path.startswith("/") or not parts or ".." in parts or "\0" in path:
        raise Invalid(f"{path!r} is no absolute path of a directory below /", hint="such as /root/.cache")
    return "/" + "/".join(parts)


def make(root: str, paths: Iterable[str]) -> None:
    """Make the directories ``paths`` below the directory ``root``, where they are missing.

    Raises Invalid where a link or a file is in the way.
    """
    for path in paths:
        _make(root, path)


def _make(root: str, path: str) -> None:
    at = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        above = ""
        for part in path.strip("/").split("/"):
            above += "/" + part
            try:
                os.mkdir(part, 0o755, dir_fd=at)
                made = True
            except FileExistsError:
                made = False
            try:
                below = os.open(part, _OPEN, dir_fd=at)
            except OSError as error:
                if error.errno not in (errno.ELOOP, errno.ENOTDIR):
                    raise
                raise Invalid(
                    f"{above} is no directory in the workspace, so nothing can be mounted at {path}",
                    hint="Name the directory that the link leads to, or remove what is there.",
                ) from error
            os.close(at)
            at = below
            if made and above in MODES:
                os.chmod(f"/proc/self/fd/{at}", MODES[above])
    finally:
        os.close(at)
