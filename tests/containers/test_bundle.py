"""``cowfs bundle``: a workspace as the root of a container of runc and crun."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.live import Live

pytestmark = [pytest.mark.fuse]

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(params=["runc", "crun"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Run]:
    """``run(bundle)``: run a container of it to its end; its state lies in the test's folder."""
    runtime = shutil.which(request.param)
    assert runtime is not None, f"needs {request.param}: apt-get install {request.param}"
    state = tmp_path / "state"
    names = []

    def once(bundle: Path) -> subprocess.CompletedProcess[str]:
        names.append(f"cowfs-test-{uuid.uuid4().hex}")
        # crun takes no mixture of cgroups v1 and v2, which some machines have mounted: it shall see none of v2 then.
        hidden = 'umount /sys/fs/cgroup/unified 2>/dev/null; exec "$@"'
        words = [runtime, "--root", str(state), "run", "-b", str(bundle), names[-1]]
        words = ["unshare", "--mount", "sh", "-c", hidden, "sh", *words]
        return subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)

    yield once
    for name in names:
        subprocess.run([runtime, "--root", str(state), "delete", "-f", name], capture_output=True, check=False)


def test_the_workspace_is_the_root(live: Live, run: Run, tmp_path: Path) -> None:
    script = "id -u; hostname; echo kept > /f; ls -d /proc/1"
    made = json.loads(live.cowfs("bundle", "ws", str(tmp_path / "b"), "--json", "--", "sh", "-c", script))
    assert made["root"] == live.cowfs("path", "ws")
    done = run(tmp_path / "b")
    assert (done.returncode, done.stdout.split()) == (0, ["0", "ws", "/proc/1"]), done.stderr
    assert live.cowfs("show", "ws:f") == "kept"
    assert os.listdir(Path(made["root"]) / "run") == []


def test_the_exit_code_environment_and_directory(live: Live, run: Run, tmp_path: Path) -> None:
    words = ["--env", "A=b", "--workdir", "/etc", "--", "sh", "-c", 'echo "$A $PWD"; exit 7']
    live.cowfs("bundle", "ws", str(tmp_path / "b"), *words)
    done = run(tmp_path / "b")
    assert (done.returncode, done.stdout) == (7, "b /etc\n"), done.stderr


def test_it_has_no_network_no_devices_and_few_rights(live: Live, run: Run, tmp_path: Path) -> None:
    script = "cat /proc/net/dev; echo x > /proc/sys/kernel/hostname; cat /proc/self/status; ls /dev"
    live.cowfs("bundle", "ws", str(tmp_path / "b"), "--", "sh", "-c", script)
    done = run(tmp_path / "b")
    devices = [
        line.split(":")[0].strip() for line in done.stdout.splitlines() if "packets" not in line and ": " in line
    ]
    assert "eth0" not in devices
    assert "NoNewPrivs:\t1" in done.stdout
    assert "ead-only" in done.stderr
    assert "fuse" not in done.stdout.split()
    effective = next(line for line in done.stdout.splitlines() if line.startswith("CapEff"))
    assert not int(effective.split()[1], 16) >> 21 & 1  # CAP_SYS_ADMIN


def test_what_is_kept_and_what_is_memory(live: Live, run: Run, tmp_path: Path) -> None:
    words = [
        "--keep",
        "/cache=other",
        "--tmpfs",
        "/scratch",
        "--",
        "sh",
        "-c",
        "echo 1 > /cache/f; echo 2 > /scratch/f",
    ]
    live.cowfs("create", "other")
    live.cowfs("bundle", "ws", str(tmp_path / "b"), *words)
    assert run(tmp_path / "b").returncode == 0
    assert live.cowfs("show", "other:f") == "1"
    root = Path(live.cowfs("path", "ws"))
    assert (os.listdir(root / "cache"), os.listdir(root / "scratch")) == ([], [])


def test_verbs_work_while_it_runs(live: Live, run: Run, tmp_path: Path) -> None:
    live.cowfs(
        "bundle", "ws", str(tmp_path / "b"), "--", "sh", "-c", "echo two > /f; while ! [ -e /go ]; do :; done; cat /f"
    )
    root = Path(live.cowfs("path", "ws"))
    (root / "f").write_text("one")
    one = live.cowfs("checkpoint", "ws")
    done: list[subprocess.CompletedProcess[str]] = []
    thread = threading.Thread(target=lambda: done.append(run(tmp_path / "b")))
    thread.start()
    while (root / "f").read_text() != "two\n":
        pass
    live.cowfs("restore", "ws", one)
    (root / "go").touch()
    thread.join()
    assert (done[0].returncode, done[0].stdout) == (0, "one"), done[0].stderr


@pytest.mark.parametrize("asked", [False, True])
def test_set_id_programs_work_inside_when_asked(live: Live, run: Run, tmp_path: Path, asked: bool) -> None:
    root = Path(live.cowfs("path", "ws"))
    shutil.copy2(root / "bin/id", root / "bin/root-id")
    (root / "bin/root-id").chmod(0o4755)
    live.cowfs("bundle", "ws", str(tmp_path / "b"), *(["--set-id"] if asked else []), "--", "root-id", "-u")
    as_user(tmp_path / "b", 1000)
    done = run(tmp_path / "b")
    assert (done.returncode, done.stdout.strip()) == (0, "0" if asked else "1000"), done.stderr
    assert "nosuid" in options_of(str(root))


def test_device_nodes_work_inside_when_asked(live: Live, run: Run, tmp_path: Path) -> None:
    root = Path(live.cowfs("path", "ws"))
    os.mknod(root / "zero", 0o666 | stat.S_IFCHR, os.makedev(1, 5))
    live.cowfs("bundle", "ws", str(tmp_path / "b"), "--devices", "--", "sh", "-c", "echo x > /zero && echo written")
    done = run(tmp_path / "b")
    assert (done.returncode, done.stdout.strip()) == (0, "written"), done.stderr
    assert "nodev" in options_of(str(root))
    with pytest.raises(PermissionError), open(root / "zero", "rb"):
        pass


def as_user(bundle: Path, uid: int) -> None:
    """Have the bundle's program run as an ordinary user, without capabilities."""
    value = json.loads((bundle / "config.json").read_text())
    value["process"]["user"] = {"uid": uid, "gid": uid}
    value["process"]["capabilities"] = {"bounding": value["process"]["capabilities"]["bounding"]}
    (bundle / "config.json").write_text(json.dumps(value))


def options_of(path: str) -> list[str]:
    """The options of the mount at ``path`` in this namespace."""
    with open("/proc/self/mountinfo") as lines:
        return next(line.split()[5].split(",") for line in lines if line.split()[4] == path)


def test_a_bundle_that_exists_is_left_alone(live: Live, tmp_path: Path) -> None:
    live.cowfs("bundle", "ws", str(tmp_path / "b"))
    before = (tmp_path / "b" / "config.json").read_text()
    assert json.loads(before)["process"]["args"] == ["sh"]
    assert live.run("bundle", "ws", str(tmp_path / "b")).code == 4
    assert live.run("bundle", "none", str(tmp_path / "c")).code == 3
    assert (tmp_path / "b" / "config.json").read_text() == before
    assert not (tmp_path / "c").exists()
