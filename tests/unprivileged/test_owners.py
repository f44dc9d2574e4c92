"""What an ordinary user's own store shows, stores and says."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cowfs.client.subordinate import grants
from cowfs_daemon.fuse import fusermount
from tests.cli.live import Live, living
from tests.support.mounting import ROOT, needs_mounts

pytestmark = [*needs_mounts, pytest.mark.skipif(ROOT, reason="only as an ordinary user")]

UID, GID = os.geteuid(), os.getegid()


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    with living(tmp_path / "store") as made:
        yield made


def test_stored_root_is_shown_as_the_user(live: Live, tmp_path: Path) -> None:
    live.cowfs("create", "ws")
    root = Path(live.cowfs("path", "ws"))
    (root / "f").write_text("mine")
    os.chown(root / "f", UID, GID)
    os.symlink("f", root / "l")
    for path in (root, root / "f", root / "l"):
        assert (path.lstat().st_uid, path.lstat().st_gid) == (UID, GID)
    assert {each.stat().st_uid for each in os.scandir(root)} == {UID}
    snapshot = live.cowfs("checkpoint", "ws")
    live.cowfs("export", snapshot, f"tar:{tmp_path}/out.tar")
    listed = subprocess.run(
        ["tar", "--numeric-owner", "-tvf", tmp_path / "out.tar"], capture_output=True, text=True, check=True
    ).stdout
    assert all(" 0/0 " in line for line in listed.splitlines()), listed


def test_an_import_stores_the_users_files_as_roots(live: Live, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "mine").write_text("x")
    live.cowfs("import", str(source), "ws")
    assert (Path(live.cowfs("path", "ws")) / "mine").stat().st_uid == UID


def test_nothing_is_given_away(live: Live) -> None:
    live.cowfs("create", "ws")
    path = Path(live.cowfs("path", "ws")) / "f"
    path.touch()
    with pytest.raises(PermissionError):
        os.chown(path, 0, 0)
    with pytest.raises(PermissionError):
        os.mknod(path.with_name("device"), stat.S_IFCHR | 0o600, os.makedev(1, 3))
    path.chmod(0)
    with pytest.raises(PermissionError):
        path.read_bytes()


def test_acls_of_the_user(live: Live) -> None:
    if shutil.which("setfacl") is None:
        pytest.skip("needs setfacl: apt-get install acl")
    live.cowfs("create", "ws")
    path = Path(live.cowfs("path", "ws")) / "f"
    path.write_text("x")
    path.chmod(0)
    subprocess.run(["setfacl", "-m", f"u:{UID}:r", path], check=True)
    said = subprocess.run(["getfacl", "-nc", path], capture_output=True, text=True, check=True).stdout
    assert f"user:{UID}:r--" in said
    with pytest.raises(PermissionError):  # the owner's own bits count, as on every file system
        path.read_bytes()


def test_writing_clears_set_id_bits(live: Live) -> None:
    """Stored as root's, but written by nobody who may keep such bits."""
    live.cowfs("create", "ws")
    path = Path(live.cowfs("path", "ws")) / "f"
    path.write_text("x")
    for change in (lambda: path.open("a").write("y"), lambda: os.truncate(path, 0)):
        path.chmod(0o6755)
        change()
        assert stat.S_IMODE(path.stat().st_mode) == 0o755


def test_a_set_group_id_bit_without_execution_stays_for_members(live: Live, tmp_path: Path) -> None:
    """As on the disk: who changes the file is in its group, whatever number that has in the store."""
    live.cowfs("create", "ws")
    for path in (tmp_path / "f", Path(live.cowfs("path", "ws")) / "f"):
        path.write_text("x")
        path.chmod(0o2644)
        with path.open("a") as file:
            file.write("y")
        assert stat.S_IMODE(path.stat().st_mode) == 0o2644, path
        path.chmod(0o6755)
        os.chown(path, -1, -1)
        assert stat.S_IMODE(path.stat().st_mode) == 0o755, path


def test_a_shared_mapping_is_in_the_checkpoint_and_taken_back(live: Live) -> None:
    """Without the right to open files by number, pages are flushed another way."""
    live.cowfs("create", "ws")
    root = Path(live.cowfs("path", "ws"))
    (root / "f").write_bytes(b"a" * 8192)
    code = (
        "import mmap, sys; f = open(sys.argv[1], 'r+b'); m = mmap.mmap(f.fileno(), 0)\n"
        "for line in sys.stdin: exec(line); print(bytes(m[:3]), f.seek(0, 2), flush=True)"
    )
    with subprocess.Popen(
        ["python3", "-uc", code, root / "f"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdin is not None
        assert program.stdout is not None

        def run(line: str) -> str:
            assert program.stdin is not None
            assert program.stdout is not None
            program.stdin.write(line + "\n")
            program.stdin.flush()
            return program.stdout.readline().strip()

        run("m[:3] = b'new'")
        live.cowfs("checkpoint", "ws", "--label", "new")
        assert live.cowfs("show", "ws@new:/f").startswith("new")
        run("m[:3] = b'old'")
        live.cowfs("restore", "ws", "ws@new")
        assert run("pass") == "b'new' 8192"
        program.stdin.close()


def test_the_mount_is_the_users_alone(live: Live) -> None:
    """The kernel shows an ordinary user's mount to nobody else, not even root, unless /etc/fuse.conf allows it."""
    live.cowfs("create", "ws")
    path = live.cowfs("path", "ws")
    with open("/proc/self/mountinfo") as file:
        (line,) = [line for line in file if f" {path} " in line]
    assert f"user_id={UID}" in line
    assert ("allow_other" in line) == fusermount.others_allowed()
    assert "nosuid" in line
    assert "nodev" in line


def test_the_store_and_its_mounts_are_where_a_user_expects_them(tmp_path: Path) -> None:
    """Without --store and COWFS_STORE: below the XDG directories."""
    live = Live(tmp_path / "data" / "cowfs")
    live.env = {key: value for key, value in live.env.items() if key != "COWFS_STORE"}
    live.env["XDG_DATA_HOME"] = str(tmp_path / "data")
    try:
        live.cowfs("init")
        assert (live.store / "superblock").is_file()
        live.cowfs("create", "ws")
        assert live.cowfs("path", "ws").startswith(os.environ["XDG_RUNTIME_DIR"] + "/cowfs/")
    finally:
        live.end()


def test_without_fusermount3_it_says_so(live: Live, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    live.env["PATH"] = str(tools)
    live.cowfs("create", "ws")
    refused = live.run("path", "ws")
    assert refused.code == 2
    assert "fusermount3" in refused.err
    assert "apt install fuse3" in refused.err
    store_id = (live.store / "superblock").read_bytes()[16:32].hex()
    assert not list(Path(live.env["XDG_RUNTIME_DIR"]).glob(f"cowfs/{store_id}/*")), "a place for a mount that is none"
    findings = {each["check"]: each for each in json.loads(live.run("doctor", "--json").out)}
    assert not findings["mounting"]["ok"]


def test_doctor_says_how_to_get_subordinate_ids(live: Live, tmp_path: Path) -> None:
    def said() -> str:
        (detail,) = (
            each["detail"]
            for each in json.loads(live.run("doctor", "--json").out)
            if each["check"] == "subordinate ids" and each["ok"]
        )
        return str(detail)

    found, detail = grants(UID), said()
    assert ("usermod --add-subuids" in detail) == (not found.users)
    assert ("usermod --add-subgids" in detail) == (not found.groups)
    tools = tmp_path / "tools"
    tools.mkdir()
    live.env["PATH"] = str(tools)
    assert "newuidmap and newgidmap missing (apt install uidmap)" in said()


def test_without_a_runtime_directory_it_says_so(tmp_path: Path) -> None:
    live = Live(tmp_path / "store")
    live.env.pop("XDG_RUNTIME_DIR")
    live.cowfs("init")
    refused = live.run("create", "ws")
    assert refused.code == 2
    assert "XDG_RUNTIME_DIR" in refused.err
