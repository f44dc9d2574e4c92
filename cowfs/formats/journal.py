"""Journal file header and records: ``bytes <-> NamedTuple``, no I/O (docs/format.md).

Invariants:
- a record is one 56-byte head, its integer fields, then its byte strings; nothing is left over;
- the checksum (XXH3-64, seeded with the file number, so that a stale record of a recycled file is
  never taken for a live one) covers everything behind it;
- sequence numbers along a workspace's chain have no gap;
- each record says up to which sequence number everything was durable when it was written, which tells
  damage (what was durable is gone) from a torn tail (what never was may be gone);
- decoding raises :class:`Corrupt` on any malformed byte string, never anything else.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import Final, NamedTuple

import xxhash

from cowfs.errors import Corrupt

MAGIC: Final = b"COWJ"
VERSION: Final = 1
HEADER_BYTES: Final = 64
_HEADER = struct.Struct("<4sHHQQ32sQ")
_HEAD = struct.Struct("<QIHHQQqQQ")
_AFTER_CHECKSUM = struct.Struct("<IHHQQqQQ")
HEAD_BYTES: Final = _HEAD.size
RECORD_MAX: Final = 4 * 1024 * 1024
"""Bytes of one record at most: a 1 MiB write, or the state of an orphan with many extents."""


class FileHeader(NamedTuple):
    """The first 64 bytes of a journal file. ``first_seq`` is the sequence number of its first record."""

    file_no: int
    first_seq: int
    workspace: str


class Make(NamedTuple):
    """A new inode and its first name: mknod, mkdir, symlink. ``xattrs``: inherited ACLs, encoded, or empty."""

    parent: int
    ino: int
    mode: int
    uid: int
    gid: int
    rdev: int
    name: bytes
    target: bytes
    xattrs: bytes


class Tmpfile(NamedTuple):
    """A new regular file without a name, open from birth."""

    parent: int
    ino: int
    mode: int
    uid: int
    gid: int
    xattrs: bytes


class Link(NamedTuple):
    """One more name for an inode."""

    ino: int
    parent: int
    name: bytes


class Unlink(NamedTuple):
    """A name goes (unlink and rmdir). ``orphan``: 1 when the inode lost its last name while open."""

    parent: int
    ino: int
    orphan: int
    name: bytes


class Rename(NamedTuple):
    """A name moves. ``replaced``: inode that the new name held before, or 0; ``orphan``: it was open.

    ``flags``: RENAME_EXCHANGE (2) or RENAME_WHITEOUT (4); with the latter ``whiteout`` is a new inode of
    ``uid`` and ``gid``.
    """

    parent: int
    new_parent: int
    ino: int
    replaced: int
    orphan: int
    flags: int
    whiteout: int
    uid: int
    gid: int
    name: bytes
    new_name: bytes


class SetAttributes(NamedTuple):
    """Attributes as they are afterwards. ``valid`` says which fields count (``SET_*``); times in ns."""

    ino: int
    valid: int
    mode: int
    uid: int
    gid: int
    size: int
    atime: int
    mtime: int
    ctime: int


SET_MODE, SET_UID, SET_GID, SET_SIZE, SET_ATIME, SET_MTIME, SET_CTIME, SET_KILL_PRIV = (1 << i for i in range(8))


class Write(NamedTuple):
    """Bytes of a regular file. ``kill_priv``: 1 when set-id bits and security.capability were cleared."""

    ino: int
    offset: int
    kill_priv: int
    data: bytes


class Allocate(NamedTuple):
    """fallocate with the mode bits of fallocate(2). ``kill_priv``: 1 when set-id bits were cleared."""

    ino: int
    mode: int
    offset: int
    length: int
    kill_priv: int


class CloneRange(NamedTuple):
    """Bytes of one file become bytes of another: copy_file_range, FICLONE. ``data`` when not by reference."""

    source: int
    source_offset: int
    ino: int
    offset: int
    length: int
    data: bytes


class SetXattr(NamedTuple):
    """An extended attribute. ``mode`` is the file mode afterwards (an access ACL changes it)."""

    ino: int
    mode: int
    name: bytes
    value: bytes


class RemoveXattr(NamedTuple):
    """An extended attribute goes."""

    ino: int
    name: bytes


class Opened(NamedTuple):
    """Whether an inode is now open at all, and open for writing (0 or 1 each)."""

    ino: int
    open: int
    writable: int


class Orphan(NamedTuple):
    """An inode without a name, carried into a later layer because it is open, or gets a name there.

    ``record`` is its inode record without content; then come its bytes, ``data`` at ``offset`` each.
    Records after the first have an empty ``record``. ``linkable``: 1 when it never had a name, and may get one.
    """

    ino: int
    offset: int
    linkable: int
    record: bytes
    data: bytes


class OrphanEnd(NamedTuple):
    """The last descriptor of an orphan closed."""

    ino: int


class Writers(NamedTuple):
    """The inodes that were open for writing when a layer began: ``inos`` holds their numbers, u64 each."""

    inos: bytes


class Create(NamedTuple):
    """A new regular file, its first name, and that it is open for writing: open(2) with O_CREAT, in one record."""

    parent: int
    ino: int
    mode: int
    uid: int
    gid: int
    name: bytes
    xattrs: bytes


class Checkpoint(NamedTuple):
    """The live layer is frozen and becomes a snapshot: this record is its commit point.

    ``parent``: snapshot id of the head before, or empty. ``layer`` is the layer frozen, ``live`` the
    new one. ``labels``: names separated by NUL. ``key`` and ``request``: see :class:`cowfs.remembered.Request`,
    both empty without one.
    """

    next_ino: int
    automatic: int
    snapshot: bytes
    layer: bytes
    live: bytes
    parent: bytes
    message: bytes
    labels: bytes
    creator: bytes
    key: bytes
    request: bytes


class Freeze(NamedTuple):
    """The live layer is frozen without a snapshot, because it became large."""

    next_ino: int
    layer: bytes
    live: bytes


class Restore(NamedTuple):
    """The workspace goes back to ``snapshot``, whose layer is ``target``; ``live`` is the new layer.

    ``changed``: inodes that differ. ``undo``: the snapshot that takes it back, or empty. Where ``undo_live`` is not
    empty, that snapshot is made here: the live layer is frozen for it, with ``message`` and ``creator``, and
    ``undo_live`` lives for this moment. ``key`` and ``request`` as in :class:`Checkpoint`.
    """

    next_ino: int
    changed: int
    snapshot: bytes
    target: bytes
    live: bytes
    undo: bytes
    undo_live: bytes
    message: bytes
    creator: bytes
    key: bytes
    request: bytes


class Invalidated(NamedTuple):
    """The kernel's caches no longer hold anything from before the last Restore."""

    live: bytes


class Stale(NamedTuple):
    """The kernel has yet to be told that a restore changed an inode, and the names (separated by NUL) in it.

    ``place``: 0 where it was, 1 a directory that has a place again, 2 a directory that is elsewhere.
    """

    ino: int
    place: int
    names: bytes


class Pending(NamedTuple):
    """What the answer to a request of an earlier layer needs, while it may be unanswered: see layers/answers.py.

    All zero: a clean end, everything before is durable.
    """

    connection: int
    unique: int
    kind: int
    ino: int
    size: int


CLEAN_END: Final = Pending(0, 0, 0, 0, 0)


Record = (
    Make | Tmpfile | Link | Unlink | Rename | SetAttributes | Write | Allocate | CloneRange | SetXattr | RemoveXattr
    | Opened | Orphan | OrphanEnd | Writers | Create | Checkpoint | Freeze | Restore | Invalidated | Pending | Stale
)  # fmt: skip

MARKERS: Final = (Checkpoint, Freeze, Restore, Invalidated, Pending, Stale)
"""Records that say where layers begin and end; they change no inode."""

KINDS: Final[dict[int, tuple[type[Record], str, int]]] = {
    1: (Make, "QQIIIQ", 3),
    2: (Tmpfile, "QQIII", 1),
    3: (Link, "QQ", 1),
    4: (Unlink, "QQB", 1),
    5: (Rename, "QQQQBIQII", 2),
    6: (SetAttributes, "QIIIIQqqq", 0),
    7: (Write, "QQB", 1),
    8: (Allocate, "QIQQB", 0),
    9: (CloneRange, "QQQQQ", 1),
    10: (SetXattr, "QI", 2),
    11: (RemoveXattr, "Q", 1),
    12: (Opened, "QBB", 0),
    13: (Orphan, "QQB", 2),
    14: (OrphanEnd, "Q", 0),
    15: (Writers, "", 1),
    16: (Create, "QQIII", 2),
    32: (Checkpoint, "QB", 9),
    33: (Freeze, "Q", 2),
    34: (Restore, "QQ", 9),
    35: (Invalidated, "", 1),
    36: (Pending, "QQBQQ", 0),
    37: (Stale, "QB", 1),
}
"""Kind -> (class, struct codes of its integers, number of strings), in the order of its fields."""
_BY_KIND: Final = {
    kind: (cls, struct.Struct("<" + ints + "I" * tails), len(ints), tails) for kind, (cls, ints, tails) in KINDS.items()
}
_BY_CLASS: Final = {
    cls: (kind, struct.Struct(_AFTER_CHECKSUM.format + body.format[1:]), body.size, ints)
    for kind, (cls, body, ints, _) in _BY_KIND.items()
}
"""Class -> (kind, everything behind the checksum up to the strings, bytes of its own fields, number of integers)."""
WRITE_KIND: Final = 7
_WRITE_BODY = _BY_KIND[WRITE_KIND][1]
WRITE_DATA_AT: Final = HEAD_BYTES + _WRITE_BODY.size
"""Offset of the data within an encoded Write."""
WRITE_DATA_MAX: Final = RECORD_MAX - WRITE_DATA_AT
"""Bytes that one Write can hold."""


class Envelope(NamedTuple):
    """A record with what every record has. ``time`` in ns; (connection, unique) is the request key.

    ``durable``: everything up to this sequence number was durable when the record was written.
    """

    seq: int
    durable: int
    time: int
    connection: int
    unique: int
    record: Record


def encode_header(header: FileHeader) -> bytes:
    """The 64 bytes at the start of a journal file."""
    workspace = header.workspace.encode("ascii")
    if len(workspace) > 32:
        raise ValueError("workspace id of more than 32 bytes")
    head = _HEADER.pack(MAGIC, VERSION, 0, header.file_no, header.first_seq, workspace, 0)[:-8]
    return head + xxhash.xxh3_64_intdigest(head).to_bytes(8, "little")


def decode_header(data: bytes) -> FileHeader:
    """The inverse of :func:`encode_header`. Raises Corrupt."""
    if len(data) < HEADER_BYTES:
        raise Corrupt("journal header: too short")
    magic, version, zero, file_no, first_seq, workspace, checksum = _HEADER.unpack_from(data)
    if magic != MAGIC:
        raise Corrupt("journal header: wrong magic")
    if checksum != xxhash.xxh3_64_intdigest(data[: HEADER_BYTES - 8]):
        raise Corrupt("journal header: wrong checksum")
    if version > VERSION:
        raise Corrupt(f"journal of version {version}, made by a newer cowfs", hint="Upgrade cowfs to open this store.")
    if zero or not version:
        raise Corrupt("journal header: reserved bytes are not zero, or version 0")
    name = workspace.rstrip(b"\0")
    if not name.isascii() or b"\0" in name:
        raise Corrupt("journal header: impossible workspace id")
    return FileHeader(file_no, first_seq, name.decode("ascii"))


def encode(
    file_no: int, seq: int, durable: int, time: int, connection: int, unique: int, record: Record
) -> bytes:  # fmt: skip
    """One whole record. Raises ValueError when it would have more than RECORD_MAX bytes."""
    kind, layout, _, ints = _BY_CLASS[type(record)]
    tails: tuple[bytes, ...] = record[ints:]  # type: ignore[assignment]
    sizes = [len(tail) for tail in tails]
    length = 8 + layout.size + sum(sizes)
    if length > RECORD_MAX:
        raise ValueError(f"a journal record of {length} bytes")
    rest = layout.pack(length, kind, 0, seq, durable, time, connection, unique, *record[:ints], *sizes)
    if tails:
        rest = b"".join((rest, *tails))
    return xxhash.xxh3_64_intdigest(rest, file_no).to_bytes(8, "little") + rest


def encode_write_head(
    file_no: int, seq: int, durable: int, time: int, connection: int, unique: int,
    ino: int, offset: int, kill_priv: int, data: bytes | memoryview,
) -> bytes:  # fmt: skip
    """Everything of a Write record that comes before its data (at most WRITE_DATA_MAX), which is not copied."""
    length = WRITE_DATA_AT + len(data)
    rest = _AFTER_CHECKSUM.pack(length, WRITE_KIND, 0, seq, durable, time, connection, unique) + _WRITE_BODY.pack(
        ino, offset, kill_priv, len(data)
    )
    digest = xxhash.xxh3_64(rest, file_no)
    digest.update(data)
    return digest.intdigest().to_bytes(8, "little") + rest


def body_bytes(cls: type[Record]) -> int:
    """Bytes of the fixed fields of this kind of record, between its head and its strings."""
    return _BY_CLASS[cls][2]


def record_length(head: bytes | memoryview) -> int:
    """Length in bytes of the record that begins with these bytes; 0 where none can begin."""
    if len(head) < HEAD_BYTES:
        return 0
    length = int.from_bytes(head[8:12], "little")
    return length if HEAD_BYTES <= length <= RECORD_MAX else 0


_CANDIDATE: Final = re.compile(
    rb"(?=[\x00-\xff]{8}[\x00-\xff]{2}[\x00-\x40]\x00[%s]\x00\x00\x00)" % re.escape(bytes(_BY_KIND)), re.DOTALL
)
"""Where a record may begin: its length is at most RECORD_MAX, its kind known, its flags are zero."""


def find_records(data: bytes, file_no: int) -> Iterator[Envelope]:
    """Every whole, valid record that lies anywhere in ``data``, none within another."""
    at = 0
    while (found := _CANDIDATE.search(data, at)) is not None:
        at = found.start()
        length = record_length(data[at : at + HEAD_BYTES])
        envelope = None
        if length and at + length <= len(data):
            with suppress(Corrupt):
                envelope = decode(data[at : at + length], file_no)
        if envelope is None:
            at += 1
            continue
        yield envelope
        at += length


def decode(data: bytes, file_no: int) -> Envelope:
    """The inverse of :func:`encode`; ``data`` is exactly one record. Raises Corrupt."""
    if len(data) < HEAD_BYTES:
        raise Corrupt("journal record: too short")
    checksum, length, kind, flags, seq, durable, time, connection, unique = _HEAD.unpack_from(data)
    if (
        length != len(data)
        or length > RECORD_MAX
        or checksum != xxhash.xxh3_64_intdigest(memoryview(data)[8:], file_no)
    ):
        raise Corrupt("journal record: wrong length or checksum")
    known = _BY_KIND.get(kind)
    if known is None or flags:
        raise Corrupt(f"journal record: unknown kind {kind}")
    cls, body, ints, tails = known
    if length < HEAD_BYTES + body.size:
        raise Corrupt("journal record: too short for its kind")
    fields = body.unpack_from(data, HEAD_BYTES)
    at = HEAD_BYTES + body.size
    values: list[int | bytes] = list(fields[:ints])
    for size in fields[ints : ints + tails]:
        values.append(data[at : at + size])
        at += size
    if at != length:
        raise Corrupt("journal record: strings do not fill it")
    return Envelope(seq, durable, time, connection, unique, cls(*values))  # type: ignore[arg-type]
