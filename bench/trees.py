"""Trees to measure on: a synthetic workspace of any size, built as an import would store it, and real files."""

from __future__ import annotations

import os
import random
import stat
from collections.abc import Iterator
from pathlib import Path

from cowfs.blocks.segments import SegmentWriter
from cowfs.blocks.writer import BlockWriter
from cowfs.engine import Engine
from cowfs.formats import inode as fmt
from cowfs.formats.inode import Content, InodeRecord, encode_dirent, encode_inode
from cowfs.geometry import DIRECTORY_BLOCKS, DIRECTORY_SIZE, ROOT_INO, Geometry
from cowfs.tree import radix, root
from cowfs.tree.content import directory_content
from cowfs.tree.names import directory_key

FILES_A_DIRECTORY = 100
TIME_NS = 1_700_000_000_000_000_000


def synthetic_workspace(engine: Engine, name: str, files: int) -> None:
    """A workspace of ``files`` small files, 100 to a directory, built as an import would store it.

    Inode numbers: directories first, in the order of their names, then files.
    """
    geometry = engine.store.superblock.geometry
    segment_id, path = engine.jobs.segments.take()
    segment = SegmentWriter(path, segment_id)
    writer = BlockWriter(engine.blocks, segment)
    directories = -(-files // FILES_A_DIRECTORY)
    first_file = 2 + directories

    def records() -> Iterator[tuple[int, bytes]]:
        entries = [(2 + number, stat.S_IFDIR >> 12, b"d%06d" % number) for number in range(directories)]
        yield ROOT_INO, _directory(writer, geometry, entries, ())
        for number in range(directories):
            inos = range(first_file + number * FILES_A_DIRECTORY, first_file + min(files, (number + 1) * 100))
            entries = [(ino, stat.S_IFREG >> 12, b"f%07d" % ino) for ino in inos]
            yield 2 + number, _directory(writer, geometry, entries, ((ROOT_INO, b"d%06d" % number),))
        for index in range(files):
            ino = first_file + index
            data = b"file %d\n" % ino
            link = (2 + index // FILES_A_DIRECTORY, b"f%07d" % ino)
            yield (
                ino,
                encode_inode(_record(stat.S_IFREG | 0o644, 1, len(data), 8, Content(fmt.INLINE, 1, data), (link,))),
            )

    table = radix.build(writer, records(), geometry, inline=False)
    made = root.write_root(writer, table)
    writer.sync()
    found, relied = writer.batch()
    writer.committed(engine.index.commit(found, relied))
    writer.close()
    engine.jobs.segments.release(segment_id)
    engine.adopt(name, made, first_file + files, 0, files + directories + 1)


def _directory(
    writer: BlockWriter, geometry: Geometry, entries: list[tuple[int, int, bytes]], links: tuple[tuple[int, bytes], ...]
) -> bytes:
    used: dict[int, bytes] = {}
    for ino, kind, name in entries:
        cookie = directory_key(name, geometry.key_bits) << 8
        while cookie in used:
            cookie += 1
        used[cookie] = encode_dirent(ino, kind, name)
    pointer = radix.build(writer, sorted(used.items()), geometry, inline=True)
    children = sum(kind == stat.S_IFDIR >> 12 for _, kind, _ in entries)
    content = directory_content(pointer)
    return encode_inode(_record(stat.S_IFDIR | 0o755, 2 + children, DIRECTORY_SIZE, DIRECTORY_BLOCKS, content, links))


def _record(
    mode: int, nlink: int, size: int, blocks: int, content: Content, links: tuple[tuple[int, bytes], ...]
) -> InodeRecord:
    return InodeRecord(
        mode, 0, 0, nlink, 0, size, blocks, 17, TIME_NS, TIME_NS, TIME_NS, TIME_NS, (), links, content
    )  # fmt: skip


def file_path(index: int, files: int) -> str:
    """The path of file ``index`` of :func:`synthetic_workspace`, relative to its root."""
    directory, directories = index // FILES_A_DIRECTORY, -(-files // FILES_A_DIRECTORY)
    return f"d{directory:06d}/f{2 + directories + index:07d}"


def spread(count: int, files: int) -> list[str]:
    """``count`` paths spread evenly over a synthetic workspace of ``files``."""
    return [file_path(index * files // count, files) for index in range(count)]


def small_files(where: Path, files: int, seed: int = 0) -> int:
    """Write ``files`` small source-like files below ``where``, 20 to a directory; the bytes written.

    Sizes are log-normal, about 6.5 kB in the mean; the content is words, which zstd makes about a third of.
    """
    chance = random.Random(seed)
    words = [bytes(chance.choices(b"abcdefghijklmnopqrstuvwxyz_", k=chance.randint(2, 12))) for _ in range(4000)]
    total = 0
    for index in range(files):
        directory = where / f"p{index // 400:02d}" / f"m{index // 20 % 20:02d}"
        if index % 20 == 0:
            directory.mkdir(parents=True, exist_ok=True)
        size = min(int(chance.lognormvariate(8.3, 1.0)), 400_000) + 1
        content = b" ".join(chance.choices(words, k=size // 7 + 1))[:size]
        (directory / f"file_{index:05d}.py").write_bytes(content)
        total += len(content)
    return total


def tree_bytes(where: Path) -> tuple[int, int]:
    """(regular files, their bytes) below ``where``."""
    count = size = 0
    for directory, _, names in os.walk(where):
        for name in names:
            found = os.lstat(os.path.join(directory, name))
            if stat.S_ISREG(found.st_mode):
                count, size = count + 1, size + found.st_size
    return count, size
