"""``cowfs snapshotter`` under a real containerd: a daemon of the test's own, with an image and containers."""

from __future__ import annotations

import platform
import subprocess
import tarfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.live import Live
from tests.containers.adapter import foreign, obstacle, serving, until
from tests.images.layout import Layout, entry, layer
from tests.support.mounting import ROOT

MISSING = obstacle("containerd", "ctr", "runc")
pytestmark = [
    pytest.mark.fuse,
    pytest.mark.skipif(bool(MISSING), reason=MISSING),
    pytest.mark.skipif(not ROOT, reason="containerd needs root"),
]

IMAGE = "example.test/image:one"
CONFIG = """version = 2
root = "{state}/root"
state = "{state}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
  address = "{state}/s"
[debug]
  level = "debug"
[proxy_plugins.cowfs]
  type = "snapshot"
  address = "{socket}"
"""

Ctr = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def ctr(live: Live, tmp_path: Path) -> Iterator[Ctr]:
    """``ctr(*words)``: the command, talking to a containerd of the test's own that has the snapshotter ``cowfs``."""
    state = tmp_path / "c"
    state.mkdir()
    config = state / "config.toml"
    config.write_text(CONFIG.format(state=state, socket=tmp_path / "cowfs.sock"))

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["ctr", "--address", f"{state}/s", *words], capture_output=True, text=True, timeout=60,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip

    words = ["containerd", "--config", str(config)]
    with (
        serving(live, "snapshotter", tmp_path / "cowfs.sock"),
        foreign(words, lambda: run("version").returncode == 0, tmp_path / "containerd.log"),
    ):
        yield run


def said(done: subprocess.CompletedProcess[str]) -> list[str]:
    """The lines that a command which must succeed printed."""
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def image(tmp_path: Path) -> Path:
    """An archive of an image: a root filesystem, and a layer that adds, changes and removes."""
    below = tmp_path / "below.tar"
    subprocess.run(["tar", "-C", str(tmp_path / "rootfs"), "-cf", str(below), "."], check=True)
    above = layer(entry("etc/added", b"added\n"), entry("bin/.wh.touch", b""))
    layout = Layout(tmp_path / "layout", below.read_bytes(), above)
    layout.config["architecture"] = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
    archive = tmp_path / "image.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(layout.finish(), ".")
    return archive


def workspaces(live: Live) -> int:
    """How many there are, but for ``ws``."""
    return len(live.json("list")) - 1


def test_an_image_and_its_containers(live: Live, ctr: Ctr, tmp_path: Path) -> None:
    said(
        ctr("images", "import", "--snapshotter", "cowfs", "--base-name", IMAGE.partition(":")[0], str(image(tmp_path)))
    )
    snapshots = ("snapshots", "--snapshotter", "cowfs")
    rows = [line.split() for line in said(ctr(*snapshots, "ls"))[1:]]
    assert [row[-1] for row in rows] == ["Committed", "Committed"]
    top = next(row[0] for row in rows if len(row) == 3)
    base = next(row[0] for row in rows if len(row) == 2)
    assert workspaces(live) == 2
    assert live.json("mount") == []

    name = f"cowfs-test-{uuid.uuid4().hex[:12]}"
    run = ("run", "--rm", "--snapshotter", "cowfs", IMAGE, name)
    script = "cat /etc/added; ls /bin/touch; echo mine > /etc/added; cat /etc/added; id -u"
    done = ctr(*run, "sh", "-c", script)
    assert (done.stdout.split(), "touch" in done.stderr) == (["added", "mine", "0"], True), done.stderr
    assert said(ctr(*run, "cat", "/etc/added")) == ["added"]

    # By hand, as containerd itself does it.
    said(ctr(*snapshots, "prepare", "work", top))
    target = tmp_path / "target"
    target.mkdir()
    (mount,) = said(ctr(*snapshots, "mounts", str(target), "work"))
    subprocess.run(mount.split(), check=True)
    (target / "etc/made").write_text("by hand")
    subprocess.run(["umount", str(target)], check=True)
    said(ctr(*snapshots, "commit", "done", "work"))
    tree = [line.strip(" \\_") for line in said(ctr(*snapshots, "tree"))]
    assert tree == [base, top, "done"]
    assert said(ctr(*snapshots, "usage", "-b", "done"))[1].split()[0] == "done"
    said(ctr(*snapshots, "view", "look", "done"))
    assert "ro" in said(ctr(*snapshots, "mounts", str(target), "look"))[0]
    for key in ("look", "done"):
        said(ctr(*snapshots, "rm", key))

    # containerd collects what nothing refers to, in its own time.
    said(ctr("images", "rm", "--sync", IMAGE))
    until(lambda: workspaces(live) == 0, tmp_path / "containerd.log")
