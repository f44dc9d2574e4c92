"""``cowfs docker-plugin`` under a real Docker: a daemon of the test's own, with containers that use volumes."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.live import Live
from tests.containers.adapter import foreign, obstacle, serving
from tests.support.mounting import ROOT

MISSING = obstacle("dockerd", "docker", "containerd", "runc")
pytestmark = [
    pytest.mark.fuse,
    pytest.mark.skipif(bool(MISSING), reason=MISSING),
    pytest.mark.skipif(not ROOT, reason="dockerd needs root"),
]

PLUGINS = Path("/run/docker/plugins")
"""Where every Docker looks, wherever else it keeps its things."""

Docker = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def docker(tmp_path: Path) -> Iterator[Docker]:
    """``docker(*words)``: the command, talking to a daemon of the test's own."""
    # Short, since it makes sockets below; and gone with the test.
    state = tmp_path / "d"
    state.mkdir()
    words = ["dockerd", "--data-root", str(state / "data"), "--exec-root", str(state / "x"), "-H", f"unix://{state}/s",
             "--pidfile", str(state / "pid"), "--bridge=none", "--iptables=false", "-s", "vfs"]  # fmt: skip

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["docker", "-H", f"unix://{state}/s", *words], capture_output=True, text=True, timeout=60,
            stdin=subprocess.DEVNULL, env={"PATH": os.environ["PATH"], "HOME": str(state)},
        )  # fmt: skip

    with foreign(words, lambda: run("version").returncode == 0, tmp_path / "dockerd.log"):
        yield run


@pytest.fixture
def driver(live: Live) -> Iterator[str]:
    """The plugin under a name that no other Docker of the machine uses."""
    name = f"cowfs-{uuid.uuid4().hex[:12]}"
    with serving(live, "docker-plugin", PLUGINS / f"{name}.sock"):
        yield name


def said(done: subprocess.CompletedProcess[str]) -> str:
    """What a command that must succeed printed."""
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def mounted(live: Live) -> list[str]:
    """The workspaces that are."""
    return [each["ref"] for each in live.json("mount")]


def test_volumes_of_containers(live: Live, docker: Docker, driver: str, tmp_path: Path) -> None:
    archive = tmp_path / "image.tar"
    subprocess.run(["tar", "-C", str(tmp_path / "rootfs"), "-cf", str(archive), "."], check=True)
    said(docker("import", str(archive), "image"))
    said(docker("volume", "create", "-d", driver, "empty"))
    said(docker("volume", "create", "-d", driver, "-o", "from=ws", "copy"))
    assert docker("volume", "create", "-d", driver, "-o", "size=1", "x").returncode != 0
    listed = said(docker("volume", "ls", "--format", "{{.Driver}} {{.Name}}")).splitlines()
    assert sorted(listed) == sorted(f"{driver} {name}" for name in ("ws", "copy", "empty"))

    run = ("run", "--network=none", "--volume-driver", driver)
    volumes = ("-v", "empty:/e", "-v", "copy:/c", "-v", "ws:/w:ro")
    script = "ls /c/bin/sh && echo one > /e/f && echo two > /c/g && ! touch /w/h"
    assert said(docker(*run, "--rm", *volumes, "image", "sh", "-c", script)) == "/c/bin/sh"
    assert mounted(live) == []
    assert (live.cowfs("show", "empty:f"), live.cowfs("show", "copy:g")) == ("one", "two")

    said(docker(*run, "-d", "--name", "long", *volumes, "image", "sleep", "1000"))
    assert sorted(mounted(live)) == ["copy", "empty", "ws"]
    assert said(docker(*run, "--rm", "-v", "empty:/e", "image", "cat", "/e/f")) == "one"
    assert sorted(mounted(live)) == ["copy", "empty", "ws"]
    # A checkpoint of what a container uses, and back, meanwhile.
    live.cowfs("checkpoint", "empty", "--label", "good")
    said(docker("exec", "long", "sh", "-c", "echo other > /e/f"))
    live.cowfs("restore", "empty", "@good")
    assert said(docker("exec", "long", "cat", "/e/f")) == "one"
    assert docker("volume", "rm", "empty").returncode != 0
    said(docker("rm", "-f", "long"))
    assert mounted(live) == []

    refused = docker("volume", "rm", "ws")
    assert (refused.returncode != 0, "cowfs rm ws" in refused.stderr) == (True, True)
    said(docker("volume", "rm", "empty", "copy"))
    assert [each["name"] for each in live.json("list")] == ["ws"]
