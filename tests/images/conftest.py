"""A tree with everything in it, and a store to import it into."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.lab import Lab

ACL = b"\2\0\0\0" + b"".join(
    tag.to_bytes(2, "little") + perm.to_bytes(2, "little") + who.to_bytes(4, "little")
    for tag, perm, who in [
        (1, 7, 0xFFFFFFFF),
        (2, 5, 1000),
        (4, 5, 0xFFFFFFFF),
        (16, 5, 0xFFFFFFFF),
        (32, 0, 0xFFFFFFFF),
    ]
)


def make_tree(top: Path) -> None:
    """Every kind of file, and every kind of attribute, that an archive can carry."""
    (top / "d/deep").mkdir(parents=True)
    (top / "d/empty").touch()
    (top / "d/small").write_bytes(b"small\n")
    (top / "d/large").write_bytes(os.urandom(700_000))
    os.link(top / "d/large", top / "another name")
    os.link(top / "d/large", top / "d/deep/third")
    os.symlink("d/small", top / "soft")
    os.symlink("x" * 300, top / "dangling")
    os.mkfifo(top / "pipe", 0o640)
    os.mknod(top / "char", stat.S_IFCHR | 0o600, os.makedev(5, 70_000))
    os.mknod(top / "block", stat.S_IFBLK | 0o660, os.makedev(259, 3))
    long = top / "d" / ("n" * 200) / ("m" * 200)
    long.mkdir(parents=True)
    (long / "file").write_bytes(b"far down")
    (top / os.fsdecode(b"not \xff utf-8 \n")).write_bytes(b"name")
    os.setxattr(top / "d/small", "user.x", b"value\0with\nall = sorts")
    os.setxattr(top / "d/small", "trusted.t", b"t" * 900)
    os.setxattr(top / "d/small", "security.capability", b"\1\0\0\2\0\x20\0\0" + bytes(12))
    os.setxattr(top / "d/deep", "system.posix_acl_access", ACL)
    os.setxattr(top / "d/deep", "system.posix_acl_default", ACL)
    with (top / "sparse").open("wb") as file:
        file.truncate(5 << 20)
        for at in (8192, 1 << 20, (1 << 20) + 500_000, (5 << 20) - 5000):
            file.seek(at)
            file.write(b"data" * 1000)
    with (top / "hole").open("wb") as file:
        file.truncate(1 << 20)
    (top / "setid").touch()
    os.chown(top / "setid", 3_000_000_000, 70_000)
    os.chmod(top / "setid", 0o6755)
    times = {"d/small": 1_234_567_890_123_456_789, "d/large": -5_000_000_001, "soft": 17, "d/deep": 1 << 62, "pipe": 0}
    for name, time in times.items():
        os.utime(top / name, ns=(1, time), follow_symlinks=False)
    os.utime(top / "d", ns=(1, 1_700_000_000_000_000_001))
    os.chmod(top, 0o751)
    os.utime(top, ns=(1, 1_600_000_000_000_000_000))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    if os.geteuid() != 0:
        pytest.skip("devices and owners need root")
    top = tmp_path / "tree"
    top.mkdir()
    make_tree(top)
    return top


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path / "store", inline=False)
    yield made
    made.close()


def run(*words: str | Path) -> None:
    """Run a program that must succeed."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
