"""Images: layers on top of each other, as container tools unpack them."""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from cowfs.blocks.memory import MemoryBlocks
from cowfs.errors import Invalid
from cowfs.geometry import Geometry
from cowfs.settle import imagetree
from cowfs.settle.imageimport import LayerRoot, Source, import_image
from cowfs.settle.imagelayers import LayerTree, lay_over, resolve
from cowfs.settle.imagetree import IMPLIED, ImageTree, Node
from cowfs.settle.records import Attributes
from tests.cli.live import Live
from tests.images.conftest import make_tree, run
from tests.images.layout import Layout, entry, hard, layer, link
from tests.support.lab import Lab
from tests.support.treehash import hash_directory

LIMIT = 1 << 30


def listing(store: Lab, root: bytes, to: Path) -> dict[str, str]:
    """Path -> what is there, of everything below a root."""
    archive = to / f"{root.hex()[:8]}.tar"
    archive.unlink(missing_ok=True)
    store.engine.jobs.exporter.export(root, os.fsencode(archive))
    out = to / f"{root.hex()[:8]}-out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    run("tar", "-xf", archive, "-C", out)
    found = {}
    for path in sorted(out.rglob("*")):
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            found[str(path.relative_to(out))] = "-> " + os.readlink(path)
        else:
            found[str(path.relative_to(out))] = "/" if path.is_dir() else path.read_text()
    return found


def imported(store: Lab, tmp_path: Path, *layers: bytes) -> list[dict[str, str]]:
    """What is there after each layer."""
    path = Layout(tmp_path / "image", *layers).finish()
    image = store.engine.settler.import_image("oci", os.fsencode(path), "", LIMIT)
    return [listing(store, each.root, tmp_path) for each in image.layers]


BASE = layer(
    entry("etc"), entry("etc/a", b"a"), entry("etc/b", b"b"), entry("usr"), entry("usr/lib"), entry("usr/lib/x", b"x"),
    hard("usr/lib/y", "usr/lib/x"), link("lib", "usr/lib"), link("abs", "/usr/lib"), link("out", "../../etc"),
    link("loop", "loop"),
)  # fmt: skip
BELOW = {
    "abs": "-> /usr/lib", "etc": "/", "etc/a": "a", "etc/b": "b", "lib": "-> usr/lib", "loop": "-> loop",
    "out": "-> ../../etc", "usr": "/", "usr/lib": "/", "usr/lib/x": "x", "usr/lib/y": "x",
}  # fmt: skip


@pytest.mark.parametrize(
    ("above", "gone", "new"),
    [
        ([entry("etc/.wh.a", b"")], ["etc/a"], {}),
        ([entry("etc/.wh.nothing", b"")], [], {}),
        ([entry(".wh.etc", b"")], ["etc", "etc/a", "etc/b"], {}),
        ([entry("etc/.wh..wh..opq", b"")], ["etc/a", "etc/b"], {}),
        ([entry("etc/c", b"c"), entry("etc/.wh..wh..opq", b"")], ["etc/a", "etc/b"], {"etc/c": "c"}),
        ([entry("etc/.wh.a", b""), entry("etc/a", b"new")], [], {"etc/a": "new"}),
        ([entry("etc/.wh..wh.plnk", b"")], [], {}),
        ([entry("etc/a", b"changed")], [], {"etc/a": "changed"}),
        ([entry("etc/a/deep", b"d")], [], {"etc/a": "/", "etc/a/deep": "d"}),
        ([entry("etc", b"a file")], ["etc/a", "etc/b"], {"etc": "a file"}),
        ([hard("h", "usr/lib/x")], [], {"h": "x"}),
        ([hard("h", "lib/x")], [], {"h": "x"}),
        ([entry("lib/z", b"z")], [], {"usr/lib/z": "z"}),
        ([entry("abs/z", b"z")], [], {"usr/lib/z": "z"}),
        ([entry("abs/.wh.x", b"")], ["usr/lib/x"], {}),
        ([entry("out/z", b"z")], [], {"etc/z": "z"}),
        ([entry("loop/z", b"z")], [], {"loop": "/", "loop/z": "z"}),
        ([entry("lib"), entry("lib/z", b"z")], [], {"lib": "/", "lib/z": "z"}),
    ],
)
def test_a_layer_above(store: Lab, tmp_path: Path, above: list[object], gone: list[str], new: dict[str, str]) -> None:
    first, second = imported(store, tmp_path, BASE, layer(*above))
    assert first == BELOW
    assert second == {path: what for path, what in {**BELOW, **new}.items() if path not in gone}


def test_numbers_stay_from_layer_to_layer(store: Lab, tmp_path: Path) -> None:
    """A workspace can go back and forth between them: an inode number means one file."""
    path = Layout(tmp_path / "image", BASE, layer(entry("etc/0", b"0"), entry("etc/a", b"new"))).finish()
    store.engine.import_tree(b"oci:" + os.fsencode(path), "ws", (), lambda _: None)
    old, new = store.engine.log("ws")[::-1]
    changes = {(each.path, each.change) for each in store.engine.diff(old.id, new.id)}
    assert (b"etc/0", "added") in changes
    assert {path for path, _ in changes} <= {b"etc/0", b"etc/a", b"etc"}
    store.engine.restore("ws", old.id)
    assert store.files("ws").read("etc/a") == b"a"
    store.engine.restore("ws", new.id)
    assert store.files("ws").read("etc/a") == b"new"


def test_the_same_layers_are_the_same_snapshots(store: Lab, tmp_path: Path) -> None:
    tops = [layer(entry("etc/c", b"%d" % number)) for number in range(2)]
    roots = []
    for number, top in enumerate(tops):
        path = Layout(tmp_path / f"image{number}", BASE, top, packed=bool(number)).finish()
        image = store.engine.settler.import_image("oci", os.fsencode(path), "one", LIMIT)
        roots.append([each.root for each in image.layers])
    assert roots[0][0] == roots[1][0]
    assert roots[0][1] != roots[1][1]


def build(image: Path, changes: list[Callable[[Path], None]]) -> None:
    """An image made by umoci, a layer for each change."""
    run("umoci", "init", "--layout", image)
    run("umoci", "new", "--image", f"{image}:one")
    for number, change in enumerate(changes):
        bundle = image.parent / f"bundle{number}"
        run("umoci", "unpack", "--image", f"{image}:one", bundle)
        change(bundle / "rootfs")
        run("umoci", "repack", "--image", f"{image}:one", bundle)


def grow(root: Path) -> None:
    """The second layer of an image."""
    shutil.rmtree(root / "d/deep")
    (root / "d/deep").mkdir()
    (root / "d/deep/new").write_bytes(os.urandom(50_000))
    (root / "soft").unlink()
    (root / "d/small").write_text("changed")
    os.chmod(root / "sparse", 0o600)


@pytest.mark.skipif(not shutil.which("umoci") or not shutil.which("skopeo"), reason="needs umoci and skopeo")
def test_real_images_through_the_commands(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("devices and owners need root")
    image, archive = tmp_path / "image", tmp_path / "docker.tar"
    build(image, [make_tree, grow, lambda root: (root / "third").mkdir()])
    run("skopeo", "copy", f"oci:{image}:one", f"docker-archive:{archive}:name:tag")
    run("umoci", "unpack", "--image", f"{image}:one", tmp_path / "final")
    live = Live(tmp_path / "s")
    live.cowfs("init")
    try:
        live.cowfs("import", f"oci:{image}:one", "a")
        live.cowfs("import", f"docker-archive:{archive}:tag", "b")
        assert live.json("diff", "a", "b") == []
        log = live.json("log", "a")
        assert [each["message"].split(",")[0] for each in log] == [f"layer {n} of 3" for n in (3, 2, 1)]
        assert [each["root"] for each in log] == [each["root"] for each in live.json("log", "b")]
        assert hash_directory(live.cowfs("path", "a")) == hash_directory(tmp_path / "final/rootfs")
        live.cowfs("restore", "a", log[2]["id"])
        assert (Path(live.cowfs("path", "a")) / "d/deep/third").exists()
        live.cowfs("fork", log[1]["id"], "second")
        assert not (Path(live.cowfs("path", "second")) / "third").exists()
        missing = live.run("import", f"oci:{image}:two", "c")
        assert (missing.code, "one" in missing.err, missing.err.count("\n")) == (2, True, 1), missing
        assert live.cowfs("fsck", "--deep") == "clean"
    finally:
        live.end()


def broken(name: str, path: Path) -> Path:
    """An image with one thing wrong."""
    made = Layout(path, BASE, layer(entry("f", b"f")))
    first = made.manifest["layers"][0]
    place = path / "blobs" / first["digest"].replace(":", "/")
    match name:
        case "a layer with another digest":
            place.write_bytes(place.read_bytes()[:-1] + b"x")
        case "a layer of another size":
            first["size"] += 1
        case "a layer that is cut off":
            place.write_bytes(place.read_bytes()[:100])
        case "a layer that is not there":
            place.unlink()
        case "a layer that is a link":
            (path / "real").write_bytes(place.read_bytes())
            place.unlink()
            place.symlink_to(path / "real")
        case "a digest that is a path":
            first["digest"] = "sha256:../../../../etc/passwd"
        case "an unknown kind of digest":
            first["digest"] = "md5:" + "0" * 32
        case "a negative size":
            first["size"] = -1
        case "an unknown kind of layer":
            first["mediaType"] = "application/vnd.example.layer"
        case "another unpacked digest":
            made.config["rootfs"]["diff_ids"][0] = "sha256:" + "0" * 64
        case "fewer layers in the config":
            del made.config["rootfs"]["diff_ids"][0]
        case "no layers":
            made.manifest["layers"], made.config["rootfs"]["diff_ids"] = [], []
        case "layers that are no list":
            made.manifest["layers"] = {"a": 1}
        case "a config that is no JSON":
            made.manifest["config"] = made.blob(b"{" * 100_000, "x")
        case "a config of megabytes":
            made.manifest["config"] = made.blob(b'"' + b"x" * (2 << 20) + b'"', "x")
        case "an unknown layout":
            made.layout = {"imageLayoutVersion": "2.0.0"}
        case "an index in itself":
            made.index["manifests"] = [{"mediaType": "application/vnd.oci.image.index.v1+json", "size": 1,
                                        "digest": "sha256:" + "0" * 64}]  # fmt: skip
        case "no manifests":
            made.finish()
            made.index["manifests"] = []
            (path / "index.json").write_text(json.dumps(made.index))
            return path
        case "a whiteout of nothing":
            return Layout(path / "x", BASE, layer(entry(".wh.", b""))).finish()
        case "a whiteout that leaves":
            return Layout(path / "x", BASE, layer(entry("../.wh.etc", b""))).finish()
        case "a hard link that leaves":
            return Layout(path / "x", BASE, layer(hard("h", "../../etc/passwd"))).finish()
    return made.finish()


@pytest.mark.parametrize(
    "name",
    [
        "a layer with another digest", "a layer of another size", "a layer that is cut off",
        "a layer that is not there", "a layer that is a link", "a digest that is a path", "an unknown kind of digest",
        "a negative size", "an unknown kind of layer", "another unpacked digest", "fewer layers in the config",
        "no layers", "layers that are no list", "a config that is no JSON", "a config of megabytes",
        "an unknown layout", "an index in itself", "no manifests", "a whiteout of nothing", "a whiteout that leaves",
        "a hard link that leaves",
    ],
)  # fmt: skip
def test_hostile_images(store: Lab, tmp_path: Path, name: str) -> None:
    path = broken(name, tmp_path / "image")
    with pytest.raises(Invalid) as caught:
        store.engine.import_tree(b"oci:" + os.fsencode(path), "ws", (), lambda _: None, limit=LIMIT)
    assert len(caught.value.message) < 500
    assert store.engine.list() == []


def test_a_bomb_of_many_layers(store: Lab, tmp_path: Path) -> None:
    """The limit is one for all layers."""
    layers = [layer(entry(f"f{number}", bytes(1 << 20))) for number in range(8)]
    path = Layout(tmp_path / "image", *layers).finish()
    with pytest.raises(Invalid, match="more than"):
        store.engine.import_tree(b"oci:" + os.fsencode(path), "ws", (), lambda _: None, limit=5 << 20)


def test_all_layers_count_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an image may have in all is not for each layer anew, nor is it when the store has the layers below."""
    monkeypatch.setattr(imagetree, "ENTRIES_MAX", 100)
    layers = [layer(*(entry(f"{top}{number}", b"") for number in range(60))) for top in "ab"]
    blocks = MemoryBlocks()

    def take(name: str, known: Sequence[LayerRoot], *layers: bytes) -> Sequence[LayerRoot]:
        path = Layout(tmp_path / name, *layers).finish()
        source = Source("oci", os.fsencode(path), "", str(tmp_path))
        return import_image(blocks, blocks, source, Geometry(), LIMIT, lambda *_: None, lambda _: known).layers

    below = take("one", (), layers[0])
    for known in ((), below):
        with pytest.raises(Invalid, match="more than 100 entries"):
            take(f"both-{len(known)}", known, *layers)


def test_links_cost_the_same_in_a_large_tree() -> None:
    """Following a link does not look through the tree."""

    def lines(count: int) -> int:
        tree = ImageTree()
        layer = LayerTree(tree)
        for number in range(count):
            tree.put(b"dirs/%d" % number, Node(IMPLIED))
            link = Node(Attributes(stat.S_IFLNK | 0o777, 0, 0, 0))
            link.target = b"../dirs/../dirs/%d" % number
            tree.put(b"links/%d" % number, link)
            layer.put(b"links/%d/f" % number, Node(Attributes(stat.S_IFREG | 0o644, 0, 0, 0)))
        seen = 0

        def trace(*_: object) -> Any:
            nonlocal seen
            seen += 1
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            lay_over(tree, layer, lambda *_: None)
        finally:
            sys.settrace(before)
        assert all(tree.find(b"dirs/%d/f" % number) for number in range(count))
        return seen

    assert lines(400) < 3 * lines(200)


def test_links_that_lead_on_and_on_end() -> None:
    """40 links of 2000 names each are no way to anywhere."""
    tree = ImageTree()
    tree.put(b"d", Node(IMPLIED))
    for number in range(30):
        link = Node(Attributes(stat.S_IFLNK | 0o777, 0, 0, 0))
        link.target = b"d/../" * 500 + (b"%d" % (number + 1) if number < 29 else b"d")
        tree.put(b"%d" % number, link)
    assert resolve(tree.root, tree.root, [b"29"]) is tree.find(b"d")
    assert resolve(tree.root, tree.root, [b"0"]) is None


def test_a_directory_with_a_colon(store: Lab, tmp_path: Path) -> None:
    path = Layout(tmp_path / "a:b", BASE).finish()
    store.engine.import_tree(b"oci:" + os.fsencode(path), "ws", (), lambda _: None)
    assert store.files("ws").read("etc/a") == b"a"
