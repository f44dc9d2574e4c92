"""The LMDB index: commit, condemn, sweep, usage, read-only openers, damage."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cowfs.blocks.api import Location
from cowfs.blocks.index import BlockIndex, SegmentUsage
from cowfs.errors import Busy, Corrupt, NoSpace, NotFound
from cowfs.formats.checksum import block_id
from tests.unit.blocks.conftest import Blocks

A, B, C = (block_id(name) for name in (b"a", b"b", b"c"))
HERE, THERE = Location(1, 24, 10, 8, 1), Location(2, 999, 10, 8, 1)


def test_commit_and_get(blocks: Blocks) -> None:
    index = blocks.index
    assert index.commit([(A, HERE)], []) == []
    assert (index.get(A), index.has(A)) == (HERE, True)
    assert (index.get(B), index.has(B)) == (None, False)


def test_a_live_block_keeps_its_place_unless_replaced(blocks: Blocks) -> None:
    index = blocks.index
    index.commit([(A, HERE)])
    index.commit([(A, THERE)])
    assert index.get(A) == HERE
    index.commit([(A, THERE)], replace=True)
    assert index.get(A) == THERE


def test_condemned_is_readable_but_not_had(blocks: Blocks) -> None:
    index = blocks.index
    index.commit([(A, HERE)])
    assert index.condemn([A, B]) == [(A, HERE)]
    assert (index.get(A), index.has(A)) == (HERE, False)
    assert index.sweep([(A, HERE)]) == [(A, HERE)]
    assert index.get(A) is None


def test_relying_on_a_condemned_block_saves_it(blocks: Blocks) -> None:
    index = blocks.index
    index.commit([(A, HERE)])
    marked = index.condemn([A])
    assert index.commit([], [A, B]) == [B]
    assert index.has(A)
    assert index.sweep(marked) == []
    assert index.get(A) == HERE


def test_a_new_copy_of_a_condemned_block_survives_the_sweep(blocks: Blocks) -> None:
    index = blocks.index
    index.commit([(A, HERE)])
    marked = index.condemn([A])
    index.commit([(A, THERE)])
    assert index.sweep(marked) == []
    assert (index.get(A), index.has(A)) == (THERE, True)
    index.condemn([A])
    assert index.sweep(marked) == []
    assert index.get(A) == THERE


def test_usage_follows_every_change(blocks: Blocks) -> None:
    index = blocks.index
    index.commit([(A, HERE), (B, HERE._replace(offset=100, raw_len=5, stored_len=5, codec=0)), (C, THERE)])
    assert index.usage() == [SegmentUsage(1, 2, 15, 13), SegmentUsage(2, 1, 10, 8)]
    index.commit([(A, THERE._replace(offset=5000))], replace=True)
    index.sweep(index.condemn([C]))
    assert index.usage() == [SegmentUsage(1, 1, 5, 5), SegmentUsage(2, 1, 10, 8)]
    assert index.delete([B, B, C]) == 1
    assert index.usage() == [SegmentUsage(2, 1, 10, 8)]
    statistics = index.statistics()
    assert (statistics.blocks, statistics.raw_bytes, statistics.stored_bytes, statistics.segments) == (1, 10, 8, 1)
    assert statistics.map_used_bytes > 0


def test_items_lists_all_in_order(blocks: Blocks) -> None:
    many = {block_id(str(number).encode()): HERE._replace(offset=number) for number in range(10_000)}
    blocks.index.commit(many.items())
    ordered = sorted(many)
    blocks.index.condemn(ordered[:1])
    assert list(blocks.index.items()) == [(id_, many[id_], id_ == ordered[0]) for id_ in ordered]
    assert [id_ for id_, _, _ in blocks.index.items(ordered[5000])] == ordered[5000:]


def test_a_failing_transaction_changes_nothing(blocks: Blocks) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        blocks.index.commit([(A, HERE), (b"short", HERE)])
    assert blocks.index.get(A) is None
    assert blocks.index.usage() == []


def test_a_full_map_is_no_space(tmp_path: Path) -> None:
    index = BlockIndex(tmp_path / "index", writable=True, map_bytes=1 << 17)
    with pytest.raises(NoSpace):
        index.commit([(block_id(str(number).encode()), HERE) for number in range(10_000)])
    assert index.get(block_id(b"1")) is None
    index.close()


def test_opening(blocks: Blocks, tmp_path: Path) -> None:
    with pytest.raises(Busy):
        BlockIndex(blocks.index.path, writable=False)
    with pytest.raises(NotFound):
        BlockIndex(tmp_path / "none", writable=False)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "data.mdb").write_bytes(b"not lmdb" * 2000)
    with pytest.raises(Corrupt):
        BlockIndex(tmp_path / "bad", writable=True)


def test_a_handle_does_not_cross_a_fork(blocks: Blocks) -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            blocks.index.get(A)
            os.write(writing, b"no error")
        except RuntimeError as error:
            os.write(writing, str(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as answer:
        assert b"another process" in answer.read()
    assert os.waitpid(child, 0) == (child, 0)


_READER = """
import sys
from pathlib import Path
from cowfs.blocks.index import BlockIndex
index = BlockIndex(Path(sys.argv[1]), writable=False, map_bytes=1 << 28)
id = bytes.fromhex(sys.argv[2])
print(index.get(id), flush=True)
sys.stdin.readline()
print(tuple(index.get(id)), flush=True)
index.close()
"""


def test_another_process_reads_what_is_committed_meanwhile(blocks: Blocks) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _READER, str(blocks.index.path), A.hex()],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3],
    ) as child:  # fmt: skip
        assert child.stdout
        assert child.stdout.readline() == "None\n"
        blocks.index.commit([(A, HERE)])
        out, _ = child.communicate("go on\n", timeout=30)
    assert out == f"{tuple(HERE)}\n"
    assert child.returncode == 0
    assert blocks.index.clear_readers() == 0


def test_readers_that_died_are_cleared(blocks: Blocks) -> None:
    code = _READER.replace("sys.stdin.readline()", "__import__('os')._exit(9)")
    ended = subprocess.run(
        [sys.executable, "-c", code, str(blocks.index.path), A.hex()], cwd=Path(__file__).parents[3], check=False
    )
    assert ended.returncode == 9
    assert blocks.index.clear_readers() == 1
    assert blocks.index.clear_readers() == 0
