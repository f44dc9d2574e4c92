"""Field codecs of control log operations: value <-> bytes, one codec per field type (docs/format-control.md).

A ``get`` may raise ``struct.error``, ``IndexError`` or ``UnicodeDecodeError`` on short or malformed input besides
:class:`Corrupt`; :func:`cowfs.formats.control.decode_operations` turns each into :class:`Corrupt`.
A ``put`` raises :class:`Invalid` or ``struct.error`` when the field cannot hold the value.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, NamedTuple

from cowfs.errors import Corrupt, Invalid

VALUE_MAX = 8 * 1024 * 1024
"""Bytes in a value (a setting, a result) at most."""

TEXT_MAX = 0xFFFF
"""Bytes of UTF-8 in a message, name, label or creator at most."""

ID_MAX = 64
"""Characters in an id at most."""


class Span(NamedTuple):
    """Bytes ``start`` to ``end`` of journal file number ``file_no``."""

    file_no: int
    start: int
    end: int


_u8, _u16, _u32 = struct.Struct("<B"), struct.Struct("<H"), struct.Struct("<I")
_triple = struct.Struct("<QQQ")
_ID_CHARACTERS = b"abcdefghijklmnopqrstuvwxyz0123456789-"


class Codec(NamedTuple):
    """``put`` encodes a value; ``get(data, at)`` is (value, offset behind it)."""

    put: Callable[[Any], bytes]
    get: Callable[[bytes, int], tuple[Any, int]]


def _number(layout: struct.Struct) -> Codec:
    def get(data: bytes, at: int) -> tuple[int, int]:
        return layout.unpack_from(data, at)[0], at + layout.size

    return Codec(layout.pack, get)


def _put_bool(value: bool) -> bytes:
    return b"\1" if value else b"\0"


def _get_bool(data: bytes, at: int) -> tuple[bool, int]:
    flag = data[at]
    if flag > 1:
        raise Corrupt("control log: a flag is neither 0 nor 1")
    return flag == 1, at + 1


def _put_id(value: str) -> bytes:
    raw = value.encode("ascii", "replace")
    if not 0 < len(raw) <= ID_MAX or raw.translate(None, _ID_CHARACTERS):
        raise Invalid(f"malformed id {value!r}")
    return _u8.pack(len(raw)) + raw


def _get_id(data: bytes, at: int) -> tuple[str, int]:
    value, at = _get_optional_id(data, at)
    if value is None:
        raise Corrupt("control log: empty id")
    return value, at


def _put_optional_id(value: str | None) -> bytes:
    return b"\0" if value is None else _put_id(value)


def _get_optional_id(data: bytes, at: int) -> tuple[str | None, int]:
    size = data[at]
    if not size:
        return None, at + 1
    end = at + 1 + size
    raw = data[at + 1 : end]
    if size > ID_MAX or len(raw) != size or raw.translate(None, _ID_CHARACTERS):
        raise Corrupt("control log: malformed id")
    return raw.decode("ascii"), end


def _put_text(value: str) -> bytes:
    try:
        raw = value.encode()
    except UnicodeEncodeError:
        raise Invalid("text is not valid Unicode") from None
    if len(raw) > TEXT_MAX:
        raise Invalid(f"text of {len(raw)} bytes is too long (at most {TEXT_MAX})")
    return _u16.pack(len(raw)) + raw


def _get_text(data: bytes, at: int) -> tuple[str, int]:
    (size,) = _u16.unpack_from(data, at)
    at += 2
    raw = data[at : at + size]
    if len(raw) != size:
        raise Corrupt("control log: text runs past its operation")
    return raw.decode(), at + size  # UnicodeDecodeError becomes Corrupt in _decode_body


def _put_bytes(value: bytes) -> bytes:
    if len(value) > VALUE_MAX:
        raise Invalid(f"value of {len(value)} bytes is too long (at most {VALUE_MAX})")
    return _u32.pack(len(value)) + value


def _get_bytes(data: bytes, at: int) -> tuple[bytes, int]:
    (size,) = _u32.unpack_from(data, at)
    at += 4
    value = data[at : at + size]
    if len(value) != size:
        raise Corrupt("control log: value runs past its operation")
    return value, at + size


def _put_root(value: bytes) -> bytes:
    if len(value) != 32:
        raise Invalid("a root has 32 bytes")
    return value


def _get_root(data: bytes, at: int) -> tuple[bytes, int]:
    value = data[at : at + 32]
    if len(value) != 32:
        raise Corrupt("control log: root runs past its operation")
    return value, at + 32


def optional(codec: Codec) -> Codec:
    """A u8 flag, then the value if the flag is 1; None when it is 0."""

    def put(value: Any) -> bytes:
        return b"\0" if value is None else b"\1" + codec.put(value)

    def get(data: bytes, at: int) -> tuple[Any, int]:
        present, at = _get_bool(data, at)
        return codec.get(data, at) if present else (None, at)

    return Codec(put, get)


def many(codec: Codec) -> Codec:
    """A u32 count, then the values; a tuple."""

    def put(values: tuple[Any, ...]) -> bytes:
        return b"".join((_u32.pack(len(values)), *map(codec.put, values)))

    def get(data: bytes, at: int) -> tuple[tuple[Any, ...], int]:
        (count,) = _u32.unpack_from(data, at)
        at += 4
        values = []
        for _ in range(count):  # ends at the first element that runs past the operation
            value, at = codec.get(data, at)
            values.append(value)
        return tuple(values), at

    return Codec(put, get)


def _put_triple(value: tuple[int, int, int]) -> bytes:
    return _triple.pack(*value)


def _get_position(data: bytes, at: int) -> tuple[tuple[int, int, int], int]:
    file_no, offset, seq = _triple.unpack_from(data, at)
    return (file_no, offset, seq), at + _triple.size


def _put_span(value: tuple[int, int, int]) -> bytes:
    if value[1] > value[2]:
        raise Invalid("a span ends before it starts")
    return _triple.pack(*value)


def _get_span(data: bytes, at: int) -> tuple[Span, int]:
    span = Span(*_triple.unpack_from(data, at))
    if span.start > span.end:
        raise Corrupt("control log: a span ends before it starts")
    return span, at + _triple.size


U64, I64 = _number(struct.Struct("<Q")), _number(struct.Struct("<q"))
BOOL = Codec(_put_bool, _get_bool)
ID, OPTIONAL_ID = Codec(_put_id, _get_id), Codec(_put_optional_id, _get_optional_id)
TEXT, BYTES, ROOT = Codec(_put_text, _get_text), Codec(_put_bytes, _get_bytes), Codec(_put_root, _get_root)
POSITION = Codec(_put_triple, _get_position)
SPAN = Codec(_put_span, _get_span)
