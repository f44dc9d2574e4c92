"""``cowfs snapshotter``, asked by a client of the test's own: what it must do, and what it must refuse."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from cowfs_cli.containerd import messages
from tests.cli.live import Live
from tests.containers.adapter import serving
from tests.containers.conftest import with_root

pytestmark = [pytest.mark.fuse]
Code = grpc.StatusCode


class Client:
    """What containerd would ask; ``name`` and its fields, the answer as a message."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.channel = grpc.insecure_channel(f"unix:{path}")

    def raw(self, method: str, data: bytes) -> bytes:
        """The bytes of the answer."""
        call = self.channel.unary_unary(f"/{messages.SERVICE}/{method}")
        return bytes(call(data, timeout=60, wait_for_ready=True))

    def do(self, method: str, **fields: Any) -> Any:
        """The answer to what must succeed; of a list every snapshot in it."""
        asked, answered = map(messages.message, messages.METHODS[method])
        request = asked(snapshotter="cowfs", **fields).SerializeToString()
        if method == "List":
            parts = self.channel.unary_stream(f"/{messages.SERVICE}/List")(request, timeout=60, wait_for_ready=True)
            return [info for part in parts for info in answered.FromString(part).info]
        return answered.FromString(self.raw(method, request))

    def refused(self, method: str, **fields: Any) -> Any:
        """The status of what must not."""
        with pytest.raises(grpc.RpcError) as caught:
            self.do(method, **fields)
        return caught.value.code()

    def path_of(self, answer: Any, option: str = "rw") -> Path:
        """Where the one mount of an answer is."""
        (mount,) = answer.mounts
        assert (mount.type, list(mount.options)) == ("bind", ["rbind", option])
        return Path(mount.source)

    def layer(self, key: str, parent: str, files: dict[str, str]) -> None:
        """A committed snapshot ``key`` with these files over ``parent``."""
        path = self.path_of(self.do("Prepare", key=f"making {key}", parent=parent))
        for name, text in files.items():
            (path / name).write_text(text)
        self.do("Commit", name=key, key=f"making {key}")


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """One store for all: the tests leave nothing but ``ws`` in it."""
    yield from with_root(tmp_path_factory.mktemp("snapshots"))


@pytest.fixture
def client(live: Live, tmp_path: Path) -> Iterator[Client]:
    with serving(live, "snapshotter", tmp_path / "cowfs.sock"):
        made = Client(tmp_path / "cowfs.sock")
        yield made
        made.channel.close()
    for each in live.json("list"):
        if each["name"] != "ws":
            live.cowfs("rm", "--force", each["name"])


def infos(client: Client, *filters: str) -> dict[str, tuple[int, str]]:
    """key -> (kind, parent) of what is listed."""
    return {info.name: (info.kind, info.parent) for info in client.do("List", filters=filters)}


def test_layers_views_and_containers(live: Live, client: Client) -> None:
    assert stat.S_IMODE(client.path.stat().st_mode) == 0o600
    client.layer("base", "", {"a": "base", "b": "base"})
    client.layer("top", "base", {"a": "top"})
    first = client.path_of(client.do("Prepare", key="c1", parent="top"))
    second = client.path_of(client.do("Prepare", key="c2", parent="top"))
    (first / "a").write_text("c1's")
    (first / "b").unlink()
    assert [(second / name).read_text() for name in "ab"] == ["top", "base"]
    view = client.path_of(client.do("View", key="v", parent="base"), "ro")
    assert (view / "a").read_text() == "base"
    with pytest.raises(OSError, match="Read-only"):
        (view / "a").write_text("x")
    assert client.path_of(client.do("Mounts", key="c1")) == first
    assert client.path_of(client.do("Mounts", key="v"), "ro") == view
    assert infos(client) == {
        "base": (messages.COMMITTED, ""), "top": (messages.COMMITTED, "base"), "c1": (messages.ACTIVE, "top"),
        "c2": (messages.ACTIVE, "top"), "v": (messages.VIEW, "base"),
    }  # fmt: skip
    # Layers that nobody works in are not mounted.
    assert len(live.json("mount")) == 3
    for key in ("v", "c2", "c1", "top", "base"):
        client.do("Remove", key=key)
    assert [each["name"] for each in live.json("list")] == ["ws"]
    assert live.json("mount") == []


def test_what_is_refused(client: Client) -> None:
    client.layer("base", "", {})
    client.do("Prepare", key="c", parent="base")
    assert client.refused("Prepare", key="c", parent="base") == Code.ALREADY_EXISTS
    assert client.refused("View", key="base", parent="base") == Code.ALREADY_EXISTS
    assert client.refused("Commit", name="base", key="c") == Code.ALREADY_EXISTS
    assert client.refused("Prepare", key="d", parent="nothing") == Code.NOT_FOUND
    assert client.refused("Prepare", key="d", parent="c") == Code.INVALID_ARGUMENT
    assert client.refused("Commit", name="d", key="base") == Code.FAILED_PRECONDITION
    assert client.refused("Mounts", key="base") == Code.FAILED_PRECONDITION
    assert client.refused("Remove", key="base") == Code.FAILED_PRECONDITION
    for method in ("Mounts", "Remove", "Stat", "Usage"):
        assert client.refused(method, key="nothing") == Code.NOT_FOUND
    assert client.refused("Commit", name="d", key="nothing") == Code.NOT_FOUND
    assert client.refused("Update", info={"name": "nothing"}) == Code.NOT_FOUND
    path = client.path_of(client.do("Mounts", key="c"))
    with (path / "held").open("w"):
        assert client.refused("Remove", key="c") == Code.FAILED_PRECONDITION
    client.do("Remove", key="c")


def test_labels_times_and_filters(client: Client) -> None:
    client.do("Prepare", key="a/ü", labels={"containerd.io/x": "\n\x1b", "b": "2"})
    before = client.do("Stat", key="a/ü").info
    assert dict(before.labels) == {"containerd.io/x": "\n\x1b", "b": "2"}
    assert before.created_at == before.updated_at
    mask = {"paths": ["labels.b", "labels.c"]}
    after = client.do("Update", info={"name": "a/ü", "labels": {"c": "3", "d": "4"}}, update_mask=mask).info
    assert dict(after.labels) == {"containerd.io/x": "\n\x1b", "c": "3"}
    assert after.created_at == before.created_at
    assert (after.updated_at.seconds, after.updated_at.nanos) > (before.updated_at.seconds, before.updated_at.nanos)
    assert dict(client.do("Update", info={"name": "a/ü", "labels": {"e": "5"}}).info.labels) == {"e": "5"}
    for wrong in ("kind", "parent", "labelsx", ""):
        assert client.refused("Update", info={"name": "a/ü"}, update_mask={"paths": [wrong]}) == Code.INVALID_ARGUMENT
    client.layer("base", "", {})
    for filters, wanted in (
        (['labels."e"==5'], {"a/ü"}), (["labels.e"], {"a/ü"}), (["labels.e!=5"], {"base"}),
        (["kind==active,labels.e==6"], set()), (["kind==committed", "name==a/ü"], {"a/ü", "base"}),
        ([], {"a/ü", "base"}),
    ):  # fmt: skip
        assert infos(client, *filters).keys() == wanted, filters
    for bad in ("kind=~a", "kind==", "size==1", "kind==active,", 'labels."', "x" * 9000, '"', "name~=.*"):
        assert client.refused("List", filters=[bad]) == Code.INVALID_ARGUMENT, bad
    assert client.refused("List", filters=["kind"] * 65) == Code.INVALID_ARGUMENT


def test_usage_is_what_a_layer_adds(client: Client) -> None:
    client.layer("base", "", {"a": "x" * 1_000_000})
    client.layer("top", "base", {"b": "x" * 500_000, "c": ""})
    base, top = client.do("Usage", key="base"), client.do("Usage", key="top")
    assert (1_000_000 <= base.size < 1_100_000, base.inodes) == (True, 2)
    assert (500_000 <= top.size < 600_000, top.inodes) == (True, 2)
    path = client.path_of(client.do("Prepare", key="c", parent="top"))
    (path / "d").write_bytes(b"x" * 200_000)
    now = client.do("Usage", key="c")
    assert (200_000 <= now.size < 300_000, now.inodes) == (True, 1)


def test_a_restart_forgets_nothing_and_removes_what_is_half_made(live: Live, tmp_path: Path) -> None:
    path = tmp_path / "cowfs.sock"
    with serving(live, "snapshotter", path) as process:
        client = Client(path)
        client.layer("base", "", {"a": "base"})
        (client.path_of(client.do("Prepare", key="c", parent="base", labels={"x": "y"})) / "a").write_text("c")
        before = {info.name: info for info in client.do("List")}
        process.send_signal(signal.SIGKILL)
        process.wait()
        client.channel.close()
    live.cowfs("create", "containerd-0123456789abcdef")
    live.cowfs("create", "containerd-mine")
    live.cowfs("daemon", "stop", "--force")
    with serving(live, "snapshotter", path):
        client = Client(path)
        assert {info.name: info for info in client.do("List")} == before
        client.do("Commit", name="second", key="c")
        view = client.path_of(client.do("View", key="v", parent="second"), "ro")
        assert (view / "a").read_text() == "c"
        for key in ("v", "second", "base"):
            client.do("Remove", key=key)
        client.do("Cleanup")
        client.channel.close()
    assert [each["name"] for each in live.json("list")] == ["containerd-mine", "ws"]
    live.cowfs("rm", "containerd-mine")


def test_hostile_requests(live: Live, client: Client) -> None:
    client.do("Prepare", key="../../etc", labels={"../x": "/"})
    assert client.path_of(client.do("Mounts", key="../../etc")).parent == Path(live.cowfs("path", "ws")).parent
    for key in ("", "x" * 1025):
        assert client.refused("Prepare", key=key) == Code.INVALID_ARGUMENT
        assert client.refused("Commit", name=key, key="../../etc") == Code.INVALID_ARGUMENT
    many = {f"l{number}": "x" * 4000 for number in range(10)}
    assert client.refused("Prepare", key="k", labels={"l": "x" * 4096}) == Code.INVALID_ARGUMENT
    assert client.refused("Prepare", key="k", labels=many) == Code.INVALID_ARGUMENT
    assert client.refused("Update", info={"name": "../../etc", "labels": many}) == Code.INVALID_ARGUMENT
    for parent in ("ws", "ws@latest", "../../etc", "template:x"):
        assert client.refused("Prepare", key="k", parent=parent) in (Code.NOT_FOUND, Code.INVALID_ARGUMENT)
    for method in messages.METHODS:
        for data in (b"\xff", b"\x0a\xff", b"\x0a\x02\xff\xfe", b"\x0a\xff\xff\xff\xff\x0f"):
            with pytest.raises(grpc.RpcError) as caught:
                client.raw(method, data)
            assert caught.value.code() == Code.INVALID_ARGUMENT, (method, data)
    with pytest.raises(grpc.RpcError) as caught:
        client.raw("Prepare", b"\x12" + b"\xff\xff\x7f" + b"x" * 300_000)
    assert caught.value.code() == Code.RESOURCE_EXHAUSTED
    with pytest.raises(grpc.RpcError) as caught:
        client.raw("Nothing", b"")
    assert caught.value.code() == Code.UNIMPLEMENTED
    # What somebody else wrote as a record is nobody's snapshot.
    live.cowfs("set", "ws", 'managed={"containerd":{"key":"evil","labels":[]}}')
    assert infos(client).keys() == {"../../etc"}
    live.cowfs("set", "ws", "managed=")


def test_it_says_what_it_needs(live: Live, tmp_path: Path) -> None:
    words = live.words("snapshotter", "--socket", str(tmp_path / "s"))
    hidden = "import sys; sys.modules['grpc'] = None; sys.argv[0] = 'cowfs'; from cowfs_cli.main import main; main()"
    done = subprocess.run([words[0], "-P", "-c", hidden, *words[4:]], env=live.env, capture_output=True, text=True)
    assert (done.returncode, "cowfs[containerd]" in done.stderr) == (2, True)
    for path in ("relative", "/" + "x" * 200):
        assert live.run("snapshotter", "--socket", path).code == 2
    (tmp_path / "file").touch()
    assert live.run("snapshotter", "--socket", str(tmp_path / "file")).code == 4
    assert os.path.isfile(tmp_path / "file")
