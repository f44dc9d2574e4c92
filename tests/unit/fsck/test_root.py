"""Every invariant of a root: a good one is clean, and one broken thing at a time is found."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from cowfs.blocks.memory import MemoryBlocks
from cowfs.formats.inode import (
    BLOCK,
    EMPTY,
    INLINE,
    TREE,
    Content,
    InodeRecord,
    decode_inode,
    encode_dirent,
    encode_file_block,
    encode_inode,
    encode_links,
    encode_xattrs,
)
from cowfs.fsck import check_root
from cowfs.geometry import ROOT_INO, Geometry
from cowfs.settle.importer import import_directory, make_root
from cowfs.tree import radix
from cowfs.tree.content import map_content
from cowfs.tree.names import directory_key
from cowfs.tree.root import read_root, write_root

GEOMETRY = Geometry(leaf_limit=4096)
BLOCK_SIZE = 1 << GEOMETRY.block_log2


class Tree:
    """An imported tree whose records and entries can be changed behind the engine's back."""

    def __init__(self, source: Path) -> None:
        self.blocks = MemoryBlocks()
        result = import_directory(self.blocks, str(source), GEOMETRY)
        assert not result.skipped
        self.root, self.next_ino = result.root, result.next_ino

    def find(self, path: str) -> int:
        """The inode number at ``path``, by scanning directories."""
        ino = ROOT_INO
        for part in path.split("/") if path else ():
            entries = radix.scan(self.blocks, self.record(ino).content.data)
            ino = next(int.from_bytes(value[:8], "little") for _, value in entries if value[9:] == part.encode())
        return ino

    def record(self, ino: int) -> InodeRecord:
        value = radix.lookup(self.blocks, read_root(self.blocks, self.root), ino)
        assert value is not None
        return decode_inode(value)

    def put(self, ino: int, value: bytes | None) -> None:
        table = read_root(self.blocks, self.root)
        table = radix.update(self.blocks, self.blocks, table, {ino: value}, GEOMETRY, inline=False)
        self.root = write_root(self.blocks, table)

    def change(self, path: str, **fields: object) -> None:
        ino = self.find(path)
        self.put(ino, encode_inode(self.record(ino)._replace(**fields)))  # type: ignore[arg-type]

    def content(self, path: str, **fields: object) -> None:
        self.change(path, content=self.record(self.find(path)).content._replace(**fields))  # type: ignore[arg-type]

    def entries(self, path: str, changes: dict[int, bytes | None]) -> None:
        pointer = self.record(self.find(path)).content.data
        self.change(
            path,
            content=map_content(
                radix.update(self.blocks, self.blocks, pointer, changes, GEOMETRY, inline=True)
            ),
        )  # fmt: skip

    def cookie(self, name: str) -> int:
        return directory_key(name.encode(), GEOMETRY.key_bits) << 8

    def problems(self, *, data: bool = True) -> list[str]:
        found = check_root(self.blocks, self.root, GEOMETRY, data=data, next_ino=self.next_ino)
        return [str(problem) for problem in found]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    (root / "dir/sub").mkdir(parents=True)
    (root / "many").mkdir()
    (root / "none").mkdir()
    (root / "small").write_bytes(b"inline")
    (root / "empty").write_bytes(b"")
    (root / "block").write_bytes(b"b" * 9000)
    (root / "large").write_bytes(b"l" * (2 * BLOCK_SIZE + 5000))
    with open(root / "sparse", "wb") as file:
        file.truncate(5 * BLOCK_SIZE)
        file.seek(3 * BLOCK_SIZE + 8192)
        file.write(b"s" * 4096)
    with open(root / "hole", "wb") as file:
        file.truncate(10_000)
    os.link(root / "small", root / "dir/hard")
    for number in range(60):
        os.link(root / "block", root / "many" / f"a-rather-long-name-{number}")
    os.symlink("target", root / "link")
    os.symlink("t" * 2000, root / "longlink")
    os.mkfifo(root / "fifo")
    os.setxattr(root / "small", "user.small", b"1")
    os.setxattr(root / "block", "user.large", b"1" * 2500)
    return root


@pytest.fixture
def tree(source: Path) -> Tree:
    return Tree(source)


def test_a_good_root_is_clean(tree: Tree) -> None:
    assert tree.record(tree.find("sparse")).blocks == 8
    assert tree.record(tree.find("large")).content.kind == TREE
    assert tree.record(tree.find("block")).xattrs is None
    assert tree.record(tree.find("block")).links is None
    assert tree.problems() == []
    tree.root = make_root(tree.blocks, GEOMETRY, 0o755, 0, 0, 5)
    assert tree.problems() == []


def second_block(tree: Tree, path: str) -> bytes:
    """The id of the second block of a large file."""
    value = radix.lookup(tree.blocks, tree.record(tree.find(path)).content.data, 1)
    assert value is not None
    return value[4:]


def drop_block(tree: Tree, id_: bytes) -> None:
    del tree.blocks.blocks[id_]
    tree.blocks.nodes.clear()


def with_links(tree: Tree, path: str, *links: tuple[int, bytes]) -> None:
    record = tree.record(tree.find(path))
    assert record.links is not None
    tree.change(path, links=tuple(sorted({*record.links, *links})))


def move(tree: Tree, ino: int, name: str, old: str, new: str) -> None:
    """Give the directory ``name`` in ``old`` to ``new``, keeping counts and links right."""
    tree.entries(old, {tree.cookie(name): None})
    tree.entries(new, {tree.cookie(name): encode_dirent(ino, 4, name.encode())})
    tree.put(ino, encode_inode(tree.record(ino)._replace(links=((tree.find(new), name.encode()),))))


def make_circle(tree: Tree) -> None:
    """``dir`` moves into ``dir/sub``: both are consistent, and nothing leads there."""
    ino, sub = tree.find("dir"), tree.find("dir/sub")
    tree.entries("", {tree.cookie("dir"): None})
    tree.change("", nlink=tree.record(ROOT_INO).nlink - 1)
    record = tree.record(sub)
    pointer = radix.build(tree.blocks, [(tree.cookie("dir"), encode_dirent(ino, 4, b"dir"))], GEOMETRY, inline=True)
    tree.put(sub, encode_inode(record._replace(content=map_content(pointer), nlink=3)))
    tree.put(ino, encode_inode(tree.record(ino)._replace(links=((sub, b"dir"),))))


def second_name(tree: Tree) -> None:
    """A hard link to a directory, consistent in every other way."""
    ino = tree.find("dir")
    tree.entries("none", {tree.cookie("dir2"): encode_dirent(ino, 4, b"dir2")})
    tree.change("none", nlink=3)
    with_links(tree, "dir", (tree.find("none"), b"dir2"))


class Case(NamedTuple):
    """``expected``: part of one problem; ``alone``: nothing else may be reported."""

    name: str
    damage: Callable[[Tree], object]
    expected: str
    alone: bool = True


CASES = [
    Case("mode", lambda t: t.change("small", mode=0o644), "impossible mode", False),
    Case("high mode", lambda t: t.change("empty", mode=0o100644 | 1 << 20), "impossible mode", False),
    Case("rdev", lambda t: t.change("fifo", rdev=5), "a device number on what is no device"),
    Case("root type", lambda t: t.change("", mode=0o100755), "the root is not a directory", False),
    Case("fifo size", lambda t: t.change("fifo", size=5), "a special file with content"),
    Case("fifo content", lambda t: t.change("fifo", content=Content(INLINE, 0, b"x")), "a special file with content"),
    Case("number too high", lambda t: t.put(t.next_ino, encode_inode(t.record(t.find("fifo")))), "not below the next",
         False),
    Case("garbage record", lambda t: t.put(t.find("fifo"), b"?"), "inode record: too short", False),
    # content
    Case("st_blocks", lambda t: t.change("large", blocks=8), "8 blocks, but 66 pages are allocated"),
    Case("st_blocks of a hole", lambda t: t.change("hole", blocks=8), "8 blocks, but 0 pages"),
    Case("inline size", lambda t: t.change("small", size=7), "block 0 has 6 bytes, not 7"),
    Case("inline mask", lambda t: t.content("small", mask=3), "impossible page mask", False),
    Case("inline too large", lambda t: t.change("small", size=5000, content=Content(INLINE, 3, b"x" * 5000), blocks=16),
         "5000 bytes with inline content, not one block"),
    Case("block could be inline", lambda t: t.content("small", kind=BLOCK, data=t.blocks.put(b"inline")),
         "6 bytes with one block, not inline content"),
    Case("block too short", lambda t: t.content("block", data=t.blocks.put(b"b" * 8999)), "8999 bytes, not 9000"),
    Case("data in a hole", lambda t: (t.content("block", mask=5), t.change("block", blocks=16)),
         "page 1 is a hole with"),
    Case("nothing allocated", lambda t: (t.content("block", mask=0), t.change("block", blocks=0)),
         "impossible page mask", False),
    Case("block missing", lambda t: drop_block(t, t.record(t.find("block")).content.data), ": block"),
    Case("file map block missing", lambda t: drop_block(t, second_block(t, "large")), ": large"),
    Case("file map behind the end", lambda t: t.entries("large", {3: encode_file_block(1, t.blocks.put(b"x"))}),
         "block 3 lies behind the end", False),
    Case("file map mask", lambda t: t.entries("large", {2: encode_file_block(7, second_block(t, "large"))}),
         "impossible page mask 0x7 for 5000", False),
    Case("file map for a small file", lambda t: t.change(
        "block", content=Content(TREE, 0, radix.build(
            t.blocks, [(0, encode_file_block(7, t.blocks.put(b"b" * 9000)))], GEOMETRY, inline=True))),
         "9000 bytes with a tree, not one block"),
    Case("empty file map", lambda t: t.change("hole", content=Content(TREE, 0, b"")), "an empty file map", False),
    Case("no content, but blocks", lambda t: t.change("small", content=EMPTY), "8 blocks, but 0 pages"),
    Case("link target", lambda t: t.content("link", data=b"tar\0et"), "an impossible link target"),
    Case("link size", lambda t: t.change("link", size=7), "an impossible link target of 6 bytes, size 7"),
    Case("link mask", lambda t: t.content("link", mask=1), "a link target of 6 bytes"),
    Case("link in a block", lambda t: t.content("link", kind=BLOCK, data=t.blocks.put(b"target")), "with one block"),
    Case("long link missing", lambda t: drop_block(t, t.record(t.find("longlink")).content.data), ": longlink"),
    # lists out of line
    Case("xattrs could be inline", lambda t: t.change(
        "small", xattrs=None, xattrs_block=t.blocks.put(encode_xattrs(((b"user.small", b"1"),)))), "attributes of 19"),
    Case("xattrs should not be inline", lambda t: t.change(
        "small", xattrs=((b"user.x", b"x" * 3000),)), "extended attributes of 3014 bytes in the wrong place"),
    Case("xattr name", lambda t: t.change("small", xattrs=((b"user.\0", b""),)), "impossible extended attribute name"),
    Case("xattrs missing", lambda t: drop_block(t, t.record(t.find("block")).xattrs_block), ": block"),
    Case("links missing", lambda t: drop_block(t, t.record(t.find("block")).links_block), ": block"),
    Case("links could be inline", lambda t: t.change(
        "fifo", links=None, links_block=t.blocks.put(encode_links(((ROOT_INO, b"fifo"),)))), "links of 18 bytes"),
    # directories
    Case("directory size", lambda t: t.change("dir", size=0), "a directory of 0 bytes"),
    Case("directory kind", lambda t: t.change("none", content=Content(INLINE, 0, b"x")), "a directory with inline"),
    Case("directory with an empty tree", lambda t: t.change("none", content=Content(TREE, 0, b"")), "with a tree"),
    Case("dangling entry", lambda t: t.entries("dir", {t.cookie("x"): encode_dirent(9999, 8, b"x")}),
         "names inode 9999, which does not exist"),
    Case("entry type", lambda t: t.entries("dir", {t.cookie("hard"): encode_dirent(t.find("small"), 1, b"hard")}),
         "'hard' has type 1, inode"),
    Case("entry under a wrong key", lambda t: t.entries("dir", {
        t.cookie("hard"): None, 0x12345600: encode_dirent(t.find("small"), 8, b"hard")}), "not under its key"),
    Case("name twice", lambda t: t.entries("dir", {t.cookie("hard") + 1: encode_dirent(t.find("small"), 8, b"hard")}),
         "is there twice", False),
    Case("malformed entry", lambda t: t.entries("dir", {t.cookie("hard"): encode_dirent(5, 8, b"a/b")}),
         "impossible name", False),
    Case("directory block missing", lambda t: drop_block(t, t.record(t.find("many")).content.data[-32:]),
         ": many/a-rather-long-name-1"),
    # how they fit together
    Case("nlink of a file", lambda t: t.change("small", nlink=3), "link count 3, not 2"),
    Case("nlink of a directory", lambda t: t.change("dir", nlink=2), "link count 2, not 3"),
    Case("nlink of the root", lambda t: t.change("", nlink=2), "link count 2, not 5"),
    Case("link too many", lambda t: with_links(t, "empty", (t.find("dir"), b"x")), "does not exist"),
    Case("link too few", lambda t: t.change("small", links=((ROOT_INO, b"small"),)), "is not among its links"),
    Case("orphan", lambda t: t.entries("", {t.cookie("fifo"): None}), "no directory entry names it", False),
    Case("circle", make_circle, "cannot be reached from the root", False),
    Case("directory with two names", second_name, "a directory with 2 names", False),
    Case("root has a name", lambda t: t.change("", links=((ROOT_INO, b"x"),)), "the root directory has a name", False),
    Case("no root directory", lambda t: t.put(ROOT_INO, None), "it has no root directory", False),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_one_broken_thing_is_found(tree: Tree, case: Case) -> None:
    case.damage(tree)
    problems = tree.problems()
    assert any(case.expected in problem for problem in problems), problems
    assert all("\n" not in problem for problem in problems)
    if case.alone:
        assert len(problems) == 1, problems


def test_problems_name_the_path(tree: Tree) -> None:
    tree.change("dir/sub", nlink=7)
    assert tree.problems() == [
        f"root {tree.root.hex()} inode {tree.find('dir/sub')} 'dir/sub': link count 7, not 2"
    ]  # fmt: skip


def test_a_tree_that_is_not_canonical_is_found(tree: Tree) -> None:
    records = list(radix.scan(tree.blocks, read_root(tree.blocks, tree.root)))
    other = Geometry(leaf_limit=256)
    tree.root = write_root(tree.blocks, radix.build(tree.blocks, records, other, inline=False))
    assert any("inode table: " in problem for problem in tree.problems())
    entries = list(radix.scan(tree.blocks, tree.record(tree.find("many")).content.data))
    pointer = radix.build(tree.blocks, entries, other, inline=True)
    tree.root = write_root(tree.blocks, radix.build(tree.blocks, records, GEOMETRY, inline=False))
    tree.change("many", content=map_content(pointer))
    assert tree.problems()


def test_every_block_is_missed(tree: Tree) -> None:
    """Whatever block is lost, the check says so, and raises nothing."""
    tree.blocks.reads.clear()
    tree.blocks.nodes.clear()
    assert tree.problems() == []
    used = set(tree.blocks.reads)
    assert len(used) > 8
    for id_ in sorted(used):
        raw = tree.blocks.blocks.pop(id_)
        tree.blocks.nodes.clear()
        (problem,) = check_root(tree.blocks, tree.root, GEOMETRY, next_ino=tree.next_ino, refs=["ws-1@good", "ws-2"])
        assert (problem.kind, problem.where) == ("block", f"block {id_.hex()}")
        assert {"ws-1@good", "ws-2"} == {each.partition(": ")[0] for each in problem.affected}
        tree.blocks.blocks[id_] = raw


def test_data_is_read_when_asked_and_once(tree: Tree) -> None:
    drop_block(tree, second_block(tree, "large"))
    assert tree.problems(data=False) == []
    whole = Tree.__new__(Tree)
    whole.blocks, whole.root, whole.next_ino = tree.blocks, tree.root, tree.next_ino
    tree.content("large", data=tree.record(tree.find("sparse")).content.data)
    tree.change("large", size=5 * BLOCK_SIZE, blocks=8)
    seen: dict[tuple[bytes, int], None] = {}
    tree.blocks.reads.clear()
    for _ in range(2):
        assert not list(check_root(tree.blocks, tree.root, GEOMETRY, seen=seen))
    data = [id_ for id_, _ in seen]
    assert data
    assert all(tree.blocks.reads.count(id_) == 1 for id_ in data)
