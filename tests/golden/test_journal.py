"""Stored samples of the journal's header and of every kind of record: read for ever, and written equally.

``journal/NAME.hex`` must decode to the value named here and be what that value encodes to. What lies in
``journal/should_fail/`` must be refused with Corrupt: ``header-WHY.hex`` as a header, ``record-WHY.hex`` as a record.
docs/format.md must list exactly these kinds, with these fields.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cowfs.errors import Corrupt
from cowfs.formats import inode
from cowfs.formats import journal as j

HERE = Path(__file__).parent / "journal"
DOCUMENT = Path(__file__).parents[2] / "docs" / "format.md"
FILE_NO = 17
XATTRS = inode.encode_xattrs(((b"system.posix_acl_access", b"acl"), (b"user.a", b"")))
BARE = inode.encode_inode(
    inode.InodeRecord(0o100644, 1, 2, 0, 0, 5, 8, 17, 1, 2, 3, 4, ((b"user.a", b"v"),), (), inode.EMPTY)
)

HEADER = j.FileHeader(FILE_NO, 4711, "wsp-0123456789abcdef0123")
RECORDS: dict[str, j.Record] = {
    "make_file": j.Make(1, 2, 0o100644, 1000, 1001, 0, b"name", b"", b""),
    "make_symlink": j.Make(1, 3, 0o120777, 0, 0, 0, b"\xff\xfe", b"target", b""),
    "make_device": j.Make(1, 4, 0o020666, 0, 0, 0x103, b"null", b"", b""),
    "make_with_acl": j.Make(1, 5, 0o040750, 0, 0, 0, b"d" * 255, b"", XATTRS),
    "tmpfile": j.Tmpfile(1, 6, 0o100600, 1000, 1000, b""),
    "link": j.Link(2, 1, b"other"),
    "unlink": j.Unlink(1, 2, 1, b"name"),
    "rename": j.Rename(1, 7, 2, 8, 1, 0, 0, 0, 0, b"old", b"new"),
    "rename_exchange": j.Rename(1, 7, 2, 8, 0, 2, 0, 0, 0, b"old", b"new"),
    "rename_whiteout": j.Rename(1, 7, 2, 0, 0, 4, 9, 1000, 1001, b"old", b"new"),
    "set_attributes": j.SetAttributes(2, 0x7F, 0o104755, 3, 4, 1 << 40, -1, 10**18, 10**18 + 1),
    "set_attributes_kill": j.SetAttributes(2, j.SET_SIZE | j.SET_KILL_PRIV, 0, 0, 0, 12, 0, 0, 0),
    "write": j.Write(2, 4096, 0, b"some bytes"),
    "write_kill": j.Write(2, (1 << 44) - 1, 1, b"\0"),
    "allocate": j.Allocate(2, 3, 4096, 8192, 1),
    "clone_range": j.CloneRange(2, 0, 3, 4096, 5, b"bytes"),
    "set_xattr": j.SetXattr(2, 0o100644, b"user.a", b"value"),
    "remove_xattr": j.RemoveXattr(2, b"user.a"),
    "opened": j.Opened(2, 1, 1),
    "orphan_record": j.Orphan(6, 0, 1, BARE, b""),
    "orphan_data": j.Orphan(6, 4096, 0, b"", b"data"),
    "orphan_end": j.OrphanEnd(6),
    "checkpoint": j.Checkpoint(
        10,
        0,
        b"snap-1",
        b"lay-1",
        b"lay-2",
        b"snap-0",
        "Größe".encode(),
        b"good\0better",
        b"me",
        b"key",
        bytes(range(32)),
    ),
    "checkpoint_bare": j.Checkpoint(10, 1, b"snap-1", b"lay-1", b"lay-2", b"", b"", b"", b"", b"", b""),
    "freeze": j.Freeze(200_002, b"lay-1", b"lay-2"),
    "restore": j.Restore(
        10, 7, b"snap-1", b"lay-1", b"lay-3", b"snap-2", b"lay-2", b"before", b"me", b"key", bytes(range(32))
    ),
    "invalidated": j.Invalidated(b"lay-3"),
    "pending": j.Pending(1, 2, 4, 9, 4096),
    "quota": j.Quota(1 << 40, 0),
    "retention": j.Retention(b"automatic 10"),
    "restore_bare": j.Restore(10, 0, b"snap-1", b"lay-1", b"lay-3", b"", b"", b"", b"", b"", b""),
    "writers": j.Writers((2).to_bytes(8, "little") + (1 << 40).to_bytes(8, "little")),
    "create": j.Create(1, 6, 0o100600, 1000, 1001, b"new", XATTRS),
    "stale": j.Stale(1, 2, b"old\0\xff\xfe"),
}
KINDS = tuple(row[0] for row in j.KINDS.values())


def envelope(name: str) -> j.Envelope:
    """The record as stored: the numbers follow from its place in the list."""
    at = list(RECORDS).index(name)
    return j.Envelope(4711 + at, 4700 + at, 10**18 + at, 1 << 63 | at, 2 * at, RECORDS[name])


def encoded(env: j.Envelope, file_no: int = FILE_NO) -> bytes:
    """An envelope's bytes."""
    return j.encode(file_no, env.seq, env.durable, env.time, env.connection, env.unique, env.record)


def sample(name: str) -> bytes:
    """The stored bytes."""
    return bytes.fromhex((HERE / f"{name}.hex").read_text())


def test_every_kind_has_a_sample() -> None:
    assert {type(record) for record in RECORDS.values()} == set(KINDS)
    assert {path.stem for path in HERE.glob("*.hex")} == RECORDS.keys() | {"header"}


def test_header() -> None:
    assert j.decode_header(sample("header")) == HEADER
    assert j.encode_header(HEADER) == sample("header")
    assert len(sample("header")) == j.HEADER_BYTES


@pytest.mark.parametrize("name", RECORDS)
def test_record(name: str) -> None:
    stored = sample(name)
    assert j.decode(stored, FILE_NO) == envelope(name)
    assert encoded(envelope(name)) == stored
    assert j.record_length(stored) == len(stored)


def test_a_write_in_two_pieces_is_the_same_record() -> None:
    env, record = envelope("write"), RECORDS["write"]
    assert isinstance(record, j.Write)
    head = j.encode_write_head(FILE_NO, *env[:5], record.ino, record.offset, record.kill_priv, record.data)
    assert head + record.data == sample("write")
    assert len(head) == j.WRITE_DATA_AT


@pytest.mark.parametrize("path", sorted((HERE / "should_fail").glob("*.hex")), ids=lambda path: path.stem)
def test_refused(path: Path) -> None:
    data = bytes.fromhex(path.read_text())
    header = path.stem.startswith("header-")
    with pytest.raises(Corrupt):
        _ = j.decode_header(data) if header else j.decode(data, FILE_NO)


def test_there_is_something_to_refuse() -> None:
    found = {path.stem for path in (HERE / "should_fail").glob("*.hex")}
    assert len(found) >= 14, "the folder of what must be refused is incomplete"


def test_the_document_lists_exactly_these_kinds() -> None:
    text = DOCUMENT.read_text()
    section = text[text.index("### Journal record kinds") : text.index("## Control log")]
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \| ([^|]*)\| ([^|]*)\|", section, re.MULTILINE)
    assert [name for _, name, _, _ in rows] == [kind.__name__ for kind in KINDS]
    sizes = {"u8": 1, "u32": 4, "u64": 8, "i64": 8}
    for (kind, name, fixed, strings), cls in zip(rows, KINDS, strict=True):
        fields = [field.split() for field in fixed.strip().split(", ") if field]
        tails = [field for field in strings.strip().split(", ") if field]
        assert [field for field, _ in fields] + tails == list(cls._fields), name
        assert sum(sizes[size] for _, size in fields) + 4 * len(tails) == j.body_bytes(cls), name
        assert all(sample(each)[12] == int(kind) for each, record in RECORDS.items() if type(record) is cls)
    assert f"### Journal file header ({j.HEADER_BYTES} bytes)" in text
    assert f"### Journal record head ({j.HEAD_BYTES} bytes)" in text
