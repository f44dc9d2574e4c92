"""What a sandbox finds in /run/cowfs: the socket, the program that asks through it, and a page that says how."""

from __future__ import annotations

import importlib.util
import os
import zipfile
from pathlib import Path

from cowfs.errors import NotFound

INSIDE = "/run/cowfs"
SOCKET = "agent.sock"
PROGRAM = "cowfs-guest"
MANUAL = "llms.txt"

_TEXT = """\
# Undo for this machine

You work inside a sandbox whose files can be kept and brought back in milliseconds, everything included: what you
installed, deleted or broke. Nothing has to be stopped for it.

    /run/cowfs/cowfs-guest checkpoint -m "tests pass" --label good    # keep every file as it is now
    /run/cowfs/cowfs-guest restore @good                             # make every file what it was then
    /run/cowfs/cowfs-guest restore @latest                           # back to the newest checkpoint
    /run/cowfs/cowfs-guest log                                       # what there is, newest first
    /run/cowfs/cowfs-guest diff @good                                # what has changed since
    /run/cowfs/cowfs-guest fork idea-2 @good                         # another sandbox's files, from that state
    /run/cowfs/cowfs-guest ping                                      # which of these are allowed here

The same in Python, where it is 3.9 or newer (PYTHONPATH is set for it):

    from cowfs_guest import checkpoint, restore, diff
    checkpoint("before the upgrade", label="before")
    restore("@before")

- Make a checkpoint before whatever you may want to take back: it costs about as much as writing one small file.
- Give it a label when you mean to come back to it. Those without one are removed after newer ones (20 are kept).
- restore keeps the state before as a snapshot, too: it prints the id that takes the restore back.
- Files are restored, memory is not: restart servers, databases and shells that hold what they have read.
- /run, /dev/shm and what was bound with --keep or --tmpfs are not part of it.
- "busy: too many requests": wait for as long as it says.
"""

_MAIN = "import sys\nfrom cowfs_guest.__main__ import main\nsys.exit(main())\n"


def program(path: Path) -> None:
    """Write the guest's part as one executable file, for Python 3.9 and newer: the same bytes at every build.

    Raises NotFound when this installation lacks it, OSError.
    """
    found = importlib.util.find_spec("cowfs_guest")
    if found is None or found.origin is None:
        raise NotFound("the package cowfs_guest is missing", hint="install cowfs anew")
    with path.open("wb") as file:
        file.write(b"#!/usr/bin/env python3\n")
        with zipfile.ZipFile(file, "w") as archive:
            for source in sorted(Path(found.origin).parent.glob("*.py")):
                archive.writestr(_entry(f"cowfs_guest/{source.name}"), source.read_bytes())
            archive.writestr(_entry("__main__.py"), _MAIN)
    path.chmod(0o755)


def make(directory: Path) -> None:
    """Make and fill the folder ``directory``, which everybody may enter: its parent must be closed.

    Raises NotFound when this installation lacks the guest's part.
    """
    directory.mkdir()
    program(directory / PROGRAM)
    (directory / MANUAL).write_text(_TEXT)
    os.chmod(directory, 0o755)


def _entry(name: str) -> zipfile.ZipInfo:
    """The same bytes at every build."""
    return zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))


def variables() -> dict[str, str]:
    """The environment inside."""
    return {"COWFS_AGENT": f"{INSIDE}/{SOCKET}", "PYTHONPATH": f"{INSIDE}/{PROGRAM}"}
