"""cowfs.tree.content: the canonical choice of how content is stored."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cowfs.blocks.memory import MemoryBlocks
from cowfs.errors import Corrupt, Invalid
from cowfs.formats.inode import BLOCK, EMPTY, INLINE, NONE, TREE, Content, InodeRecord
from cowfs.geometry import PAGE, Geometry
from cowfs.tree import content
from cowfs.tree.content import FileBlock

GEOMETRY = Geometry(inline_limit=512, block_log2=13)  # blocks of two pages
BLOCK_SIZE = 1 << 13


class Model:
    """A file as the kernel shows it: bytes, and which pages are allocated."""

    def __init__(self, size: int = 0) -> None:
        self.data = bytearray(size)
        self.pages: set[int] = set()

    def truncate(self, size: int) -> None:
        self.data = self.data[:size] + bytearray(max(0, size - len(self.data)))
        self.pages = {page for page in self.pages if page * PAGE < size}

    def write(self, offset: int, data: bytes) -> None:
        if offset + len(data) > len(self.data):
            self.truncate(offset + len(data))
        self.data[offset : offset + len(data)] = data
        self.pages |= set(range(offset // PAGE, -(-(offset + len(data)) // PAGE)))

    def punch(self, page: int) -> None:
        start = page * PAGE
        if start < len(self.data):
            self.data[start : start + PAGE] = bytes(len(self.data[start : start + PAGE]))
        self.pages.discard(page)

    def block(self, number: int) -> FileBlock:
        start = number * BLOCK_SIZE
        mask = sum(1 << i for i in range(BLOCK_SIZE // PAGE) if start // PAGE + i in self.pages)
        return FileBlock(number, mask, bytes(self.data[start : start + BLOCK_SIZE]))

    def blocks(self) -> list[FileBlock]:
        return [self.block(number) for number in range(-(-len(self.data) // BLOCK_SIZE))]


def stored(blocks: MemoryBlocks, model: Model) -> Content:
    return content.store_data(blocks, GEOMETRY, len(model.data), model.blocks())


def test_kinds_follow_size_and_allocation() -> None:
    blocks = MemoryBlocks()
    kinds = {}
    for size in (0, 1, 512, 513, BLOCK_SIZE, BLOCK_SIZE + 1, 5 * BLOCK_SIZE):
        model = Model(size)
        assert stored(blocks, model) == EMPTY  # all hole
        model.write(0, b"x" * size)
        kinds[size] = stored(blocks, model).kind
    assert kinds == {
        0: NONE, 1: INLINE, 512: INLINE, 513: BLOCK, BLOCK_SIZE: BLOCK, BLOCK_SIZE + 1: TREE, 5 * BLOCK_SIZE: TREE,
    }  # fmt: skip


def test_a_block_is_as_long_as_the_file_and_holes_are_zero() -> None:
    blocks = MemoryBlocks()
    first = content.store_data(blocks, GEOMETRY, 5000, [FileBlock(0, 0b101, b"a" * 8192)])
    assert first == Content(BLOCK, 1, first.data)  # bit 2 lies behind the end
    assert blocks.blocks[first.data] == b"a" * 4096 + bytes(904)


def test_no_allocated_zeros_are_lost() -> None:
    blocks = MemoryBlocks()
    zeros = content.store_data(blocks, GEOMETRY, 100, [FileBlock(0, 1, b"")])
    assert zeros == Content(INLINE, 1, bytes(100))


offsets = st.integers(0, 5 * BLOCK_SIZE)
edits = st.one_of(
    st.tuples(st.just("write"), offsets, st.binary(min_size=1, max_size=3) | st.just(b"z" * 9000)),
    st.tuples(st.just("truncate"), offsets | st.sampled_from([0, 1, 511, 512, 513, BLOCK_SIZE, BLOCK_SIZE + 1])),
    st.tuples(st.just("punch"), st.integers(0, 9)),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(edits, max_size=4), min_size=1, max_size=4))
def test_update_file_equals_storing_from_scratch(rounds: list[list[tuple[object, ...]]]) -> None:
    blocks = MemoryBlocks()
    model, old, old_size = Model(), EMPTY, 0
    for edits_of_round in rounds:
        kept = old_size
        dirty: set[int] = set()
        for name, *arguments in edits_of_round:
            getattr(model, str(name))(*arguments)
            kept = min(kept, len(model.data))
            if name == "write":
                offset, data = arguments
                assert isinstance(offset, int)
                assert isinstance(data, bytes)
                dirty |= set(range(offset // BLOCK_SIZE, (offset + len(data) - 1) // BLOCK_SIZE + 1))
            elif name == "punch":
                dirty.add(arguments[0] * PAGE // BLOCK_SIZE)  # type: ignore[operator]
        size = len(model.data)
        changes = {number: (model.block(number).mask, model.block(number).data) for number in dirty}
        old = content.update_file(blocks, blocks, GEOMETRY, old, old_size, size, changes, kept)
        old_size = size
        assert old == stored(MemoryBlocks(), model)
        read = {block.number: block for block in content.read_blocks(blocks, old, size, BLOCK_SIZE)}
        for block in model.blocks():
            found = content.read_block(blocks, old, size, block.number, BLOCK_SIZE)
            assert found == read.get(block.number)
            assert (found or FileBlock(block.number, 0, bytes(len(block.data)))) == block


def test_an_unchanged_block_is_not_read_again() -> None:
    blocks = MemoryBlocks()
    model = Model()
    model.write(0, bytes(range(256)) * 320)
    old = stored(blocks, model)
    ids = {block_id for block_id in blocks.blocks if len(blocks.blocks[block_id]) == BLOCK_SIZE}
    blocks.reads.clear()
    content.update_file(blocks, blocks, GEOMETRY, old, 81920, 81920, {3: (3, b"new")})
    assert not ids & set(blocks.reads)


def test_a_batch_forgets_a_file_whose_source_fails() -> None:
    blocks = MemoryBlocks()
    done: dict[str, Content] = {}
    batch: content.ContentBatch[str] = content.ContentBatch(blocks, GEOMETRY, done.__setitem__, batch_bytes=BLOCK_SIZE)

    def failing() -> object:
        yield FileBlock(0, 3, b"a" * BLOCK_SIZE)
        raise OSError

    with pytest.raises(OSError):
        batch.add("bad", 2 * BLOCK_SIZE, failing())  # type: ignore[arg-type]
    batch.add("good", 600, [FileBlock(0, 1, b"b" * 600)])
    batch.flush()
    assert list(done) == ["good"]
    assert blocks.blocks[done["good"].data] == b"b" * 600


def test_symlinks_and_directories() -> None:
    blocks = MemoryBlocks()
    for target in (b"a", b"a" * 512, b"a" * 513, b"a" * 4095):
        link = content.store_symlink(blocks, GEOMETRY, target)
        assert link.kind == (INLINE if len(target) <= 512 else BLOCK)
        assert content.read_symlink(blocks, link) == target
    assert content.directory_content(b"") == EMPTY
    assert content.directory_pointer(EMPTY) == b""
    assert content.directory_pointer(content.directory_content(b"x")) == b"x"
    with pytest.raises(Corrupt):
        content.directory_pointer(Content(INLINE, 0, b"x"))
    with pytest.raises(Corrupt):
        content.read_symlink(blocks, EMPTY)


RECORD = InodeRecord(0o100644, 0, 0, 1, 0, 0, 0, 13, 0, 0, 0, 0, (), (), EMPTY)


def test_long_lists_move_out_of_the_record() -> None:
    blocks = MemoryBlocks()
    short = RECORD._replace(xattrs=((b"user.a", b"x" * 2000),), links=((1, b"n" * 255),))
    assert content.finish_record(blocks, short) == short
    for count in (10, 100, 20000):  # one block, one block, several
        record = RECORD._replace(xattrs=((b"user.a", b"x" * 3000),), links=tuple((i, b"n" * 100) for i in range(count)))
        moved = content.finish_record(blocks, record)
        assert moved.xattrs is None
        assert moved.links is None
        assert content.record_xattrs(blocks, moved) == record.xattrs
        assert content.record_links(blocks, moved) == record.links
        ids = content.list_blocks(blocks, moved)
        assert set(ids) <= blocks.blocks.keys()
        assert len(ids) == 2 + (-(-(4 + 114 * count - 4 * count) // content.LIST_PART) if count == 20000 else 0)


def test_too_many_xattrs_are_refused() -> None:
    with pytest.raises(Invalid):
        content.finish_record(MemoryBlocks(), RECORD._replace(xattrs=((b"user.a", bytes(128 * 1024)),)))


def test_a_list_of_parts_must_hold_whole_ids() -> None:
    blocks = MemoryBlocks()
    bad = blocks.put(b"\xff\xff\xff\xff" + bytes(33))
    with pytest.raises(Corrupt):
        content.record_links(blocks, RECORD._replace(links=None, links_block=bad))


def test_a_block_of_the_wrong_length_is_corrupt() -> None:
    blocks = MemoryBlocks()
    block = Content(BLOCK, 1, blocks.put(b"abc"))
    with pytest.raises(Corrupt):
        content.read_block(blocks, block, 4, 0, BLOCK_SIZE)
    with pytest.raises(Corrupt):
        content.read_block(blocks, Content(BLOCK, 1, block.data), 2 * BLOCK_SIZE, 1, BLOCK_SIZE)
