"""Images out: as container tools read them, and as cowfs takes them back."""

from __future__ import annotations

import json
import os
import random
import shutil
import stat
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from cowfs.errors import Conflict, Corrupt, Invalid, NotFound
from cowfs.settle.imageconfig import chain_ids, exported
from tests.cli.live import Live, living
from tests.images.conftest import run
from tests.images.layout import Layout, digest, entry, hard, layer, link
from tests.support.lab import ME as CALLER
from tests.support.lab import Files, Lab
from tests.support.treehash import differences, hash_directory, hash_view

BASE = layer(
    entry("etc"), entry("etc/a", b"a"), entry("etc/b", b"b"), entry("usr"), entry("usr/lib"), entry("usr/lib/x", b"x"),
    hard("usr/lib/y", "usr/lib/x"), link("lib", "usr/lib"), entry("opt"), entry("opt/one", b"1"), entry("opt/two"),
)  # fmt: skip
ABOVE = [
    layer(entry("etc/.wh.a", b""), entry("etc/c", b"c"), entry("h", b"h"), hard("etc/h", "h")),
    layer(entry("opt/.wh..wh..opq", b""), entry("opt/new", b"n"), entry(".wh.usr", b""), entry("lib/.wh.y", b"")),
    layer(),
    layer(entry("etc", b"a file"), entry("opt/new", b"changed")),
]


def ignore(_: Any) -> None:
    """Progress."""


def take(store: Lab, source: str | Path, name: str) -> list[bytes]:
    """Import an image; the roots of its layers."""
    store.engine.import_tree(os.fsencode(source), name, (), ignore)
    return [bytes.fromhex(each.root or "") for each in reversed(store.engine.log(name))]


def export(store: Lab, ref: str, target: str) -> list[str]:
    """Export; what was left out."""
    return store.engine.export(ref, os.fsencode(target), ignore)


def blobs(layout: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(manifest, config) of the only image."""
    (found,) = json.loads((layout / "index.json").read_text())["manifests"]
    manifest = json.loads((layout / "blobs" / found["digest"].replace(":", "/")).read_text())
    config = json.loads((layout / "blobs" / manifest["config"]["digest"].replace(":", "/")).read_text())
    return manifest, config


def contents(top: Path) -> dict[str, bytes]:
    """Every file below a directory."""
    return {str(path.relative_to(top)): path.read_bytes() for path in top.rglob("*") if path.is_file()}


def test_an_image_comes_back_layer_by_layer(store: Lab, tmp_path: Path) -> None:
    image = Layout(tmp_path / "image", BASE, *ABOVE)
    image.config["history"] = [{"created_by": str(number), "empty_layer": number == 2} for number in range(6)]
    image.config["config"] = {"Cmd": ["sh", "-c", "é"], "Env": ["A=b"]}
    roots = take(store, f"oci:{image.finish()}", "ws")
    for target in ("one", "two"):
        assert export(store, "ws@latest", f"oci:{tmp_path}/{target}:t") == []
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert take(store, f"oci:{tmp_path}/one", "back") == roots
    assert export(store, "ws@latest", f"docker-archive:{tmp_path}/d.tar:name:tag") == []
    assert export(store, "ws@latest", f"docker-archive:{tmp_path}/e.tar:name:tag") == []
    assert (tmp_path / "d.tar").read_bytes() == (tmp_path / "e.tar").read_bytes()
    assert take(store, f"docker-archive:{tmp_path}/d.tar:tag", "docker") == roots
    _, config = blobs(tmp_path / "one")
    for key in ("architecture", "os", "config", "history"):
        assert config[key] == image.config[key]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.tar", "e.tar", "image", "one", "store", "two"]


def test_what_changed_is_one_more_layer(store: Lab, tmp_path: Path) -> None:
    image = Layout(tmp_path / "image", BASE, ABOVE[0])
    image.config["history"] = [{"created_by": "one"}, {"created_by": "two"}]
    take(store, f"oci:{image.finish()}", "ws")
    files = store.files("ws")
    files.write("etc/c", b"more", 1)
    files.unlink("opt/one")
    files.rmdir("opt/two")
    files.write("opt/two", b"a file now")
    files.write("usr/.wh.odd", b"")
    files.unlink("h")
    files.mkdir("h")
    for number in range(2):
        assert export(store, "ws", f"oci:{tmp_path}/out{number}") == [
            "usr/.wh.odd: a name that begins with .wh. means a removal in an image"
        ]
    assert contents(tmp_path / "out0") == contents(tmp_path / "out1")
    manifest, config = blobs(tmp_path / "out0")
    assert [len(manifest["layers"]), len(config["rootfs"]["diff_ids"])] == [3, 3]
    assert [each["created_by"] for each in config["history"]] == ["one", "two", "cowfs export"]
    assert config["created"] == config["history"][2]["created"] > "2023-11-14T22:13:20"
    top = tmp_path / "out0/blobs" / manifest["layers"][-1]["digest"].replace(":", "/")
    with tarfile.open(top) as archive:
        names = archive.getnames()
    assert names == [".", "etc", "etc/c", "h", "opt", "opt/.wh.one", "opt/two", "usr"]


def change(files: Files, r: random.Random, step: int) -> None:
    """Some operations that make, change, move, link and remove names."""
    paths = [""]
    for path in paths:
        if files.inode(path).is_dir:
            paths += [f"{path}/{name}".strip("/") for name in files.names(path)]
    directories = [path for path in paths if files.inode(path).is_dir]
    others = [path for path in paths if not files.inode(path).is_dir]
    place = f"{r.choice(directories)}/n{step}-{r.randrange(5)}".strip("/")
    some = r.choice(others) if others else ""
    match r.randrange(9):
        case 0 | 1:
            if not files.exists(place):
                files.mkdir(place)
                files.write(f"{place}/f", r.randbytes(10))
        case 2 | 3:
            files.write(place, r.randbytes(r.choice([0, 5, 5000, 300_000])), r.choice([0, 9000]))
        case 4 if some:
            symbolic = stat.S_ISLNK(files.inode(some).mode)
            files.set(some, **r.choice([{"mtime": step}, {"uid": 7}, {"uid": 8} if symbolic else {"mode": 0o600}]))
        case 5 if some and not files.exists(place):
            files.link(some, place)
        case 6 if some:
            files.unlink(some)
            if r.random() < 0.4:
                files.mkdir(some)
                files.symlink(f"{some}/s", b"../x")
        case 7:
            old = r.choice(paths[1:] or [""])
            if old and not files.exists(place) and not f"{place}/".startswith(f"{old}/"):
                files.rename(old, place)
        case 8 if some:
            files.view.setxattr(files.ino(some), b"trusted.x", b"%d" % step, 0, CALLER)


@pytest.mark.parametrize("seed", range(2))
def test_random_changes_come_back(store: Lab, tmp_path: Path, seed: int) -> None:
    """Whatever happened since the import; and as umoci unpacks it."""
    r = random.Random(seed)
    take(store, f"oci:{Layout(tmp_path / 'image', BASE, *ABOVE[:2]).finish()}", "ws")
    for number in range(5):
        for step in range(40):
            change(store.files("ws"), r, 100 * number + step)
        export(store, "ws", f"oci:{tmp_path}/out:{number}")
        take(store, f"oci:{tmp_path}/out:{number}", f"back{number}")
        wanted, found = hash_view(store.files("ws").view), hash_view(store.files(f"back{number}").view)
        assert wanted == found, differences(wanted, found)
        assert len(store.engine.log(f"back{number}")) == 4
    if shutil.which("umoci") and os.geteuid() == 0:
        run("umoci", "unpack", "--image", f"{tmp_path}/out:4", tmp_path / "bundle")
        found = hash_directory(tmp_path / "bundle/rootfs")
        assert wanted == found, differences(wanted, found)


def test_layers_whose_snapshots_are_gone_are_part_of_the_next(store: Lab, tmp_path: Path) -> None:
    image = Layout(tmp_path / "image", BASE, *ABOVE[:2])
    image.config["history"] = [{"created_by": str(number)} for number in range(3)]
    take(store, f"oci:{image.finish()}", "ws")
    wanted = hash_view(store.files("ws").view)
    store.engine.remove(store.engine.log("ws")[1].id, False)
    store.engine.collect(False, ignore)
    export(store, "ws", f"oci:{tmp_path}/out")
    history = blobs(tmp_path / "out")[1]["history"]
    assert [each.get("empty_layer", False) for each in history] == [False, True, False]
    assert len(take(store, f"oci:{tmp_path}/out", "back")) == 2
    assert hash_view(store.files("back").view) == wanted


def test_a_workspace_that_was_no_image_is_one_layer(store: Lab, tree: Path, tmp_path: Path) -> None:
    store.engine.import_tree(os.fsencode(tree), "ws", (), ignore)
    wanted = hash_view(store.files("ws").view, holes=True)
    assert export(store, "ws", f"oci:{tmp_path}/out") == []
    (root,) = take(store, f"oci:{tmp_path}/out", "back")
    assert root.hex() == store.engine.log("ws")[0].root, "an import of an equal tree"
    assert hash_view(store.files("back").view, holes=True) == wanted


def test_what_another_thread_has_settled_is_exported(
    store: Lab, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.engine.import_tree(os.fsencode(tree), "ws", (), lambda _: None)
    store.files("ws").write("later", b"later")
    store.engine.checkpoint("ws", "later")

    def settled_elsewhere() -> bool:
        store.engine.settle()
        return False

    monkeypatch.setattr(store.engine.images, "_settle", settled_elsewhere)
    assert list(store.engine.export("ws@latest", b"tar:%s/out.tar" % os.fsencode(tmp_path), lambda _: None)) == []


def test_one_layout_has_many_images(store: Lab, tmp_path: Path) -> None:
    take(store, f"oci:{Layout(tmp_path / 'image', BASE).finish()}", "ws")
    place = tmp_path / "out"
    place.mkdir()
    export(store, "ws", f"oci:{place}:first")
    before = contents(place)
    with pytest.raises(Conflict, match="first already"):
        export(store, "ws", f"oci:{place}:first")
    with pytest.raises(Invalid, match="needs a tag"):
        export(store, "ws", f"oci:{place}")
    assert contents(place) == before
    store.files("ws").write("etc/a", b"x")
    export(store, "ws", f"oci:{place}:second")
    assert [len(take(store, f"oci:{place}:{tag}", tag)) for tag in ("first", "second")] == [1, 2]
    assert {name for name in before if name != "index.json"} < contents(place).keys()


@pytest.mark.parametrize(
    ("target", "error"),
    [
        ("oci:{tmp}/full", Conflict), ("oci:{tmp}/file", Conflict), ("docker-archive:{tmp}/file", Conflict),
        ("oci:{tmp}/none/out", NotFound), ("docker-archive:{tmp}/none/out", NotFound), ("oci:{tmp}/x:a b", Invalid),
        ("oci:{tmp}/bad:t", Invalid), ("oci:{tmp}/odd:t", Invalid), ("{tmp}/x", Invalid),
    ],
)  # fmt: skip
def test_targets_that_cannot_be(store: Lab, tmp_path: Path, target: str, error: type[Exception]) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/something").touch()
    (tmp_path / "file").touch()
    for name, index in (("bad", "{"), ("odd", '{"manifests": 1}')):
        Layout(tmp_path / name, BASE).finish()
        (tmp_path / name / "index.json").write_text(index)
    store.engine.create("ws")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(error):
        export(store, "ws", target.format(tmp=tmp_path))
    assert [path for path in sorted(tmp_path.rglob("*")) if store.path not in path.parents] == [
        path for path in before if store.path not in path.parents
    ]


def test_a_damaged_block_leaves_nothing(store: Lab, tmp_path: Path) -> None:
    take(store, f"oci:{Layout(tmp_path / 'image', BASE).finish()}", "ws")
    out = tmp_path / "out"
    export(store, "ws", f"oci:{out}:one")
    before = contents(out)
    (segment,) = (store.path / "segments").iterdir()
    size = segment.stat().st_size
    store.files("ws").write("large", os.urandom(300_000))
    store.engine.checkpoint("ws", "")
    store.engine.settle()
    good = segment.read_bytes()
    segment.write_bytes(good[:size] + bytes(byte ^ 1 for byte in good[size:]))
    try:
        for target in (f"oci:{out}:two", f"oci:{tmp_path}/new", f"docker-archive:{tmp_path}/new.tar"):
            with pytest.raises(Corrupt):
                export(store, "ws", target)
    finally:
        segment.write_bytes(good)
    assert contents(out) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["image", "out", "store"]


def test_configurations() -> None:
    """What an image says of itself stays, what does not fit its layers goes."""
    ids = [digest(b"%d" % number) for number in range(3)]
    assert chain_ids(ids)[:2] == [ids[0], digest(f"{ids[0]} {ids[1]}".encode())]
    odd: dict[str, Any] = {"rootfs": {"diff_ids": ids}, "history": [{"empty_layer": True}, 5], "x": 1, "created": "c"}
    kept = json.loads(exported(json.dumps(odd).encode(), [1, 2, 3], ids, 0))
    assert (kept["x"], kept["created"], "history" in kept) == (1, "c", False)
    odd["history"] = [{"created_by": "1"}]
    assert "history" not in json.loads(exported(json.dumps(odd).encode(), [1, 2, 3], ids, 0)), "fewer than layers"
    plain = json.loads(exported(None, [0], ids[:1], 1_700_000_000_000_000_001))
    assert plain["history"] == [{"created": "2023-11-14T22:13:20.000000001Z", "created_by": "cowfs export"}]


@pytest.mark.skipif(not shutil.which("umoci") or not shutil.which("skopeo"), reason="needs umoci and skopeo")
def test_tools_read_what_the_commands_write(tree: Path, tmp_path: Path) -> None:
    with living(tmp_path / "s") as live:
        _tools(live, tree, tmp_path)


def _tools(live: Live, tree: Path, tmp_path: Path) -> None:
    image, archive, again = tmp_path / "image", tmp_path / "docker.tar", tmp_path / "again"
    live.cowfs("import", f"dir:{tree}", "ws")
    told = live.json("export", "ws", f"oci:{image}:one")
    assert told == {"ref": "ws", "target": f"oci:{image}:one", "problems": []}
    run("umoci", "unpack", "--image", f"{image}:one", tmp_path / "bundle")
    wanted, found = hash_directory(tree), hash_directory(tmp_path / "bundle/rootfs")
    assert wanted == found, differences(wanted, found)
    inspected = subprocess.run(["skopeo", "inspect", f"oci:{image}:one"], capture_output=True, check=True)
    assert len(json.loads(inspected.stdout)["Layers"]) == 1
    live.cowfs("import", f"oci:{image}:one", "back")
    top = Path(live.cowfs("path", "back"))
    shutil.rmtree(top / "d/deep")
    (top / "new").write_bytes(b"new")
    live.cowfs("export", "back", f"docker-archive:{archive}:name:tag")
    run("skopeo", "copy", f"docker-archive:{archive}:name:tag", f"oci:{again}:one")
    run("umoci", "unpack", "--image", f"{again}:one", tmp_path / "other")
    wanted, found = hash_directory(top), hash_directory(tmp_path / "other/rootfs")
    assert wanted == found, differences(wanted, found)
    taken = live.run("export", "back", f"oci:{image}:one")
    assert (taken.code, taken.err.count("\n")) == (4, 1), taken
