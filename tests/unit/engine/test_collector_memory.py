"""Garbage collection and what is read from memory: merged overlays, mounted snapshots, segments that are not full."""

from __future__ import annotations

from random import Random

import pytest

from cowfs.blocks.segments import segment_ids, segment_path
from cowfs.view import directory, file
from tests.support.lab import Lab

BLOCK = 128 << 10


def noise(seed: object, size: int) -> bytes:
    """Bytes that do not compress."""
    return Random(f"{seed}").randbytes(size)


def forget(lab: Lab) -> None:
    """Nothing is cached in memory any more."""
    lab.engine.blocks._raw.clear()
    lab.engine.blocks.nodes.clear()


def collect(lab: Lab) -> int:
    """Collect; how many blocks went."""
    done = lab.engine.collect(False, lambda _: None)
    forget(lab)
    assert list(lab.engine.fsck(deep=True)) == []
    return done.blocks


def test_a_file_merged_over_many_layers(lab: Lab) -> None:
    """It lies on the blocks of the root that was newest when it was merged, which no root may need any more."""
    expected = bytearray(noise("base", 2 * BLOCK))
    lab.files("ws").write("f", bytes(expected))
    snapshots = [lab.engine.checkpoint("ws", "base").snapshot.id]
    lab.engine.settle()
    for number in range(file.DEPTH_MAX):
        at = number * 5000
        expected[at : at + 100] = noise(number, 100)
        lab.files("ws").write("f", bytes(expected[at : at + 100]), at)
        snapshots.append(lab.engine.checkpoint("ws", "", allow_empty=True).snapshot.id)
    expected[3:7] = b"live"
    lab.files("ws").write("f", b"live", 3)
    lab.engine.settle()
    for snapshot in snapshots:
        lab.engine.remove(snapshot)
    collect(lab)
    assert lab.files("ws").read("f") == bytes(expected)
    lab.freeze()
    lab.engine.settle()
    assert collect(lab) > 0, "at rest nothing of the old root is needed"
    assert lab.files("ws").read("f") == bytes(expected)


def test_a_directory_merged_over_many_layers(lab: Lab) -> None:
    files = lab.files("ws")
    files.mkdir("d")
    names = [f"d/{number:05d}" for number in range(3000)]
    for name in names:
        files.create(name)
    snapshots = [lab.engine.checkpoint("ws", "base").snapshot.id]
    lab.engine.settle()
    for number in range(directory.DEPTH_MAX):
        lab.files("ws").create(f"d/new{number}")
        lab.files("ws").unlink(names.pop(Random(number).randrange(len(names))))
        snapshots.append(lab.engine.checkpoint("ws", "", allow_empty=True).snapshot.id)
    lab.files("ws").create("d/live")
    lab.engine.settle()
    for snapshot in snapshots:
        lab.engine.remove(snapshot)
    collect(lab)
    assert len(lab.files("ws").names("d")) == len(names) + directory.DEPTH_MAX + 1


def test_a_mounted_snapshot_keeps_its_blocks_when_it_is_removed(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.files("ws").write("f", noise("mounted", 4 * BLOCK))
    mounted = lab.engine.checkpoint("ws", "mounted").snapshot.id
    lab.engine.settle()
    layer = lab.engine.catalog.layer(lab.engine.catalog.snapshot(mounted).layer)
    assert layer.root is not None
    view = lab.engine.host.state(lab.engine._chain(layer.id))
    ino = lab.files("ws").ino("f")
    lab.files("ws").unlink("f")
    lab.engine.checkpoint("ws", "without it")
    lab.engine.settle()
    lab.engine.remove(mounted)
    with monkeypatch.context() as patch:
        patch.setattr(lab.engine.host, "shown", lambda: {mounted: layer.root})
        collect(lab)
        data = view.file(view.inode(ino))
        assert data.read(0, 4 * BLOCK) == noise("mounted", 4 * BLOCK)
    assert collect(lab) > 0


def test_garbage_in_segments_that_are_not_full_comes_back(lab: Lab) -> None:
    """Each writer goes on in its unsealed segment, where all of a small store lies."""
    lab.files("ws").write("kept", noise("kept", BLOCK))
    lab.engine.checkpoint("ws", "")
    lab.engine.create("gone")
    for number in range(20):
        lab.files("gone").write(f"f{number}", noise(number, BLOCK))
    lab.engine.checkpoint("gone", "")
    lab.engine.settle()
    lab.engine.remove("gone")
    directory_ = lab.engine.store.segments
    before = sum(segment_path(directory_, each).stat().st_size for each in segment_ids(directory_))
    done = lab.engine.collect(False, lambda _: None)
    after = sum(segment_path(directory_, each).stat().st_size for each in segment_ids(directory_))
    assert done.freed_bytes >= 0.95 * done.bytes > 2 << 20
    assert before - after >= 0.95 * done.bytes
    lab.files("ws").write("more", noise("more", BLOCK))
    lab.engine.checkpoint("ws", "")
    lab.engine.settle()
    lab.do("kill")
    collect(lab)
    assert lab.files("ws").read("kept") == noise("kept", BLOCK)
