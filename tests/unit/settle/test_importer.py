"""cowfs.settle.importer: a real tree in, equal metadata and content out."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from cowfs.blocks.memory import MemoryBlocks
from cowfs.errors import CowfsError, Invalid, NoSpace, NotFound
from cowfs.formats.inode import InodeRecord, decode_dirent, decode_inode
from cowfs.fsck.root import check_root
from cowfs.geometry import Geometry
from cowfs.settle import importer, scan
from cowfs.settle.importer import ImportResult, import_directory, make_root
from cowfs.settle.numbering import NUMBERINGS
from cowfs.tree import content, radix
from cowfs.tree.root import read_root

GEOMETRY = Geometry(block_log2=13)
TIME = 1_700_000_000_123_456_789


class Imported:
    """The imported tree, read back by path."""

    def __init__(self, blocks: MemoryBlocks, result: ImportResult, geometry: Geometry = GEOMETRY) -> None:
        self.blocks = blocks
        self.table = read_root(blocks, result.root)
        self.geometry = geometry
        assert list(check_root(blocks, result.root, geometry, next_ino=result.next_ino)) == []
        self.inos: dict[bytes, int] = {b"": 1}
        self._walk(1, b"")

    def _walk(self, ino: int, prefix: bytes) -> None:
        pointer = content.directory_pointer(self.record(ino).content)
        for cookie, value in radix.scan(self.blocks, pointer):
            entry = decode_dirent(cookie, value)
            self.inos[prefix + entry.name] = entry.ino
            assert entry.kind == self.record(entry.ino).mode >> 12
            if entry.kind == stat.S_IFDIR >> 12:
                self._walk(entry.ino, prefix + entry.name + b"/")

    def record(self, ino: int) -> InodeRecord:
        value = radix.lookup(self.blocks, self.table, ino)
        assert value is not None
        return decode_inode(value)

    def __getitem__(self, path: str) -> InodeRecord:
        return self.record(self.inos[os.fsencode(path)])

    def read(self, path: str) -> bytes:
        record = self[path]
        data = bytearray(record.size)
        for block in content.read_blocks(self.blocks, record.content, record.size, 1 << record.block_log2):
            start = block.number << record.block_log2
            data[start : start + len(block.data)] = block.data
        return bytes(data)


def take(source: Path | str, **options: Any) -> tuple[Imported, ImportResult]:
    blocks = MemoryBlocks()
    geometry = options.pop("geometry", GEOMETRY)
    result = import_directory(blocks, str(source), geometry, **options)
    return Imported(blocks, result, geometry), result


def below(root: Path) -> list[Path]:
    """Everything in it. Path.rglob gives up at the long link before Python 3.11.4."""
    return [Path(folder, name) for folder, folders, files in os.walk(root) for name in (*folders, *files)]


def make_tree(root: Path) -> None:
    """A tree with everything that needs no privilege."""
    (root / "dir" / "deep").mkdir(parents=True)
    (root / "empty").mkdir(mode=0o700)
    (root / "a").write_bytes(b"hello")
    (root / "zero").touch()
    (root / "big").write_bytes(os.urandom(3 * 8192 + 17))
    (root / "dir" / "script").write_bytes(b"#!/bin/sh\n")
    (root / "dir" / "script").chmod(0o4751)
    os.link(root / "a", root / "dir" / "deep" / "a-again")
    (root / "link").symlink_to("dir/script")
    (root / "long-link").symlink_to("x" * 1500)
    os.mkfifo(root / "fifo", 0o640)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(root / "socket"))
    with open(os.fsencode(root) + b"/bytes-\xff\xfe", "wb") as file:
        file.write(b"x" * 600)
    with open(root / "sparse", "wb") as file:
        file.truncate(100_000)
        file.seek(5 * 4096)
        file.write(b"data")
        file.seek(20 * 4096)
        file.write(b"more" * 2000)
    (root / "hole").touch()
    os.truncate(root / "hole", 1 << 30)
    for number, name in enumerate(sorted(below(root), reverse=True)):
        os.utime(name, ns=(TIME - 5, TIME + number), follow_symlinks=False)
    os.utime(root, ns=(TIME, TIME))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    root.mkdir()
    make_tree(root)
    return root


def expected_links(root: Path) -> dict[int, int]:
    names: dict[int, int] = {}
    for path in below(root):
        names[path.lstat().st_ino] = names.get(path.lstat().st_ino, 0) + 1
    return names


def test_everything_comes_back(tree: Path) -> None:
    imported, result = take(tree)
    assert result.skipped == ()
    assert result.changed == ()
    paths = {os.fsencode(path.relative_to(tree)) for path in below(tree)}
    assert imported.inos.keys() - {b""} == paths
    assert result.files == len(set(imported.inos.values()))
    assert result.next_ino == max(imported.inos.values()) + 1
    names = expected_links(tree)
    for raw in paths:
        path = tree / os.fsdecode(raw)
        seen, record = path.lstat(), imported[os.fsdecode(raw)]
        assert (record.mode, record.uid, record.gid) == (seen.st_mode, seen.st_uid, seen.st_gid)
        assert record.atime == record.mtime == record.ctime == record.btime == seen.st_mtime_ns
        if stat.S_ISDIR(seen.st_mode):
            assert record.nlink == 2 + sum(child.is_dir() and not child.is_symlink() for child in path.iterdir())
            continue
        assert record.nlink == names[seen.st_ino]
        assert record.rdev == seen.st_rdev
        if stat.S_ISREG(seen.st_mode):
            assert imported.read(os.fsdecode(raw)) == path.read_bytes() if seen.st_size < 1 << 20 else True
            assert record.size == seen.st_size
        elif stat.S_ISLNK(seen.st_mode):
            assert content.read_symlink(imported.blocks, record.content) == os.fsencode(os.readlink(path))
            assert record.size == seen.st_size
    assert imported["a"] == imported["dir/deep/a-again"]
    assert imported["a"].links == ((1, b"a"), (imported.inos[b"dir/deep"], b"a-again"))
    assert imported[""].links == ()


def test_holes_stay_holes(tree: Path) -> None:
    imported, _ = take(tree)
    assert imported["hole"].blocks == 0
    assert imported["hole"].size == 1 << 30
    assert imported["sparse"].blocks == 8 * (1 + 2)
    assert imported["big"].blocks == 8 * 7
    assert imported["a"].blocks == 8
    assert imported["zero"].blocks == 0


@pytest.mark.parametrize("rule", NUMBERINGS)
def test_an_equal_tree_gives_the_same_root_and_stores_nothing(tmp_path: Path, tree: Path, rule: str) -> None:
    blocks = MemoryBlocks()
    first = import_directory(blocks, str(tree), GEOMETRY, rule=rule)
    count = len(blocks.blocks)
    assert import_directory(blocks, str(tree), GEOMETRY, rule=rule) == first
    copy = tmp_path / "copy"
    assert os.system(f"cp -a {tree} {copy}") == 0  # other inode numbers, times of reading, directory order
    assert import_directory(blocks, str(copy), GEOMETRY, rule=rule).root == first.root
    assert len(blocks.blocks) == count


def test_xattrs_and_acls(tree: Path) -> None:
    acl = bytes.fromhex("0200000001000600ffffffff02000700e803000004000400ffffffff10000700ffffffff20000400ffffffff")
    try:
        os.setxattr(tree / "a", "user.two", b"\0value")
        os.setxattr(tree / "a", "user.one", b"")
        os.setxattr(tree / "dir", "user.dir", b"d" * 3000)
        os.setxattr(tree / "dir", "system.posix_acl_default", acl)
        os.setxattr(tree / "big", "system.posix_acl_access", acl)
    except OSError as error:
        pytest.skip(f"the filesystem of the tests has no such attributes: {error}")
    imported, _ = take(tree)
    assert imported["a"].xattrs == ((b"user.one", b""), (b"user.two", b"\0value"))
    assert content.record_xattrs(imported.blocks, imported["dir"]) == (
        (b"system.posix_acl_default", acl),
        (b"user.dir", b"d" * 3000),
    )
    assert imported["big"].xattrs == ((b"system.posix_acl_access", acl),)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs the right to make devices and trusted attributes")
def test_devices_and_privileged_attributes(tree: Path) -> None:
    os.mknod(tree / "char", stat.S_IFCHR | 0o620, os.makedev(5, 300))
    os.mknod(tree / "block", stat.S_IFBLK | 0o600, os.makedev(259, 65537))
    os.setxattr(tree / "link", "trusted.on-a-link", b"t", follow_symlinks=False)
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    os.setxattr(tree / "dir" / "script", "security.capability", capability)
    os.chown(tree / "link", 12, 34, follow_symlinks=False)
    imported, _ = take(tree)
    assert imported["char"].rdev == os.makedev(5, 300)
    assert imported["block"].rdev == os.makedev(259, 65537)
    assert imported["link"].xattrs == ((b"trusted.on-a-link", b"t"),)
    assert (imported["link"].uid, imported["link"].gid) == (12, 34)
    assert imported["dir/script"].xattrs == ((b"security.capability", capability),)


@pytest.mark.parametrize(
    ("patterns", "gone"),
    [
        (["*"], {b"a", b"dir", b"dir/deep", b"dir/deep/a-again", b"dir/script", b"link"}),
        (["a*"], {b"a", b"dir/deep/a-again"}),
        (["/a*"], {b"a"}),
        (["dir/*"], {b"dir/deep", b"dir/deep/a-again", b"dir/script"}),
        (["deep/"], {b"dir/deep", b"dir/deep/a-again"}),
        (["link/", "a/"], set()),
        (["**/script"], {b"dir/script"}),
        (["di[a-z]/?eep"], {b"dir/deep", b"dir/deep/a-again"}),
        (["[!x]ink", r"\a"], {b"link", b"a"}),
    ],
)
def test_excludes(tmp_path: Path, patterns: list[str], gone: set[bytes]) -> None:
    root = tmp_path / "tree"
    (root / "dir" / "deep").mkdir(parents=True)
    (root / "a").touch()
    (root / "dir" / "script").touch()
    (root / "dir" / "deep" / "a-again").touch()
    (root / "link").symlink_to("a")
    whole, _ = take(root)
    imported, result = take(root, exclude=patterns)
    assert whole.inos.keys() - imported.inos.keys() == gone
    assert result.skipped == ()


def test_a_hard_link_that_is_excluded_does_not_count(tree: Path) -> None:
    imported, _ = take(tree, exclude=["a-again"])
    assert imported["a"].nlink == 1
    assert imported["a"].links == ((1, b"a"),)


@pytest.mark.parametrize("pattern", ["", "/", "//"])
def test_a_pattern_for_nothing_is_refused(tree: Path, pattern: str) -> None:
    with pytest.raises(Invalid):
        take(tree, exclude=[pattern])


def test_the_store_is_never_entered(tree: Path) -> None:
    store = (tree / "dir").stat()
    forbidden = frozenset({(store.st_dev, store.st_ino)})
    imported, result = take(tree, forbidden=forbidden)
    assert b"dir" not in imported.inos
    assert result.skipped == ((b"dir", "the store itself"),)
    with pytest.raises(Invalid):
        take(tree / "dir" / "deep", forbidden=forbidden)


def test_a_missing_source_is_not_found(tree: Path) -> None:
    for path in (tree / "nothing", tree / "a"):
        with pytest.raises(NotFound):
            take(path)


def test_a_symlink_as_the_source_is_followed_but_none_below(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(tree)
    assert take(tmp_path / "alias")[1].root == take(tree)[1].root


def test_a_deep_tree_needs_few_descriptors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importer, "OPEN_DIRECTORIES", 3)
    at = tmp_path / "tree"
    at.mkdir()
    top = at
    for level in range(12):
        for name in ("b", "c", "d"):
            (at / name).mkdir()
            (at / name / "file").write_bytes(b"%d" % level)
        at = at / "c"
    count = len(os.listdir("/proc/self/fd"))
    imported, result = take(top)
    assert len(os.listdir("/proc/self/fd")) == count
    assert result.skipped == ()
    assert imported.inos.keys() - {b""} == {os.fsencode(path.relative_to(top)) for path in below(top)}


class Meddler(MemoryBlocks):
    """Blocks that let something happen to the source at each put_many."""

    def __init__(self, act: Callable[[int], None]) -> None:
        super().__init__()
        self.act = act
        self.calls = 0

    def put_many(self, raws: Iterable[bytes]) -> list[bytes]:
        self.calls += 1
        self.act(self.calls)
        return [self.put(raw) for raw in raws]


def big_file(tmp_path: Path) -> tuple[Path, Path]:
    root = tmp_path / "tree"
    root.mkdir()
    (root / "big").write_bytes(b"x" * (content.BATCH_BYTES + 5))  # stored in two batches
    return root, root / "big"


@pytest.mark.parametrize("broken", ["put", "put_many"])
def test_an_error_of_the_store_is_not_one_of_the_source(tree: Path, broken: str) -> None:
    class Broken(MemoryBlocks):
        pass

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    setattr(Broken, broken, fail)
    with pytest.raises(CowfsError, match="blocks cannot be written"):
        import_directory(Broken(), str(tree), GEOMETRY)


def test_a_file_that_changes_once_is_read_again(tmp_path: Path) -> None:
    root, big = big_file(tmp_path)

    def act(call: int) -> None:
        if call == 1:
            big.write_bytes(b"y" * 1000)

    blocks = Meddler(act)
    result = import_directory(blocks, str(root), GEOMETRY)
    assert result.changed == ()
    assert result.skipped == ()
    assert Imported(blocks, result).read("big") == b"y" * 1000


def test_a_file_that_never_stands_still_is_taken_and_reported(tmp_path: Path) -> None:
    root, big = big_file(tmp_path)
    size = content.BATCH_BYTES + 5

    def act(call: int) -> None:
        with big.open("ab") as file:
            file.write(b"z")

    blocks = Meddler(act)
    result = import_directory(blocks, str(root), GEOMETRY)
    assert result.changed == (b"big",)
    assert result.skipped == ()
    record = Imported(blocks, result)["big"]
    assert size < record.size < size + importer.ATTEMPTS


def test_a_file_that_keeps_shrinking_is_left_out(tmp_path: Path) -> None:
    root, big = big_file(tmp_path)

    def act(call: int) -> None:
        big.write_bytes(b"x" * (content.BATCH_BYTES + 5))
        os.truncate(big, content.BATCH_BYTES + 5 - call)

    blocks = Meddler(act)
    result = import_directory(blocks, str(root), GEOMETRY)
    assert [path for path, _ in result.skipped] == [b"big"]
    assert Imported(blocks, result).inos == {b"": 1}


def test_a_directory_that_becomes_a_symlink_is_not_followed(tmp_path: Path) -> None:
    root, _ = big_file(tmp_path)
    (root / "aaa").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(b"secret")

    def act(call: int) -> None:
        if call == 1:
            (root / "aaa").rmdir()
            (root / "aaa").symlink_to(tmp_path / "outside")

    blocks = Meddler(act)
    result = import_directory(blocks, str(root), GEOMETRY)
    assert [path for path, _ in result.skipped] == [b"aaa"]
    assert result.changed == (b"",)  # the directory that it was in
    assert b"secret" not in blocks.blocks.values()
    assert Imported(blocks, result).inos.keys() == {b"", b"big"}


def test_what_cannot_be_read_is_reported(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_open, real_list = scan.open_file, scan.list_names

    def open_file(parent: int, name: bytes) -> int:
        if name == b"a":
            raise PermissionError(13, "Permission denied")
        return real_open(parent, name)

    def list_names(fd: int) -> list[bytes]:
        names = real_list(fd)
        if b"deep" in names:
            raise OSError(5, "Input/output error")
        return [*names, b"vanished"]

    monkeypatch.setattr(scan, "open_file", open_file)
    monkeypatch.setattr(scan, "list_names", list_names)
    imported, result = take(tree)
    assert dict(result.skipped) == {
        b"a": "Permission denied",
        b"vanished": "No such file or directory",
        b"empty/vanished": "No such file or directory",
        b"dir": "cannot be listed: Input/output error",
    }
    assert b"a" not in imported.inos
    assert imported["dir"].content.data == b""  # a directory that cannot be listed stays, empty


def test_equal_directory_keys_get_discriminators_up_to_the_limit(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    narrow = Geometry(key_bits=1)  # all names have key 1
    for number in range(256):
        (root / f"{number:03}").touch()
    imported, result = take(root, geometry=narrow)
    cookies = [cookie for cookie, _ in radix.scan(imported.blocks, imported[""].content.data)]
    assert cookies == list(range(256, 512))
    assert len(imported.inos) == result.files == 257
    (root / "one-more").touch()
    with pytest.raises(NoSpace):
        take(root, geometry=narrow)


def test_progress_ends_with_the_sums(tree: Path) -> None:
    calls: list[tuple[int, int]] = []
    _, result = take(tree, progress=lambda files, size: calls.append((files, size)))
    assert calls[-1] == (result.files, result.bytes)


def test_numbers_of_siblings_are_neighbours_and_small(tree: Path) -> None:
    imported, result = take(tree, rule="directory-hash")
    children = sorted(ino for path, ino in imported.inos.items() if path and b"/" not in path)
    assert children == list(range(children[0], children[0] + len(children)))
    assert result.next_ino < 1 << 31


def test_a_changed_name_moves_no_inode_elsewhere(tree: Path) -> None:
    before, _ = take(tree, rule="directory-hash")
    (tree / "000-first").mkdir()
    (tree / "000-first" / "file").touch()
    after, _ = take(tree, rule="directory-hash")
    below = [path for path in before.inos if path.startswith(b"dir/")]
    assert below
    assert all(before.inos[path] == after.inos[path] for path in below if path != b"dir/deep/a-again")


def test_a_new_root_is_an_empty_directory() -> None:
    blocks = MemoryBlocks()
    root = make_root(blocks, GEOMETRY, 0o40755, 1, 2, TIME)
    value = radix.lookup(blocks, read_root(blocks, root), 1)
    assert value is not None
    record = decode_inode(value)
    assert (record.mode, record.uid, record.gid, record.nlink) == (0o40755, 1, 2, 2)
    assert record.atime == record.mtime == record.ctime == record.btime == TIME
    assert make_root(MemoryBlocks(), GEOMETRY, 0o755, 1, 2, TIME) == root
