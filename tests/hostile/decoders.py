"""Every decoder of bytes that another process, a disk or a user may have damaged, with good samples of its input.

``seal`` makes the checksums of a changed sample right again, so that what lies behind them is reached too.
``encode`` gives back the bytes of a decoded value, where equal values must have equal bytes. ``json``: samples are JSON
text.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash
from blake3 import blake3
from pydantic import ValidationError

from cowfs.blocks import codec as block_codec
from cowfs.blocks.api import Location
from cowfs.errors import Corrupt, Invalid
from cowfs.formats import control, control_file, inode, journal, node, segment, superblock
from cowfs.formats.checksum import block_id, xxh3
from cowfs.host import Done, Point
from cowfs.results import Change, Handle
from cowfs.settle import bulk, protocol
from cowfs.workspace import CheckpointOrder
from cowfs_daemon import codec as worker_codec
from cowfs_daemon.api import bodies
from cowfs_daemon.api.routes_workspaces import decode_path

GOLDEN = Path(__file__).parents[1] / "golden"
FILE_NO, SALT = 16, 0x1234567890ABCDEF


@dataclass(frozen=True)
class Decoder:
    """``errors``: what it may raise."""

    samples: tuple[bytes, ...]
    decode: Callable[[bytes], Any]
    seal: Callable[[bytes], bytes] | None = None
    encode: Callable[[Any], bytes] | None = None
    json: bool = False
    errors: tuple[type[Exception], ...] = (Corrupt,)


def golden(folder: str, *names: str) -> tuple[bytes, ...]:
    """Stored samples, good ones and bad ones, whose file names begin with one of ``names`` (empty: all)."""
    paths = sorted((GOLDEN / folder).rglob("*.hex"))
    found = [bytes.fromhex(path.read_text()) for path in paths if not names or path.name.startswith(names)]
    assert found, names
    return tuple(found)


# ---- checksums made right again ----------------------------------------------------------------------------------


def seal_end(data: bytes) -> bytes:
    """XXH3 of everything before in the last 8 bytes."""
    return data[:-8] + xxh3(data[:-8]).to_bytes(8, "little") if len(data) >= 8 else data


def seal_journal(data: bytes) -> bytes:
    """A journal record: the checksum comes first, the length next."""
    if len(data) < 12:
        return data
    rest = len(data).to_bytes(4, "little") + data[12:]
    return xxhash.xxh3_64_intdigest(rest, FILE_NO).to_bytes(8, "little") + rest


def seal_journals(data: bytes) -> bytes:
    """Several records: only the first one's checksum."""
    length = journal.record_length(data[: journal.HEAD_BYTES])
    return seal_journal(data[:length]) + data[length:] if length and length <= len(data) else data


def seal_footer(data: bytes) -> bytes:
    """A segment footer."""
    if len(data) < segment.TRAILER_BYTES:
        return data
    return data[:-16] + xxh3(data[:-16]).to_bytes(8, "little") + segment.TRAILER_MAGIC


def seal_block(data: bytes) -> bytes:
    """A block record with its stored bytes: the length and both checksums."""
    if len(data) < segment.RECORD_BYTES:
        return data
    stored = data[segment.RECORD_BYTES :]
    head = bytearray(data[:56])
    head[12:16] = len(stored).to_bytes(4, "little")
    head[16:24] = xxh3(stored).to_bytes(8, "little")
    return bytes(head) + xxh3(bytes(head)).to_bytes(8, "little") + stored


def seal_control_header(data: bytes) -> bytes:
    """The file header of a control log."""
    size = control_file.FILE_HEADER_BYTES - 8
    return data[:size] + xxh3(data[:size]).to_bytes(8, "little") if len(data) >= size else data


def seal_entry(data: bytes) -> bytes:
    """An entry of a control log: length and checksum."""
    if len(data) < control_file.ENTRY_HEADER_BYTES:
        return data
    payload = data[control_file.ENTRY_HEADER_BYTES :]
    head = data[:4] + len(payload).to_bytes(4, "little") + data[8:24]
    digest = xxhash.xxh3_64_intdigest(head + payload, seed=SALT)
    return head + digest.to_bytes(8, "little") + payload


def seal_bulk(data: bytes) -> bytes:
    """A settler's file: length and BLAKE3."""
    if len(data) < 49:
        return data
    body = data[:9] + (len(data) - 49).to_bytes(8, "little") + data[17:-32]
    return body + blake3(body).digest()


# ---- what some decoders need around them -------------------------------------------------------------------------


def decode_block(data: bytes) -> bytes:
    """The raw bytes of a whole block record."""
    header = segment.decode_record_header(data[: segment.RECORD_BYTES])
    raw = block_codec.decode(header, data[segment.RECORD_BYTES :])
    block_codec.verify(header, raw)
    return raw


def decode_footer(data: bytes) -> list[segment.FooterEntry]:
    """A footer that begins at byte 252."""
    return segment.decode_footer(data, 252)


def decode_leaf(data: bytes) -> tuple[list[int], list[bytes]]:
    """A leaf with every value taken out."""
    leaf = node.decode_leaf(data)
    return list(leaf.keys), leaf.values()


def decode_dirent(data: bytes) -> inode.Dirent:
    """A directory entry with some cookie."""
    return inode.decode_dirent(512, data)


def decode_journal(data: bytes) -> journal.Envelope:
    """A record of file 16."""
    return journal.decode(data, FILE_NO)


def encode_journal(envelope: journal.Envelope) -> bytes:
    """The inverse."""
    return journal.encode(FILE_NO, *envelope)


def find_journal(data: bytes) -> list[journal.Envelope]:
    """Every record in a piece of file 16."""
    return list(journal.find_records(data, FILE_NO))


def decode_entry(data: bytes) -> bytes:
    """The payload of a control log entry at offset 0."""
    return control_file.decode_entry(SALT, data, 0)[1]


def body(kind: type[bodies.Body]) -> Callable[[bytes], bodies.Body]:
    """A request body as the API reads it."""

    def decode(data: bytes) -> bodies.Body:
        return kind.model_validate(json.loads(data))

    return decode


def path_of(data: bytes) -> bytes:
    """A path as the API reads it."""
    return decode_path(data.decode("latin-1"))


# ---- samples -----------------------------------------------------------------------------------------------------


def block_samples() -> tuple[bytes, ...]:
    """Whole block records, compressed and not."""
    raws = (b"", b"a block", bytes(5000), b"text that repeats itself. " * 40, bytes(range(256)) * 3)
    records = (block_codec.encode(raw, block_id(raw)) for raw in raws)
    return tuple(segment.encode_record_header(header) + stored for header, stored in records)


def journal_samples() -> tuple[bytes, ...]:
    """One record of every kind."""
    records = [
        cls(*range(1, len(ints) + 1), *[b"name%d" % at for at in range(tails)])
        for cls, ints, tails in journal.KINDS.values()
    ]
    return tuple(journal.encode(FILE_NO, seq, seq - 1, 10**18, 7, 9, each) for seq, each in enumerate(records, 1))


def settler_samples() -> tuple[bytes, ...]:
    """One message of every type and one of every job."""
    value: dict[type, object] = {int: 3, bool: True, str: "text", dict: {"files": 1}, list: [["path", 1, 2]]}
    found = [
        {"type": name, **{key: value[kind] for key, kind in fields.items()}} for name, fields in protocol.FIELDS.items()
    ]
    jobs = [
        {"type": "job", "kind": kind, "params": {key: value[what] for key, what in (protocol.COMMON | fields).items()}}
        for kind, fields in protocol.JOBS.items()
    ]
    return tuple(json.dumps(each).encode() for each in found + jobs)


def bulk_samples() -> dict[str, bytes]:
    """A payload of every kind."""
    id_ = block_id(b"x")
    batch = bulk.encode_batch([(id_, Location(1, 24, 7, 7, 0)), (id_, Location(1, 99, 9, 5, 1))], [id_, id_])
    contents = bulk.encode_contents([(5, inode.Content(1, 1, b"hello")), (6, inode.EMPTY)])
    report = bulk.encode_report(bulk.Report([(b"a/\xff", "vanished")], [b"b", b"c"]))
    return {"batch": batch, "ids": bulk.encode_ids([id_] * 3), "contents": contents, "report": report}


WORKER_VALUES = (
    (1, "checkpoint", ("wsp-1", CheckpointOrder("snap-1", "lay-3", "m\0", ("good",)))),
    (2, Done((control.Position("w", 1, 2, 3),), "snap", 2, (Handle(1, True, False),)), None),
    (3, (Change("renamed", b"a\xff", b"b"),), ("busy", "in use", "wait", 0)),
    (4, Point("wsp-1", ()), {"lay-1": (1, None, True)}),
)

BODIES: dict[type[bodies.Body], dict[str, object]] = {
    bodies.Create: {"name": "ws"},
    bodies.Import: {"name": "ws", "source": "/x", "exclude": ["*.pyc"]},
    bodies.Checkpoint: {"message": "m", "label": "good", "allow_empty": True, "creator": "me"},
    bodies.Restore: {"ref": "ws@good", "discard": True, "force": False},
    bodies.Fork: {"ref": "ws@good", "name": "try", "count": 8},
    bodies.Rename: {"name": "other"},
    bodies.Label: {"label": "good", "move": True},
    bodies.Mount: {"ref": "ws"},
    bodies.Stop: {"force": True},
    bodies.Check: {"deep": True},
}

_bulk = bulk_samples()
_journal = journal_samples()
_blocks = block_samples()
_not_json = (ValidationError, ValueError, RecursionError)

DECODERS: dict[str, Decoder] = {
    "superblock": Decoder(golden("blocks", "superblock"), superblock.decode_superblock, seal_end),
    "segment header": Decoder(
        golden("blocks", "segment_header"), segment.decode_header, seal_end, segment.encode_header
    ),
    "block record header": Decoder(
        golden("blocks", "record"), segment.decode_record_header, seal_end, segment.encode_record_header
    ),
    "block record": Decoder(_blocks, decode_block, seal_block),
    "segment footer": Decoder(
        golden("blocks", "segment_footer"),
        decode_footer,
        seal_footer,
        lambda entries: segment.encode_footer(entries, 252),
    ),
    "tree leaf": Decoder(golden("blocks", "leaf"), decode_leaf, None, lambda leaf: node.encode_leaf(*leaf)),
    "tree branch": Decoder(
        golden("blocks", "branch"),
        node.decode_branch,
        None,
        lambda found: node.encode_branch(found.base, found.shift, list(found.children)),
    ),
    "tree node": Decoder(golden("blocks", "leaf", "branch"), node.decode_node),
    "tree pointer": Decoder(golden("blocks", "pointer"), node.decode_pointer),
    "root": Decoder(golden("blocks", "root"), node.decode_root, None, node.encode_root),
    "inode": Decoder(golden("blocks", "inode"), inode.decode_inode, None, inode.encode_inode),
    "xattrs": Decoder(golden("blocks", "xattrs"), inode.decode_xattrs, None, inode.encode_xattrs),
    "links": Decoder(golden("blocks", "links"), inode.decode_links, None, inode.encode_links),
    "directory entry": Decoder(golden("blocks", "dirent"), decode_dirent),
    "file map entry": Decoder(
        golden("blocks", "file_block"), inode.decode_file_block, None, lambda found: inode.encode_file_block(*found)
    ),
    "journal header": Decoder(
        (
            journal.encode_header(journal.FileHeader(16, 1, "wsp-000001")),
            journal.encode_header(journal.FileHeader(1, 9, "")),
        ),
        journal.decode_header,
        lambda data: seal_end(data[:64]),
    ),
    "journal record": Decoder(_journal, decode_journal, seal_journal, encode_journal),
    "journal search": Decoder((b"".join(_journal[:3]), b"".join(_journal)), find_journal, seal_journals),
    "control header": Decoder(
        (control_file.encode_file_header(control_file.FileHeader(SALT, 5, 9)),),
        control_file.decode_file_header,
        seal_control_header,
    ),
    "control entry": Decoder(
        tuple(control_file.encode_entry(SALT, 7, 3, each) for each in golden("control")[:8]), decode_entry, seal_entry
    ),
    "control operations": Decoder(golden("control"), control.decode_operations, None, control.encode_operations),
    "settler message": Decoder(settler_samples(), protocol.decode_body, json=True),
    "settler file": Decoder(
        tuple(bulk.seal(1, each) for each in _bulk.values()), lambda data: bulk.unseal(1, data), seal_bulk
    ),
    "settler batch": Decoder((_bulk["batch"],), bulk.decode_batch, None, lambda found: bulk.encode_batch(*found)),
    "settler ids": Decoder((_bulk["ids"],), bulk.decode_ids, None, bulk.encode_ids),
    "settler contents": Decoder((_bulk["contents"],), bulk.decode_contents, None, bulk.encode_contents),
    "settler report": Decoder((_bulk["report"],), bulk.decode_report),
    "worker message": Decoder(
        tuple(worker_codec.encode(each) for each in WORKER_VALUES), worker_codec.decode, json=True
    ),
    "API path": Decoder((b"L2V0Yy9ob3N0bmFtZQ==", b"/w=="), path_of, errors=(Invalid,)),
    **{
        f"API body {kind.__name__}": Decoder((json.dumps(fields).encode(),), body(kind), json=True, errors=_not_json)
        for kind, fields in BODIES.items()
    },
}
