"""``cowfs docker-plugin``, asked by a client of the test's own: what it must do, and what it must refuse."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.cli.live import Live
from tests.containers.adapter import serving
from tests.containers.conftest import with_root

pytestmark = [pytest.mark.fuse]


class Plugin:
    """What Docker would ask."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def connect(self) -> socket.socket:
        """A connection to its socket."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(60)
        sock.connect(str(self.path))
        return sock

    def raw(self, request: bytes) -> tuple[int, bytes]:
        """(status, body) of whatever bytes."""
        with self.connect() as sock:
            sock.sendall(request)
            response = http.client.HTTPResponse(sock)
            response.begin()
            return response.status, response.read()

    def ask(self, method: str, body: bytes) -> tuple[int, Any]:
        """(status, answer) of one request."""
        head = f"POST /{method} HTTP/1.1\r\nHost: plugin\r\nContent-Length: {len(body)}\r\n\r\n"
        status, answer = self.raw(head.encode() + body)
        return status, json.loads(answer)

    def do(self, method: str, **fields: Any) -> Any:
        """The answer to a request that must succeed."""
        status, answer = self.ask("VolumeDriver." + method, json.dumps(fields).encode())
        assert (status, "Err" in answer) == (200, False), answer
        return answer

    def refused(self, method: str, **fields: Any) -> tuple[int, str]:
        """(status, message) of one that must not."""
        status, answer = self.ask("VolumeDriver." + method, json.dumps(fields).encode())
        assert status >= 400, answer
        return status, answer["Err"]


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """One store for all: the tests leave nothing but ``ws`` in it."""
    yield from with_root(tmp_path_factory.mktemp("volumes"))


@pytest.fixture(autouse=True)
def nothing_left(live: Live) -> Iterator[None]:
    yield
    for each in live.json("list"):
        if each["name"] != "ws":
            live.cowfs("rm", "--force", each["name"])


@pytest.fixture
def plugin(live: Live, tmp_path: Path) -> Iterator[Plugin]:
    with serving(live, "docker-plugin", tmp_path / "cowfs.sock"):
        yield Plugin(tmp_path / "cowfs.sock")


def mounted(live: Live, name: str) -> bool:
    """Whether the workspace is."""
    return bool(next(each for each in live.json("list") if each["name"] == name)["mounted"])


def test_what_it_can_do_and_who_may_ask(plugin: Plugin) -> None:
    assert plugin.ask("Plugin.Activate", b"") == (200, {"Implements": ["VolumeDriver"]})
    assert plugin.do("Capabilities") == {"Capabilities": {"Scope": "local"}}
    assert stat.S_IMODE(plugin.path.stat().st_mode) == 0o600


def test_the_life_of_volumes(live: Live, plugin: Plugin) -> None:
    plugin.do("Create", Name="empty", Opts=None)
    plugin.do("Create", Name="same", Opts={"from": "ws"})
    path = Path(plugin.do("Mount", Name="same", ID="c1")["Mountpoint"])
    assert (path / "bin/sh").exists()
    (path / "f").write_text("fork's")
    assert os.listdir(plugin.do("Mount", Name="empty", ID="c1")["Mountpoint"]) == []
    assert not Path(live.cowfs("path", "ws"), "f").exists()
    assert {each["Name"] for each in plugin.do("List")["Volumes"]} == {"ws", "same", "empty"}
    assert plugin.do("Path", Name="same")["Mountpoint"] == str(path)
    volume = plugin.do("Get", Name="same")["Volume"]
    assert volume["Mountpoint"] == str(path)
    assert volume["Status"] == {"made by Docker": True, "containers": 1}
    assert plugin.refused("Remove", Name="same")[0] == 423
    for name in ("same", "empty"):
        plugin.do("Unmount", Name=name, ID="c1")
        plugin.do("Remove", Name=name)
    assert [each["name"] for each in live.json("list")] == ["ws"]


def test_a_volume_begins_as_a_label_or_template_says(live: Live, plugin: Plugin) -> None:
    live.cowfs("checkpoint", "ws", "--label", "good", "--allow-empty")
    live.cowfs("set", "ws@good", "template=base")
    Path(live.cowfs("path", "ws"), "later").touch()
    for name, options in (("a", {"from": "ws@good"}), ("b", {"template": "base"}), ("c", {"from": "ws"})):
        plugin.do("Create", Name=name, Opts=options)
        path = Path(plugin.do("Mount", Name=name, ID="c1")["Mountpoint"])
        assert ((path / "bin/sh").exists(), (path / "later").exists()) == (True, name == "c")
        plugin.do("Unmount", Name=name, ID="c1")


def test_it_stays_mounted_until_the_last_container_goes(live: Live, plugin: Plugin) -> None:
    for user in ("c1", "c2", "c2"):
        plugin.do("Mount", Name="ws", ID=user)
    plugin.do("Unmount", Name="ws", ID="c2")
    plugin.do("Unmount", Name="ws", ID="c2")
    plugin.do("Unmount", Name="ws", ID="nobody")
    assert mounted(live, "ws")
    plugin.do("Unmount", Name="ws", ID="c1")
    assert not mounted(live, "ws")


def test_what_is_in_use_otherwise_stays_mounted(live: Live, plugin: Plugin) -> None:
    path = plugin.do("Mount", Name="ws", ID="c1")["Mountpoint"]
    with open(os.path.join(path, "held"), "w"):
        plugin.do("Unmount", Name="ws", ID="c1")
        assert mounted(live, "ws")
    assert plugin.do("Get", Name="ws")["Volume"]["Status"]["containers"] == 0


def test_a_restart_forgets_nothing(live: Live, tmp_path: Path) -> None:
    plugin = Plugin(tmp_path / "cowfs.sock")
    with serving(live, "docker-plugin", plugin.path) as process:
        plugin.do("Create", Name="v")
        for user in ("c1", "c2"):
            plugin.do("Mount", Name="v", ID=user)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert plugin.path.exists()
    with serving(live, "docker-plugin", plugin.path):
        assert live.run("docker-plugin", "--socket", str(plugin.path)).code == 4
        path = plugin.do("Mount", Name="v", ID="c1")["Mountpoint"]
        assert path == plugin.do("Path", Name="v")["Mountpoint"]
        plugin.do("Unmount", Name="v", ID="c2")
        assert plugin.refused("Remove", Name="v")[0] == 423
        plugin.do("Unmount", Name="v", ID="c1")
        assert not mounted(live, "v")
        plugin.do("Remove", Name="v")


def test_only_what_it_made_is_removed(live: Live, plugin: Plugin) -> None:
    status, message = plugin.refused("Remove", Name="ws")
    assert (status, "cowfs rm ws" in message) == (409, True)
    live.cowfs("set", "ws", 'managed={"other":{}}')
    assert plugin.refused("Remove", Name="ws")[0] == plugin.refused("Mount", Name="ws", ID="c")[0] == 409
    live.cowfs("set", "ws", "managed=[" + "[" * 20_000)
    assert plugin.refused("Get", Name="ws")[0] == 409
    assert plugin.do("List")["Volumes"] == []  # only ws was there
    plugin.do("Create", Name="v", Opts={"from": "ws"})
    live.cowfs("fork", "v", "mine")
    assert plugin.refused("Remove", Name="mine")[0] == 409
    live.cowfs("set", "ws", "managed=")
    assert len(plugin.do("List")["Volumes"]) == 3


def test_hostile_requests(live: Live, plugin: Plugin) -> None:
    plugin.do("Create", Name="v")
    live.cowfs("checkpoint", "ws", "--label", "fine", "--allow-empty")
    snapshot = live.json("log", "ws")[0]["id"]
    for name in (
        "",
        "ws@good",
        "../ws",
        "a/b",
        "-a",
        ".",
        "v\n",
        "v\0",
        "ü",
        "x" * 256,
        snapshot,
        "template:t",
        5,
        None,
    ):
        for method in ("Create", "Remove", "Mount", "Unmount", "Path", "Get"):
            fields = {"Name": name, **({"ID": "c"} if "ount" in method else {})}
            assert plugin.refused(method, **fields)[0] == 400, (method, name)
    assert plugin.refused("Mount", Name="v")[0] == plugin.refused("Mount", Name="v", ID=["c"])[0] == 400
    options: list[Any] = [
        {"size": "1G"}, {"from": "ws", "template": "t"}, {"from": ""}, {"from": 1}, ["from"], "from",
        {"from": "x" * 601}, {"from": "ws@\udcff"},
    ]  # fmt: skip
    for each in options:
        assert plugin.refused("Create", Name="new", Opts=each)[0] == 400, each
    assert plugin.refused("Create", Name="new", Opts={"from": "nothing"})[0] == 404
    assert plugin.refused("Create", Name="v", Opts={})[0] == 409
    assert plugin.refused("Get", Name="new")[0] == plugin.refused("Mount", Name="new", ID="c")[0] == 404
    assert plugin.refused("Get", Name="v", More=1)[0] == 400
    for body in (b"[]", b"{", b"\xff", b"[" * 60_000, b'{"Name": NaN}'):
        assert plugin.ask("VolumeDriver.Get", body)[0] == 400
    for method in ("VolumeDriver.Nothing", "v1/workspaces", "../x", "VolumeDriver.Get?x"):
        assert plugin.ask(method, b"{}")[0] == 404
    assert [each["name"] for each in live.json("list")] == ["v", "ws"]


def test_hostile_connections(plugin: Plugin) -> None:
    post = b"POST /VolumeDriver.List HTTP/1.1\r\nHost: x\r\n"
    assert plugin.raw(post + b"Content-Length: 65537\r\n\r\n")[0] == 413
    assert plugin.raw(post + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n")[0] == 413
    for header in (b"Content-Length: -1", b"Content-Length: 0x10", b"Transfer-Encoding: chunked", b"X: y"):
        assert plugin.raw(post + header + b"\r\n\r\n")[0] == 411
    assert plugin.raw(b"GET /VolumeDriver.List HTTP/1.1\r\n\r\n")[0] == 501
    assert plugin.raw(b"POST /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n")[0] == 414
    assert plugin.raw(b"POST /x HTTP/x.1\r\n\r\n")[0] == 400
    assert plugin.raw(post + b"".join(b"H%d: x\r\n" % number for number in range(200)) + b"\r\n")[0] == 431
    idle = [plugin.connect() for _ in range(40)]
    for sock in idle[:20]:
        sock.sendall(post)
    for sock in idle:
        sock.close()
    assert plugin.do("List")["Volumes"]


def test_it_ends_while_all_places_are_taken(live: Live, tmp_path: Path) -> None:
    plugin = Plugin(tmp_path / "cowfs.sock")
    with ExitStack() as held, serving(live, "docker-plugin", plugin.path):
        for _ in range(40):
            held.enter_context(plugin.connect())


@pytest.mark.parametrize("path", ["/etc/passwd/sock", "/proc/no-such-folder/sock"])
def test_a_socket_that_cannot_be_is_refused(live: Live, path: str) -> None:
    for command in ("docker-plugin", "snapshotter"):
        refused = live.run(command, "--socket", path)
        assert refused.code == 2
        assert "no socket can be made at" in refused.err
        assert "--socket" in refused.err
