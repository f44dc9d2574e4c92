"""A restore of a hundred thousand changed files on a live mount: right, and how long it takes."""

from __future__ import annotations

import os
import stat
import time

from cowfs.geometry import ROOT_INO
from cowfs.view.inode import Caller

from .agent import Agent
from .conftest import Mounted

DIRECTORIES, FILES = 100, 1000

_LOOK = """
def look(top):
    total = names = 0
    for folder in sorted(os.listdir(top)):
        for entry in os.scandir(f"{top}/{folder}"):
            status = entry.stat()
            names += 1
            total += status.st_size * (status.st_mode & 0o777) + status.st_mtime_ns % 1_000_003
    return names, total
"""


def fill(mounted: Mounted) -> None:
    """Make the files without the kernel: it learns of them when they are looked at."""
    view = mounted.workspace.view
    with mounted.workspace.lock:
        for d in range(DIRECTORIES):
            directory = view.mkdir(ROOT_INO, b"d%d" % d, 0o755, Caller()).ino
            for f in range(FILES):
                ino = view.mknod(directory, b"f%d" % f, stat.S_IFREG | 0o644, 0, Caller()).ino
                view.write(ino, 0, b"%d" % (d * FILES + f), Caller())


def test_a_hundred_thousand_changed_files(mounted: Mounted) -> None:
    fill(mounted)
    snapshot = mounted.checkpoint()
    with Agent(timeout_s=200) as agent:
        agent(_LOOK)
        agent(f"os.chdir({os.fspath(mounted.path)!r})")
        before = agent("look('.')")
        assert before[0] == DIRECTORIES * FILES
        agent("last = os.open('d99/f999', os.O_RDWR | os.O_APPEND)")
        agent(
            f"for d in range({DIRECTORIES}):\n for f in range({FILES}):\n"
            "  path = f'd{d}/f{f}'\n"
            "  os.unlink(path) if f % 10 == 1 else os.rename(path, path + 'x') if f % 10 == 2 else os.truncate(path, 3)"
        )
        assert agent("look('.')") != before
        began = time.perf_counter()
        changed = mounted.restore(snapshot).changed
        took_s = time.perf_counter() - began
        assert agent("look('.')") == before
        assert agent("(open('d7/f1').read(), open('d7/f2').read(), open('d99/f999').read())") == (
            "7001", "7002", "99999",
        )  # fmt: skip
        assert agent("(os.write(last, b'!'), os.path.getsize('d99/f999'), os.path.exists('d7/f2x'))") == (1, 6, False)
    assert changed >= DIRECTORIES * FILES
    print(f"restore of {changed} changed inodes: {took_s:.2f} s")
    assert took_s < 60
