"""``cowfs run``, disks and adapters of an ordinary user."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.live import Live, living
from tests.support.mounting import ROOT, needs_mounts
from tests.support.rootfs import make_rootfs

pytestmark = [*needs_mounts, pytest.mark.skipif(ROOT, reason="only as an ordinary user")]


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    if shutil.which("bwrap") is None:
        pytest.skip("needs bubblewrap: apt-get install bubblewrap")
    place = tmp_path_factory.mktemp("run")
    make_rootfs(place / "rootfs")
    with living(place / "store") as made:
        made.cowfs("import", str(place / "rootfs"), "ws")
        yield made


def test_the_user_is_root_inside(live: Live) -> None:
    said = live.cowfs("run", "ws", "--", "sh", "-c", "id -u; echo kept > /f; ls -ln /f; ls /; hostname")
    assert said.split()[0] == "0"
    assert "1 0 0 5" in said.replace("    ", " ").replace("  ", " ")
    path = Path(live.cowfs("path", "ws")) / "f"
    assert (path.stat().st_uid, path.read_text()) == (os.geteuid(), "kept\n")
    assert live.run("run", "ws", "--", "sh", "-c", "exit 7").code == 7


def test_it_cannot_reach_the_host(live: Live, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    assert live.run("run", "ws", "--", "cat", str(tmp_path / "secret")).code != 0
    assert live.run("run", "ws", "--", "sh", "-c", "echo x > /proc/sys/kernel/hostname").code != 0


def test_a_disk_is_made_and_attached_by_root_alone(live: Live) -> None:
    if not (shutil.which("mkfs.ext4") or Path("/usr/sbin/mkfs.ext4").exists()):
        pytest.skip("needs mkfs.ext4: apt-get install e2fsprogs")
    live.env["PATH"] += ":/usr/sbin:/sbin"
    live.cowfs("create", "vm", "--disk", "16M")
    live.cowfs("checkpoint", "vm")
    assert "disk.img" in live.cowfs("disk", "config", "vm", "--machine", "qemu")
    refused = live.run("disk", "mount", "vm")
    assert refused.code == 2
    assert "needs root" in refused.err
    assert "cowfs disk config" in refused.err


def test_an_overlay_of_a_workspace_in_a_user_namespace(live: Live, tmp_path: Path) -> None:
    """Without root: marks of its own in ``user.*``, since ``trusted.*`` are root's."""
    root = Path(live.cowfs("path", "ws"))
    for name in ("lower", "upper", "work"):
        (root / name).mkdir()
    (root / "lower" / "f").write_text("low")
    merged = tmp_path / "merged"
    merged.mkdir()
    options = ",".join(f"{name}dir={root / name}" for name in ("lower", "upper", "work"))
    script = f"mount -t overlay overlay -o {options},userxattr '{merged}'; cat '{merged}/f'; rm '{merged}/f'"
    made = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-ec", script], capture_output=True, text=True
    )
    assert (made.returncode, made.stdout) == (0, "low"), made.stderr
    assert stat.S_ISCHR((root / "upper" / "f").lstat().st_mode)


def test_a_socket_where_only_root_may_make_one_is_refused(live: Live) -> None:
    for command in ("docker-plugin", "snapshotter"):
        for path in ("/run/cowfs-test/sock", "/run/cowfs-test-sock"):
            refused = live.run(command, "--socket", path)
            assert refused.code == 2
            assert "may not make that socket" in refused.err
            assert "--socket" in refused.err


def test_checkpoints_and_restores_around_it(live: Live) -> None:
    live.cowfs("run", "ws", "--checkpoint-each", "--", "sh", "-c", "echo one > /f")
    live.run("run", "ws", "--restore-on-failure", "--", "sh", "-c", "echo two > /f; exit 1")
    assert live.cowfs("show", "ws:f") == "one"
