"""Stored samples of the control log: read for ever, and written equally; and its format document is exact.

``control/NAME.hex`` must decode to the value named here and be what that value encodes to;
``control/should_fail/DECODER-WHY.hex`` must be refused with Corrupt.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cowfs.errors import Corrupt
from cowfs.formats import control as c
from cowfs.formats.control_file import (
    ENTRY_HEADER_BYTES,
    FILE_HEADER_BYTES,
    FileHeader,
    decode_entry,
    decode_file_header,
    encode_entry,
    encode_file_header,
)

HERE = Path(__file__).parent / "control"
DOCUMENT = (Path(__file__).parents[2] / "docs" / "format-control.md").read_text()
SNAP, LAY, WSP = "snap-0123456789abcdef0123", "lay-0123456789abcdef0123", "wsp-0123456789abcdef0123"
ROOT = bytes(range(32))
SPANS = (c.Span(1, 64, 4096), c.Span(2, 64, 64))

OPERATIONS: dict[str, c.Operation | c.Row] = {
    "workspace_created": c.WorkspaceCreated(WSP, "ws-1", 10**18, "lay-2", LAY, SNAP, "wsp-1", SNAP, 1 << 40),
    "workspace_created_plain": c.WorkspaceCreated(WSP, "ws-1", -1, "lay-2", LAY, None, None, None, 2),
    "froze": c.Froze(LAY, WSP, "lay-1", SPANS, 77, "lay-2"),
    "froze_empty": c.Froze(LAY, WSP, None, (), 77, "lay-2"),
    "layer_imported": c.LayerImported(LAY, None, ROOT, 77, 1 << 33, 76),
    "snapshot_made": c.SnapshotMade(SNAP, WSP, "snap-1", LAY, "vor der Änderung", ("good", "v1"), "me", 5, True),
    "restored": c.Restored(WSP, SNAP, "lay-2", LAY, 77),
    "position": c.Position(WSP, 3, 1 << 26, 200_000),
    "settled": c.Settled(LAY, ROOT, 1 << 33, 76),
    "labelled": c.Labelled(WSP, "good", SNAP),
    "labelled_none": c.Labelled(WSP, "good", None),
    "renamed": c.Renamed(WSP, "new"),
    "workspace_removed": c.WorkspaceRemoved(WSP),
    "snapshot_removed": c.SnapshotRemoved(SNAP),
    "layers_dropped": c.LayersDropped((LAY, "lay-1")),
    "set": c.Set(WSP, "quota", b"\x00\x01"),
    "set_none": c.Set("store", "quota", None),
    "idempotency": c.Idempotency("key", 10**18, ROOT, b"{}"),
    "workspace_entry": c.WorkspaceEntry(WSP, "ws-1", 5, "lay-2", LAY, SNAP, "wsp-1", SNAP, 9, 77, (3, 64, 12)),
    "layer_entry_frozen": c.LayerEntry(LAY, "lay-1", WSP, SPANS, 77, None, 0, 0),
    "layer_entry_settled": c.LayerEntry(LAY, None, None, (), 77, ROOT, 1 << 33, 76),
    "snapshot_entry": c.SnapshotEntry(SNAP, WSP, None, LAY, "message", "me", 5, False, 9),
    "counters": c.Counters(9),
}


def sample(path: Path) -> bytes:
    """The bytes of a sample file: hexadecimal digits, white space ignored."""
    return bytes.fromhex(path.read_text())


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation(name: str) -> None:
    operation, data = OPERATIONS[name], sample(HERE / f"{name}.hex")
    (decoded,) = c.decode_operations(data)
    assert (type(decoded), decoded) == (type(operation), operation)
    assert c.encode_operations([operation]) == data


def test_file() -> None:
    data = sample(HERE / "log.hex")
    header = FileHeader(0x1122334455667788, 5, 5)
    payloads = [c.encode_operations([OPERATIONS["counters"]]), c.encode_operations([OPERATIONS["renamed"]])]
    assert decode_file_header(data) == header
    first = decode_entry(header.salt, data, FILE_HEADER_BYTES)
    assert first == ((len(payloads[0]), 5, 4), payloads[0])
    second = decode_entry(header.salt, data, FILE_HEADER_BYTES + ENTRY_HEADER_BYTES + len(payloads[0]))
    assert second == ((len(payloads[1]), 6, 5), payloads[1])
    entries = [encode_entry(header.salt, number, number - 1, payload) for number, payload in enumerate(payloads, 5)]
    assert encode_file_header(header) + b"".join(entries) == data


DECODERS: dict[str, Callable[[bytes], Any]] = {
    "operations": c.decode_operations,
    "header": decode_file_header,
    "entry": lambda data: decode_entry(0, data, 0),
}
REFUSED = sorted((HERE / "should_fail").glob("*.hex"))


@pytest.mark.parametrize("path", REFUSED, ids=lambda path: path.stem)
def test_refused(path: Path) -> None:
    with pytest.raises(Corrupt):
        DECODERS[path.stem.partition("-")[0]](sample(path))


def test_no_sample_is_left_out() -> None:
    assert {path.stem for path in HERE.glob("*.hex")} == {*OPERATIONS, "log"}
    assert {type(operation) for operation in OPERATIONS.values()} == set(c.KINDS)
    assert {path.stem.partition("-")[0] for path in REFUSED} == set(DECODERS)


def test_the_document_names_every_operation_and_field() -> None:
    rows = re.findall(r"^\| (\d+) \| ([A-Z]\w+) \| (.+) \|$", DOCUMENT, re.MULTILINE)
    said = {(int(kind), name): re.findall(r"`(\w+)`", fields) for kind, name, fields in rows}
    assert said == {(kind, cls.__name__): list(cls._fields) for cls, kind in c.KINDS.items()}


@pytest.mark.parametrize(
    ("heading", "size"), [("File header", FILE_HEADER_BYTES), ("Entry header", ENTRY_HEADER_BYTES)]
)
def test_the_documented_layout_adds_up(heading: str, size: int) -> None:
    section = DOCUMENT.split(f"### {heading} ({size} bytes)")[1].split("\n#")[0]
    at = 0
    for offset, length in re.findall(r"^\| (\d+) \| (\d+) \|", section, re.MULTILINE):
        assert int(offset) == at
        at += int(length)
    assert at == size
