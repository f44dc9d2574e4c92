"""Control log operations: both directions agree, and malformed bytes are Corrupt and nothing else."""

from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from cowfs.errors import Corrupt
from cowfs.formats import control
from cowfs.formats.control import Span, decode_operations, encode_operations
from cowfs.formats.control_file import decode_entry, decode_file_header, encode_entry

IDS = st.text("abcdefz0189-", min_size=1, max_size=64)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
U64 = st.integers(0, 2**64 - 1)
SPANS = st.lists(st.tuples(U64, U64, U64).map(lambda s: Span(s[0], *sorted(s[1:]))), max_size=3).map(tuple)
BY_TYPE: dict[str, st.SearchStrategy[Any]] = {
    "str": TEXTS,
    "int": U64,
    "bool": st.booleans(),
    "bytes": st.binary(max_size=40),
    "str | None": st.none() | IDS,
    "bytes | None": st.none() | st.binary(max_size=40),
    "tuple[Span, ...]": SPANS,
    "tuple[str, ...]": st.lists(TEXTS, max_size=3).map(tuple),
    "tuple[int, int, int] | None": st.none() | st.tuples(U64, U64, U64),
}
FREE_TEXT = {"name", "message", "creator", "label", "key"}
ROOTS = st.binary(min_size=32, max_size=32)


def field(cls: type[Any], name: str, annotation: str) -> st.SearchStrategy[Any]:
    """Values of one field, from its name and annotation."""
    if name in ("created_at", "expires_at"):
        return st.integers(-(2**63), 2**63 - 1)
    if name == "root":
        return ROOTS if annotation == "bytes" else st.none() | ROOTS
    if name == "request":
        return ROOTS
    if name == "layers":
        return st.lists(IDS, max_size=3).map(tuple)
    if annotation == "str" and not (name in FREE_TEXT and not (cls is control.Idempotency and name != "key")):
        return IDS
    return BY_TYPE[annotation]


def operations() -> st.SearchStrategy[Any]:
    """One operation or row of any kind."""
    kinds = []
    for cls in control.KINDS:
        fields = {name: field(cls, name, str(kind)) for name, kind in raw_annotations(cls).items()}
        kinds.append(st.builds(cls, **fields))
    return st.one_of(kinds)


def raw_annotations(cls: type[Any]) -> dict[str, str]:
    """Field names and annotations as they are written."""
    return {n: str(getattr(k, "__forward_arg__", k)) for n, k in cls.__annotations__.items()}


@given(st.lists(operations(), max_size=4))
def test_operations_come_back(ops: list[Any]) -> None:
    found = decode_operations(encode_operations(ops))
    assert [(type(op), op) for op in found] == [(type(op), op) for op in ops]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A good payload with a few bytes replaced, inserted, removed or cut."""
    data = bytearray(encode_operations(draw(st.lists(operations(), min_size=1, max_size=3))))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        data[at : at + draw(st.integers(0, 2))] = draw(st.binary(max_size=2))
    return bytes(data[: draw(st.integers(0, len(data)))]) if draw(st.booleans()) else bytes(data)


@given(damaged() | st.binary(max_size=60))
@example(b"\x0c\x04\0\0\0\xff\xff\xff\xff")
def test_malformed_bytes_are_corrupt_and_nothing_else(data: bytes) -> None:
    try:
        ops = decode_operations(data)
    except Corrupt:
        return
    assert encode_operations(ops) == data


@given(U64, st.binary(max_size=80), st.integers(0, 90))
def test_any_bytes_are_an_entry_or_corrupt(salt: int, data: bytes, at: int) -> None:
    for decode in (lambda: decode_entry(salt, data, at), lambda: decode_file_header(data)):
        try:
            decode()
        except Corrupt:
            continue
        raise AssertionError("random bytes passed for good ones")


@given(U64, st.integers(1, 2**64 - 1), st.data(), st.binary(max_size=50))
def test_a_changed_bit_of_an_entry_is_found(salt: int, sequence: int, data: st.DataObject, payload: bytes) -> None:
    durable = data.draw(st.integers(0, sequence - 1))
    entry = encode_entry(salt, sequence, durable, payload)
    header, found = decode_entry(salt, entry, 0)
    assert (header.sequence, header.durable, found) == (sequence, durable, payload)
    bit = data.draw(st.integers(0, 8 * len(entry) - 1))
    flipped = bytearray(entry)
    flipped[bit // 8] ^= 1 << bit % 8
    try:
        decode_entry(salt, bytes(flipped), 0)
    except Corrupt:
        return
    raise AssertionError("a flipped bit was not found")
