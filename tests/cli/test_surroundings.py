"""A daemon that is started on demand leaves its starter's cgroup, and does not start inside a sandbox."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cowfs.errors import Invalid
from cowfs_daemon.surroundings import leave_cgroup, refuse_sandbox
from tests.cli.live import Live
from tests.support.mounting import needs_root

namespaces = needs_root("cgroups and mount namespaces")


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    live = Live(tmp_path / "s")
    live.cowfs("init")
    yield live
    live.end()


def cgroups(pid: int) -> dict[str, str]:
    """Controllers -> path of a process's cgroup; the unified hierarchy has none."""
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    return {controllers: path for _, controllers, path in (line.split(":", 2) for line in lines)}


@namespaces
def test_the_daemon_is_in_no_memory_cgroup_of_its_starter(live: Live) -> None:
    live.cowfs("create", "ws-1")
    live.cowfs("path", "ws-1")
    ours = cgroups(os.getpid())
    where = "memory" if "memory" in ours else ""
    memory = [cgroups(pid)[where] for pid in live.pids()]
    if os.access("/sys/fs/cgroup/memory" if where else "/sys/fs/cgroup", os.W_OK):
        assert set(memory) == {"/cowfs"}
    assert cgroups(os.getpid()) == ours


def test_version_1_and_2_of_cgroups(tmp_path: Path) -> None:
    mixed, unified = tmp_path / "mixed", tmp_path / "unified-only"
    for directory in (mixed / "memory", mixed / "unified", unified):
        directory.mkdir(parents=True)
    (unified / "cgroup.procs").touch()
    own = tmp_path / "cgroup"
    own.write_text("4:memory:/box\n3:cpuset:/\n0::/box\n")
    assert leave_cgroup(mixed, str(own)) == [str(mixed / "memory" / "cowfs"), str(mixed / "unified" / "cowfs")]
    assert (mixed / "memory" / "cowfs" / "cgroup.procs").read_text() == str(os.getpid())
    own.write_text("0::/box\n")
    assert leave_cgroup(unified, str(own)) == [str(unified / "cowfs")]
    assert leave_cgroup(tmp_path / "nothing", str(own)) == []


@pytest.mark.skipif(not os.access("/proc/1/ns/mnt", os.R_OK), reason="the first process's namespaces cannot be seen")
@namespaces
def test_none_is_started_in_a_mount_namespace_of_its_own(live: Live) -> None:
    words = ["unshare", "--mount", *live.words("list")]
    done = subprocess.run(words, env=live.env, capture_output=True, text=True, timeout=60)
    assert done.returncode == Invalid.exit_code, done.stderr
    assert done.stderr.startswith("cowfs: no daemon is started in a mount namespace of its own")
    assert len(done.stderr.splitlines()) == 1
    assert live.run("daemon", "status").code == 3


def test_another_mount_namespace_than_the_first_process(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text("88 87 8:1 / / rw shared:1 - ext4 /dev/vda rw\n")
    for process, namespace in (("1", "mnt:[1]"), ("self", "mnt:[2]")):
        (tmp_path / process / "ns").mkdir(parents=True)
        (tmp_path / process / "ns" / "mnt").symlink_to(namespace)
    with pytest.raises(Invalid, match="nobody else would see"):
        refuse_sandbox(str(mounts), str(tmp_path))
    (tmp_path / "self" / "ns" / "mnt").unlink()
    (tmp_path / "self" / "ns" / "mnt").symlink_to("mnt:[1]")
    refuse_sandbox(str(mounts), str(tmp_path))


def test_none_is_started_inside_a_workspace(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text("88 87 0:47 / / rw,nosuid,nodev shared:1 - fuse.cowfs cowfs rw,user_id=0\n")
    with pytest.raises(Invalid, match="inside a workspace"):
        refuse_sandbox(str(mounts))
    mounts.write_text("88 87 8:1 / / rw shared:1 - ext4 /dev/vda rw\n89 88 0:47 / /ws rw - fuse.cowfs cowfs rw\n")
    refuse_sandbox(str(mounts), str(tmp_path))
