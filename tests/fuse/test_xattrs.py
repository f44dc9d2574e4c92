"""Extended attributes and access lists through a real mount."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from tests.support.mounting import as_others

from .conftest import client


def test_xattrs(mnt: Path) -> None:
    path = mnt / "f"
    path.touch()
    os.setxattr(path, "user.a", b"1")
    os.setxattr(path, "user.big", b"v" * 60_000)
    assert os.getxattr(path, "user.a") == b"1"
    assert os.getxattr(path, "user.big") == b"v" * 60_000
    assert sorted(os.listxattr(path)) == ["user.a", "user.big"]
    with pytest.raises(FileExistsError):
        os.setxattr(path, "user.a", b"2", os.XATTR_CREATE)
    os.removexattr(path, "user.a")
    with pytest.raises(OSError, match="No data"):
        os.getxattr(path, "user.a")


@as_others
def test_no_other_namespaces(mnt: Path) -> None:
    """Of system. the kernel checks ACLs alone: anybody could set the rest on everybody's files."""
    path = mnt / "f"
    path.write_bytes(b"x")
    path.chmod(0o600)
    for name, number in [
        ("system.x", errno.EOPNOTSUPP), ("other.x", errno.EOPNOTSUPP), ("plain", errno.EOPNOTSUPP),
        ("user.", errno.EINVAL), ("trusted.", errno.EINVAL), ("security.", errno.EINVAL),
    ]:  # fmt: skip
        with pytest.raises(OSError) as caught:
            os.setxattr(path, name, b"1")
        assert caught.value.errno == number, name
    code = """if True:
        import os, sys
        os.chdir(sys.argv[1])
        os.setuid(1000)
        for name in ("system.x", "user.x", "trusted.x", "security.x"):
            try:
                os.setxattr("f", name, b"1")
            except OSError:
                continue
            sys.exit("allowed")
    """
    os.chmod(mnt, 0o755)
    client(code, mnt)
    assert os.listxattr(path) == []


def test_both_flags_of_setxattr_never_fit(mnt: Path) -> None:
    path = mnt / "f"
    path.touch()
    with pytest.raises(OSError, match="No data"):
        os.setxattr(path, "user.a", b"1", os.XATTR_CREATE | os.XATTR_REPLACE)
    os.setxattr(path, "user.a", b"1")
    with pytest.raises(FileExistsError):
        os.setxattr(path, "user.a", b"1", os.XATTR_CREATE | os.XATTR_REPLACE)


def test_an_acl_that_is_not_there_can_be_removed(mnt: Path) -> None:
    for name in ("system.posix_acl_access", "system.posix_acl_default"):
        os.removexattr(mnt, name)


@as_others
def test_a_default_acl_leaves_the_set_group_id_bit(mnt: Path) -> None:
    """Setting an access ACL clears it for somebody outside the group; a default one does not."""
    (mnt / "d").mkdir()
    os.chown(mnt / "d", 1000, 1001)
    os.chmod(mnt / "d", 0o2755)
    os.chmod(mnt, 0o755)
    acl = b"\2\0\0\0" + b"".join(
        tag.to_bytes(2, "little") + perm.to_bytes(2, "little") + b"\xff" * 4 for tag, perm in [(1, 7), (4, 5), (32, 5)]
    )
    code = """if True:
        import os, sys
        os.chdir(sys.argv[1])
        os.setgroups([]), os.setgid(1000), os.setuid(1000)
        os.setxattr("d", sys.argv[2], bytes.fromhex(sys.argv[3]))
    """
    for kind, mode in [("default", 0o2755), ("access", 0o755)]:
        client(code, mnt, f"system.posix_acl_{kind}", acl.hex())
        assert stat.S_IMODE((mnt / "d").stat().st_mode) == mode, kind


@as_others
def test_access_acl_decides(mnt: Path) -> None:
    path = mnt / "f"
    path.write_bytes(b"x")
    path.chmod(0o600)
    acl = b"\2\0\0\0" + b"".join(
        tag.to_bytes(2, "little") + perm.to_bytes(2, "little") + who.to_bytes(4, "little")
        for tag, perm, who in [(1, 6, 0xFFFFFFFF), (2, 4, 1000), (4, 0, 0xFFFFFFFF), (16, 4, 0xFFFFFFFF),
                               (32, 0, 0xFFFFFFFF)]
    )  # fmt: skip
    os.setxattr(path, "system.posix_acl_access", acl)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    os.chmod(mnt, 0o755)
    client("import os, sys; os.chdir(sys.argv[1]); os.setuid(1000); open('f').read()", mnt)
    code = """if True:
        import os, sys
        os.chdir(sys.argv[1])
        os.setgid(1001), os.setuid(1001)
        try:
            open("f")
        except PermissionError:
            sys.exit(0)
        sys.exit(1)
    """
    client(code, mnt)


def test_reading_and_removing_xattrs_of_no_namespace(mnt: Path) -> None:
    (mnt / "f").touch()
    for name in ("system.x", "other.x", "plain"):
        with pytest.raises(OSError, match="not supported"):
            os.getxattr(mnt / "f", name)
        with pytest.raises(OSError, match="not supported"):
            os.removexattr(mnt / "f", name)
    with pytest.raises(OSError, match="Invalid"):
        os.getxattr(mnt / "f", "user.")
