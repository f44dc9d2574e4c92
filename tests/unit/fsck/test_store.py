"""A whole store: clean after import, change and settle; damage anywhere in it is named."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from cowfs.blocks.reader import BlockReader
from cowfs.blocks.segments import read_segment
from cowfs.engine import Engine
from cowfs.formats.segment import RECORD_BYTES
from cowfs.fsck import check_store
from cowfs.geometry import ROOT_INO
from cowfs.view.inode import Caller


class Store:
    """An open engine with a workspace ``ws`` that has one large and one small file, all settled."""

    def __init__(self, path: Path) -> None:
        times, numbers = count(10**18), count(1)
        Engine.create_store(path, lambda: next(times), bytes(16))
        self.engine = Engine.open(path, lambda: next(times), lambda kind: f"{kind}-{next(numbers):020x}")
        self.engine.create("ws")
        workspace = self.engine.host.workspace(self.engine.open_workspace("ws"))
        with workspace.lock:
            for name, data in ((b"small", b"s"), (b"large", bytes(range(256)) * 2000)):
                ino = workspace.view.mknod(ROOT_INO, name, 0o100644, 0, Caller()).ino
                workspace.view.write(ino, 0, data, Caller())
        self.engine.checkpoint("ws", "both files")
        self.engine.settle("ws")

    def problems(self, *, deep: bool) -> list[str]:
        """What fsck says, with a reader of its own, since a cache would hide damage."""
        engine = self.engine
        blocks = BlockReader(engine.index, engine.store.segments)
        found = check_store(engine.catalog.tables(), blocks, engine.store.superblock.geometry, deep=deep)
        problems = [str(problem) for problem in found]
        blocks.close()
        return problems


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "store")
    yield store
    store.engine.close()


def test_a_settled_store_is_clean(store: Store) -> None:
    assert store.problems(deep=False) == []
    assert store.problems(deep=True) == []


def test_a_segment_that_was_begun_is_no_damage(store: Store) -> None:
    """A power loss may leave its size without its bytes; with blocks in the index it would be damage."""
    segments = store.engine.store.segments
    (segments / f"{99:016x}.seg").write_bytes(bytes(5000))
    assert store.engine.fsck(deep=True) == []
    used = next(path for path in segments.iterdir() if path.name != f"{99:016x}.seg")
    data = used.read_bytes()
    used.write_bytes(bytes(16) + data[16:])
    assert any("header" in str(problem) for problem in store.engine.fsck())
    used.write_bytes(data)


def test_a_lost_root_is_named(store: Store) -> None:
    root = store.engine.log("ws")[0].root
    assert root is not None
    assert store.engine.index.delete([bytes.fromhex(root)]) == 1
    assert any(root in problem and "not in the block store" in problem for problem in store.problems(deep=False))


def test_a_flipped_bit_of_file_data_is_named_by_the_deep_check(store: Store) -> None:
    (segment,) = [path for path in store.engine.store.segments.iterdir() if path.stat().st_size > 1000]
    data = bytearray(segment.read_bytes())
    at = data.index(bytes(range(256)))
    data[at] ^= 1
    segment.write_bytes(data)
    problems = store.problems(deep=True)
    assert problems
    assert all(problem.startswith("block ") for problem in problems)
    assert all(problem.endswith(f"affects ws: large, ws@{store.engine.log('ws')[0].id}: large") for problem in problems)


def test_what_was_never_synced_behind_the_last_block_is_no_damage(store: Store) -> None:
    (path,) = [path for path in store.engine.store.segments.iterdir() if path.stat().st_size > 1000]
    whole = path.read_bytes()
    record = next(iter(read_segment(path).records))[1]
    good = whole[record.offset : record.offset + RECORD_BYTES + record.stored_len]
    path.write_bytes(whole + b"torn" * 50 + good)
    assert list(store.engine.fsck(deep=True)) == []
    path.write_bytes(whole[: record.offset] + bytes(8) + whole[record.offset + 8 :] + good)
    assert "segment" in {problem.kind for problem in store.engine.fsck()}
