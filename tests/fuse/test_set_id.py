"""Set-group-id without group execute: changes by members of the group leave it, those of others clear it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tests.support.mounting import as_others

from .conftest import client

CHANGE = """if True:
    import ctypes, os, sys
    os.chdir(sys.argv[1])
    os.setgroups([int(sys.argv[3])]), os.setgid(7), os.setuid(7)
    if sys.argv[2] == "open":
        os.close(os.open("f", os.O_WRONLY | os.O_TRUNC))
        sys.exit()
    fd = os.open("f", os.O_RDWR)
    if sys.argv[2] == "write":
        os.write(fd, b"new")
    elif sys.argv[2] == "truncate":
        os.ftruncate(fd, 3)
    elif sys.argv[2] == "fallocate":
        assert ctypes.CDLL(None).fallocate(fd, 0, ctypes.c_long(0), ctypes.c_long(8192)) == 0
    else:
        assert os.copy_file_range(os.open("from", os.O_RDONLY), fd, 100) == 100
"""


@as_others
@pytest.mark.parametrize("change", ["write", "truncate", "fallocate", "copy", "open"])
@pytest.mark.parametrize(("group", "left"), [(2001, stat.S_ISGID), (2002, 0)], ids=["member", "stranger"])
def test_changes_of_data(mnt: Path, change: str, group: int, left: int) -> None:
    (mnt / "from").write_bytes(b"x" * 100)
    (mnt / "f").write_bytes(b"x" * 100)
    os.chown(mnt / "f", 1001, 2001)
    os.chmod(mnt / "f", 0o2666)
    os.chmod(mnt, 0o755)
    client(CHANGE, mnt, change, group)
    assert (mnt / "f").stat().st_mode & stat.S_ISGID == left
