"""Operations and framing: what decodes, what is refused."""

import pytest

from cowfs.errors import Corrupt, Invalid
from cowfs.formats.control import (
    Froze,
    Idempotency,
    LayerEntry,
    Renamed,
    Set,
    SnapshotMade,
    Span,
    decode_operations,
    encode_operations,
)
from cowfs.formats.control_file import (
    PAYLOAD_MAX,
    FileHeader,
    decode_entry,
    decode_file_header,
    encode_entry,
    encode_file_header,
)

GOOD = encode_operations([Renamed("wsp-1", "name")])


@pytest.mark.parametrize(
    "payload",
    [
        b"\x00" + GOOD[1:],  # unknown kinds
        b"\xff" + GOOD[1:],
        GOOD[:-1],  # cut short
        GOOD[:4],
        GOOD + b"\0",  # left over
        GOOD[:1] + b"\xff\xff\xff\xff" + GOOD[5:],
        GOOD[:1] + bytes([len(GOOD) - 6]) + GOOD[2:-1],  # the text runs past its operation
        GOOD.replace(b"wsp-1", b"WSP-1"),
        GOOD.replace(b"\x05wsp-1", b"\x00wsp-1"),
        GOOD.replace(b"name", b"na\xffe"),
        GOOD.replace(b"name", b"\xed\xa0\x80e"),  # an encoded surrogate
        encode_operations([Set("wsp-1", "k", b"v")]).replace(b"\x01\x01\0\0\0v", b"\x02\x01\0\0\0v"),
        encode_operations([Froze("lay-1", "wsp-1", None, (Span(1, 5, 9),), 1, "lay-2")]).replace(b"\x05", b"\x0a", 3),
        b"\x0c\x04\0\0\0\xff\xff\xff\xff",  # four thousand million ids in no bytes
    ],
)
def test_malformed_operations(payload: bytes) -> None:
    with pytest.raises(Corrupt):
        decode_operations(payload)


@pytest.mark.parametrize(
    "operation",
    [
        Renamed("", "x"),
        Renamed("A", "x"),
        Renamed("é", "x"),
        Renamed("w" * 65, "x"),
        Renamed("w", "x" * 65536),
        Renamed("w", "\ud800"),
        Idempotency("k", 1 << 63, bytes(32), b""),
        Froze("l", "w", None, (Span(1, 2, 1),), 1, "m"),
        Froze("l", "w", None, (Span(-1, 0, 1),), 1, "m"),
        LayerEntry("l", None, None, (), 1, b"short", 0, 0),
        SnapshotMade("s", "w", None, "l", "", ("x" * 65536,), "", 1, False),
    ],
)
def test_what_no_field_can_hold(operation: Renamed) -> None:
    with pytest.raises(Invalid):
        encode_operations([operation])


def test_file_header() -> None:
    for header in (FileHeader(5, 1, 0), FileHeader(0, 7, 9), FileHeader(2**64 - 1, 1, 1)):
        data = encode_file_header(header)
        assert decode_file_header(data + b"more") == header
        for at in range(len(data)):
            with pytest.raises(Corrupt):
                decode_file_header(data[:at])
            with pytest.raises(Corrupt):
                decode_file_header(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
    for wrong in (FileHeader(5, 0, 0), FileHeader(5, 7, 5)):
        with pytest.raises(Corrupt, match="damaged"):
            decode_file_header(encode_file_header(wrong))


def test_a_newer_version_says_so() -> None:
    data = bytearray(encode_file_header(FileHeader(5, 1, 0)))
    data[8] = 9
    with pytest.raises(Corrupt, match="newer") as caught:
        decode_file_header(bytes(data))
    assert "upgrade" in caught.value.hint


def test_entry() -> None:
    data = b"??" + encode_entry(5, 8, 3, b"payload")
    header, payload = decode_entry(5, data, 2)
    assert (header, payload) == ((7, 8, 3), b"payload")
    for salt, raw, at in ((6, data, 2), (5, data[:-1], 2), (5, data, 1), (5, data, len(data)), (5, data[:20], 2)):
        with pytest.raises(Corrupt):
            decode_entry(salt, raw, at)
    with pytest.raises(Corrupt):
        decode_entry(5, encode_entry(5, 8, 8, b""), 0)
    with pytest.raises(Invalid, match="too large"):
        encode_entry(5, 1, 0, bytes(PAYLOAD_MAX + 1))
