"""Layers that the store has are not read again."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from cowfs.errors import Invalid
from tests.images.conftest import run
from tests.images.layout import Layout, entry, hard, layer, link
from tests.support.lab import Lab
from tests.support.treehash import hash_view

BASE = layer(entry("etc"), entry("etc/a", b"a"), entry("etc/b", bytes(100_000)), link("soft", "etc"))
MIDDLE = layer(entry("etc/.wh.a", b""), entry("etc/c", b"c"), entry("h", b"h"), hard("etc/h", "h"))
TOPS = [layer(entry("soft/d", b"%d" % number), hard("other", "etc/b")) for number in range(3)]
LIMIT = 1 << 30


def ignore(_: Any) -> None:
    """Progress."""


def take(store: Lab, source: str | Path, name: str, limit: int = LIMIT) -> list[str | None]:
    """Import an image; the roots of its layers."""
    store.engine.import_tree(os.fsencode(source), name, (), ignore, limit=limit)
    return [each.root for each in reversed(store.engine.log(name))]


def layout(path: Path, top: bytes, *missing: int) -> Path:
    """An image of three layers, of which the files of some are missing."""
    made = Layout(path, BASE, MIDDLE, top)
    for number in missing:
        (path / "blobs" / made.manifest["layers"][number]["digest"].replace(":", "/")).unlink()
    return made.finish()


def test_layers_that_are_there_are_not_read(store: Lab, tmp_path: Path) -> None:
    first = take(store, f"oci:{layout(tmp_path / '1', TOPS[0])}", "one")
    assert take(store, f"oci:{layout(tmp_path / '2', TOPS[0], 0, 1, 2)}", "all") == first
    second = take(store, f"oci:{layout(tmp_path / '3', TOPS[1], 0, 1)}", "two")
    assert second[:2] == first[:2]
    fresh = Lab(tmp_path / "fresh", inline=False)
    try:
        assert take(fresh, f"oci:{layout(tmp_path / '4', TOPS[1])}", "two") == second, "as if all had been read"
        assert hash_view(fresh.files("two").view, identity=True) == hash_view(store.files("two").view, identity=True)
        with pytest.raises(Invalid, match="No such file"):
            take(fresh, f"oci:{layout(tmp_path / '6', TOPS[2], 2)}", "three")
    finally:
        fresh.close()


def test_everything_below_counts(store: Lab, tmp_path: Path) -> None:
    """The same layer on another one is another one."""
    take(store, f"oci:{layout(tmp_path / '1', TOPS[0])}", "one")
    other = Layout(tmp_path / "2", layer(entry("etc"), entry("etc/b", b"other")), MIDDLE).finish()
    take(store, f"oci:{other}", "two")
    assert store.files("two").read("etc/b") == b"other"


def test_what_is_gone_is_read_again(store: Lab, tmp_path: Path) -> None:
    roots = take(store, f"oci:{layout(tmp_path / '1', TOPS[0])}", "one")
    store.engine.remove("one", True)
    store.engine.collect(False, ignore)
    with pytest.raises(Invalid):
        take(store, f"oci:{layout(tmp_path / '2', TOPS[0], 0)}", "two")
    assert take(store, f"oci:{layout(tmp_path / '3', TOPS[0])}", "three") == roots


def test_they_outlive_their_snapshots_while_an_import_goes_on(store: Lab, tmp_path: Path) -> None:
    """Whatever is removed and collected meanwhile."""
    roots = take(store, f"oci:{layout(tmp_path / '1', TOPS[0])}", "one")
    path, removed = layout(tmp_path / "2", TOPS[1], 0, 1), list[int]()

    def remove(counts: dict[str, Any]) -> None:
        if not removed and "problems" not in counts:
            removed.append(1)
            store.engine.remove("one", True)
            store.engine.collect(False, ignore)

    store.engine.import_tree(b"oci:" + os.fsencode(path), "two", (), remove, limit=LIMIT)
    assert removed
    assert [each.root for each in reversed(store.engine.log("two"))][:2] == roots[:2]
    store.engine.collect(False, ignore)
    assert store.files("two").read("etc/b") == bytes(100_000)


def test_digests_are_checked_all_the_same(store: Lab, tmp_path: Path) -> None:
    take(store, f"oci:{layout(tmp_path / '1', TOPS[0])}", "one")
    made = Layout(tmp_path / "2", BASE, MIDDLE)
    made.manifest["layers"][0]["digest"] = "sha256:../../../../etc/passwd"
    with pytest.raises(Invalid, match="digest"):
        take(store, f"oci:{made.finish()}", "two")


def test_every_kind_of_file_comes_back_from_the_store(store: Lab, tree: Path, tmp_path: Path) -> None:
    """A layer above one that is not read: what lies below is what a fresh import makes of it."""
    run("tar", "--numeric-owner", "--xattrs", "--xattrs-include=*", "--acls", "--sparse", "--format=pax",
        "-cf", tmp_path / "base.tar", "-C", tree, ".")  # fmt: skip
    base, top = (tmp_path / "base.tar").read_bytes(), layer(entry("d/new", b"new"), entry("d/.wh.small", b""))
    take(store, f"oci:{Layout(tmp_path / '1', base).finish()}", "below")
    roots = take(store, f"oci:{Layout(tmp_path / '2', base, top).finish()}", "two")
    fresh = Lab(tmp_path / "fresh", inline=False)
    try:
        assert take(fresh, f"oci:{Layout(tmp_path / '3', base, top).finish()}", "two") == roots
    finally:
        fresh.close()


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress, "zstd": zstandard.compress,
}  # fmt: skip


@pytest.mark.parametrize("packer", PACKERS)
def test_compressed_docker_archives(store: Lab, tmp_path: Path, packer: str) -> None:
    image = tmp_path / "docker.tar"
    take(store, f"oci:{layout(tmp_path / '1', TOPS[0])}", "one")
    store.engine.export("one", os.fsencode(f"docker-archive:{image}:name:tag"), ignore)
    packed = tmp_path / "packed"
    packed.write_bytes(PACKERS[packer](image.read_bytes()))
    take(store, f"docker-archive:{packed}:tag", "two")
    assert hash_view(store.files("two").view) == hash_view(store.files("one").view)
    with pytest.raises(Invalid, match="more than 1000 bytes"):
        take(store, f"docker-archive:{packed}", "three", limit=1000)
    packed.write_bytes(packed.read_bytes()[: packed.stat().st_size // 2])
    with pytest.raises(Invalid):
        take(store, f"docker-archive:{packed}", "four")
    packed.write_bytes(PACKERS[packer](b"no archive"))
    with pytest.raises(Invalid, match="tar archive"):
        take(store, f"docker-archive:{packed}", "five")
    assert [path.name for path in (store.path / "tmp").iterdir()] == []
