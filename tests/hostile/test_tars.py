"""Tar archives that somebody made to do harm: one clear line, nothing changed, nothing outside of the tree."""

from __future__ import annotations

import io
import itertools
import os
import random
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cowfs.blocks.memory import MemoryBlocks
from cowfs.errors import Invalid
from cowfs.geometry import Geometry
from cowfs.settle import imagetree
from cowfs.settle.tarimport import NOTES_MAX, import_tar
from cowfs.settle.tarread import EXTENDED_MAX, GLOBALS_MAX, HEADER_MAX, Reader
from tests.support.lab import Lab

LIMIT = 64 << 20
Make = Callable[[tarfile.TarFile], object]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    made = Lab(tmp_path_factory.mktemp("tars") / "store", inline=False)
    yield made
    made.close()


def entry(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", size: int = 0, **fields: int) -> tarfile.TarInfo:
    """A header."""
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.size = kind, target, size
    for key, value in fields.items():
        setattr(made, key, value)
    return made


def archive(*entries: tarfile.TarInfo, pax: dict[str, str] | None = None) -> bytes:
    """An archive of these; files are full of x."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for each in entries:
            each.pax_headers = pax or {}
            tar.addfile(each, io.BytesIO(b"x" * each.size) if each.isreg() else None)
    return out.getvalue()


def replaced(data: bytes, old: bytes, new: bytes) -> bytes:
    """Other bytes in their place."""
    assert data.count(old) == 1, old
    assert len(old) == len(new), (old, new)
    return data.replace(old, new)


def checksummed(header: bytearray) -> bytes:
    """A header with the right checksum."""
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def changed(data: bytes, at: int, new: bytes) -> bytes:
    """An archive whose first header differs."""
    header = bytearray(data[:512])
    header[at : at + len(new)] = new
    return checksummed(header) + data[512:]


def extended(kind: bytes, *records: tuple[str, int]) -> bytes:
    """A header that is an entry of its own: of a pax kind, records of these keys with as many bytes of value each."""
    data = b""
    for key, length in records:
        rest = f" {key}=".encode() + b"v" * length + b"\n"
        size = next(size for size in itertools.count(len(rest)) if size == len(rest) + len(str(size)))
        data += str(size).encode() + rest
    header = entry("pax", kind, size=len(data)).tobuf(tarfile.USTAR_FORMAT)
    return header + data + bytes(-len(data) % 512)


ONE = archive(entry("f", size=700))
HARD, SOFT, DIRECTORY = tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE
CASES: dict[str, bytes] = {
    "an absolute path": archive(entry("/etc/passwd", size=3)),
    "a path that leaves": archive(entry("a/../../etc/passwd", size=3)),
    "two dots alone": archive(entry("..", DIRECTORY)),
    "below a symbolic link": archive(entry("d", SOFT, "/etc"), entry("d/passwd", size=3)),
    "below a file": archive(entry("f", size=3), entry("f/g", size=3)),
    "a hard link to an absolute path": archive(entry("l", HARD, "/etc/passwd")),
    "a hard link that leaves": archive(entry("l", HARD, "../x")),
    "a hard link to nothing": archive(entry("l", HARD, "f"), entry("f", size=1)),
    "a hard link to a directory": archive(entry("d", DIRECTORY), entry("l", HARD, "d")),
    "a hard link below a link": archive(entry("d", SOFT, "e"), entry("e", DIRECTORY), entry("l", HARD, "d/x")),
    "a file where a directory is": archive(entry("d", DIRECTORY), entry("d", size=1)),
    "the root is no directory": archive(entry("./", SOFT, "x")),
    "a name of 256 bytes": archive(entry("n" * 256, size=1)),
    "too deep": archive(entry("d/" * 1100 + "f", size=1)),
    "a long path": archive(entry("d" * 250 + "/" + "e/" * 20_000, size=1)),
    "a symbolic link of 4096 bytes": archive(entry("l", SOFT, "t" * 4096)),
    "an empty symbolic link": archive(entry("l", SOFT, "")),
    "an owner of 33 bits": archive(entry("f", uid=1 << 33)),
    "no end": ONE[:1536],
    "cut in a file": ONE[:900],
    "cut in a header": ONE[:300],
    "an endless size": changed(ONE, 124, b"\x80" + b"\0" * 3 + (1 << 62).to_bytes(8, "big")),
    "a size of 2**64": changed(ONE, 124, b"\x80" + b"\0" * 2 + (1 << 64).to_bytes(9, "big")),
    "a negative size": changed(ONE, 124, b"\xff" * 12),
    "a size that is no number": changed(ONE, 124, b"00000000xyz\0"),
    "an unknown type": changed(ONE, 156, b"Q"),
    "one volume of many": changed(ONE, 156, b"M"),
    "a wrong checksum": ONE[:148] + b"0000000\0" + ONE[156:],
    "no archive": b"not a tar archive, just text\n" * 100,
    "nothing at all": b"",
    "a pax header that lies": replaced(archive(entry("f", size=1), pax={"comment": "c" * 50}), b"62 c", b"99 c"),
    "a pax header without a key": replaced(archive(entry("f"), pax={"comment": "c"}), b"comment=", b"=omment "),
    "a pax size that is no number": replaced(
        archive(entry("f"), pax={"comment": "ccc"}), b"comment=ccc", b"size=axxxxx"
    ),
    "a pax header of a gigabyte": changed(changed(ONE, 156, b"x"), 124, b"10000000000\0"),
    "a long name of a gigabyte": changed(changed(ONE, 156, b"L"), 124, b"10000000000\0"),
    "a NUL in a path": replaced(archive(entry("abc"), pax={"comment": "xxxx"}), b"comment=xxxx", b"path=ab\0cdef"),
    "extended attributes without an end": archive(
        entry("f"), pax={f"SCHILY.xattr.user.a{number}": "v" * 5000 for number in range(40)}
    ),
    "a sparse map that overlaps": archive(
        entry("f", size=600), pax={"GNU.sparse.map": "0,512,100,88", "GNU.sparse.size": "1000"}
    ),
    "a sparse map beyond the end": archive(
        entry("f", size=600), pax={"GNU.sparse.map": "500,600", "GNU.sparse.size": "1000"}
    ),
    "a sparse map of more than is there": archive(
        entry("f", size=600), pax={"GNU.sparse.map": "0,700", "GNU.sparse.size": "1000"}
    ),
    "a sparse map of half a pair": archive(
        entry("f", size=600), pax={"GNU.sparse.map": "0,600,7", "GNU.sparse.size": "1000"}
    ),
    "a sparse map without an end": archive(
        entry("f", size=600), pax={"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9"}
    ),
    "an unknown sparse version": archive(
        entry("f", size=600), pax={"GNU.sparse.major": "1", "GNU.sparse.minor": "7", "GNU.sparse.realsize": "9"}
    ),
    "an extended header without an entry": archive(entry("f"), pax={"comment": "c"})[:1024] + bytes(1024),
    "global headers of megabytes": b"".join(
        extended(b"g", (f"c{number}", HEADER_MAX // 4)) + ONE[:1536] for number in range(5)
    ) + ONE,
    "global headers of many records": b"".join(
        extended(b"g", (f"c{number}", 1)) + ONE[:1536] for number in range(GLOBALS_MAX + 1)
    ) + ONE,
    "extended headers without an end": extended(b"x", ("comment", HEADER_MAX // 2)) * 5 + ONE,
    "long names without an end": extended(b"L", ("c", HEADER_MAX // 2)) * 5 + ONE,
    "empty headers without an end": extended(b"V") * (EXTENDED_MAX // 512 + 1) + ONE,
    "a bomb": archive(entry("f", size=LIMIT + 1)),
}  # fmt: skip


def bring(store: Lab, path: Path) -> None:
    """Import it as a workspace."""
    store.engine.import_tree(b"tar:" + os.fsencode(path), "ws", (), lambda _: None, limit=LIMIT)


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused(store: Lab, tmp_path: Path, name: str) -> None:
    (tmp_path / "a.tar").write_bytes(CASES[name])
    with pytest.raises(Invalid) as caught:
        bring(store, tmp_path / "a.tar")
    assert "\n" not in str(caught.value.message)
    assert len(caught.value.message) < 500
    assert store.engine.list() == []
    assert list(store.engine.store.tmp.iterdir()) == []


def test_headers_are_bounded() -> None:
    """What a header claims is never read, or allocated, beyond the bound."""

    class Endless:
        asked = 0

        def read(self, size: int) -> bytes:
            self.asked = max(self.asked, size)
            return (CASES["a pax header of a gigabyte"][:512] * (size // 512 + 1))[:size]

    stream = Endless()
    with pytest.raises(Invalid):
        next(iter(Reader(stream)))
    assert stream.asked <= HEADER_MAX


def take(path: Path, data: bytes) -> list[tuple[bytes, str]]:
    """Import an archive in this process; what was left out."""
    path.write_bytes(data)
    return list(import_tar(MemoryBlocks(), os.fsencode(path), Geometry(), LIMIT).skipped)


def test_headers_that_others_write_are_taken(tmp_path: Path) -> None:
    """Archives put together have a global header each; one entry has long names, attributes and a comment."""
    many = (extended(b"g", ("comment", 40)) + ONE[:1536]) * (2 * GLOBALS_MAX) + ONE
    assert take(tmp_path / "many.tar", many) == []
    long = extended(b"x", ("comment", HEADER_MAX - 100)) + archive(entry("n" * 200, size=5), pax={"comment": "c"})
    assert take(tmp_path / "long.tar", long) == []


def test_directories_that_are_implied_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So do extended attributes, which are kept in memory, too."""
    monkeypatch.setattr(imagetree, "ENTRIES_MAX", 1000)
    deep = [entry(f"{number}/" + "d/" * 150 + "f") for number in range(8)]
    assert take(tmp_path / "a.tar", archive(*deep[:6])) == []
    with pytest.raises(Invalid, match="more than 1000 entries and directories"):
        take(tmp_path / "a.tar", archive(*deep))
    pax = {"SCHILY.xattr.user.a": "v" * 60_000}
    with pytest.raises(Invalid, match="more than 1000 entries and directories"):
        take(tmp_path / "a.tar", archive(*(entry(str(number)) for number in range(20)), pax=pax))


def test_what_is_left_out_is_told_within_bounds(tmp_path: Path) -> None:
    pax = {f"SCHILY.xattr.other.{number}.{'n' * 400}": "v" for number in range(20)}
    told = take(tmp_path / "a.tar", archive(*(entry(str(number)) for number in range(NOTES_MAX // 10)), pax=pax))
    assert len(told) == NOTES_MAX + 1
    assert told[-1][1].startswith("more is left out")
    assert max(len(reason) for _, reason in told) < 400


def test_mutations(store: Lab, tmp_path: Path) -> None:
    """Whatever is flipped, cut or repeated: an import, or one clear error; the store stays right."""
    r = random.Random(5)
    good = archive(
        entry("d", DIRECTORY), entry("d/f", size=900), entry("d/l", SOFT, "f"), entry("h", HARD, "d/f"),
        entry("x" * 150, size=10, mtime=5), pax={"SCHILY.xattr.user.a": "value", "mtime": "1.5"},
    )  # fmt: skip
    path = tmp_path / "a.tar"
    taken = 0
    for _ in range(400):
        data = bytearray(good)
        for _ in range(r.choice([1, 1, 2, 5])):
            at = r.randrange(len(data))
            match r.randrange(4):
                case 0:
                    data[at] ^= 1 << r.randrange(8)
                case 1:
                    data[at : at + r.randrange(600)] = b""
                case 2:
                    data[at:at] = data[at : at + 512]
                case 3:
                    header = at // 512 * 512
                    field = bytearray(data[header : header + 512].ljust(512, b"\0"))
                    field[r.randrange(512)] = r.randrange(256)
                    data[header : header + 512] = checksummed(field)
        path.write_bytes(data)
        try:
            bring(store, path)
        except Invalid:
            continue
        else:
            taken += 1
            store.engine.remove("ws")
    assert 0 < taken < 400
    assert list(store.engine.fsck(deep=True)) == []
