"""Laws of the journal's encoders: round trips, and decoders that raise Corrupt on malformed bytes and nothing else."""

import struct
from typing import Any

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from cowfs.errors import Corrupt
from cowfs.formats import journal as j
from tests.golden.test_journal import FILE_NO, HEADER, KINDS, RECORDS, encoded, envelope

RANGES = {"B": (0, 255), "I": (0, 2**32 - 1), "Q": (0, 2**64 - 1), "q": (-(2**63), 2**63 - 1)}
U64 = st.integers(0, 2**64 - 1)
SAMPLES = [encoded(envelope(name)) for name in RECORDS]


def records(kind: type[Any]) -> st.SearchStrategy[Any]:
    """Any record of a kind: integers over their whole range, any strings."""
    ((_, ints, tails),) = [row for row in j.KINDS.values() if row[0] is kind]
    fields: list[st.SearchStrategy[Any]] = [st.integers(*RANGES[code]) for code in ints]
    return st.tuples(*fields, *[st.binary(max_size=50)] * tails).map(lambda values: kind(*values))


ANY = st.one_of([records(kind) for kind in KINDS])


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@settings(max_examples=15)
@given(data=st.data())
def test_round_trip(kind: type[Any], data: st.DataObject) -> None:
    record = data.draw(records(kind))
    env = j.Envelope(data.draw(U64), data.draw(U64), data.draw(st.integers(*RANGES["q"])), 1, 2, record)
    file_no = data.draw(U64)
    assert j.decode(encoded(env, file_no), file_no) == env


@settings(max_examples=50)
@given(st.integers(0, 2**64 - 1), U64, st.from_regex(r"wsp-[0-9a-f]{0,28}", fullmatch=True))
def test_header_round_trip(file_no: int, first: int, workspace: str) -> None:
    header = j.FileHeader(file_no, first, workspace)
    assert j.decode_header(j.encode_header(header)) == header


def test_every_bit_of_a_record_counts() -> None:
    for stored in SAMPLES:
        for bit in range(0, 8 * len(stored), 7):
            broken = bytearray(stored)
            broken[bit // 8] ^= 1 << bit % 8
            with pytest.raises(Corrupt):
                j.decode(bytes(broken), FILE_NO)


def test_every_truncation_is_refused() -> None:
    for stored in SAMPLES:
        for length in range(len(stored)):
            with pytest.raises(Corrupt):
                j.decode(stored[:length], FILE_NO)


def test_every_bit_of_the_header_counts() -> None:
    stored = j.encode_header(HEADER)
    for bit in range(8 * len(stored)):
        broken = bytearray(stored)
        broken[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Corrupt):
            j.decode_header(bytes(broken))


@settings(max_examples=200)
@given(st.binary(max_size=300), st.sampled_from([0, *SAMPLES]))
def test_anything_else_is_corrupt(data: bytes, start: Any) -> None:
    for decode in (j.decode_header, lambda raw: j.decode(raw, FILE_NO)):
        with pytest.raises(Corrupt):
            decode((start or b"") + b"\0" + data)


@settings(max_examples=300)
@given(st.sampled_from(sorted(j.KINDS)), st.binary(max_size=200))
def test_a_right_checksum_over_a_wrong_body(kind: int, body: bytes) -> None:
    """Only what encodes to the same bytes is taken."""
    rest = struct.pack("<IHHQQqQQ", j.HEAD_BYTES + len(body), kind, 0, 1, 0, 2, 3, 4) + body
    data = xxhash.xxh3_64_intdigest(rest, FILE_NO).to_bytes(8, "little") + rest
    try:
        env = j.decode(data, FILE_NO)
    except Corrupt:
        return
    assert encoded(env) == data


@settings(max_examples=60)
@given(st.lists(st.one_of(ANY, st.binary(max_size=80)), max_size=12), st.binary(max_size=70))
def test_records_are_found_among_anything(parts: list[Any], tail: bytes) -> None:
    stored = [part if isinstance(part, bytes) else encoded(j.Envelope(1, 2, 3, 4, 5, part)) for part in parts]
    found = [env.record for env in j.find_records(b"".join(stored) + tail, FILE_NO)]
    assert found == [part for part in parts if not isinstance(part, bytes)]
    assert list(j.find_records(b"".join(stored) + tail, FILE_NO + 1)) == []


def test_a_record_has_a_largest_size() -> None:
    largest = j.Write(1, 0, 0, bytes(j.WRITE_DATA_MAX))
    stored = encoded(j.Envelope(1, 0, 0, 0, 0, largest))
    assert len(stored) == j.RECORD_MAX
    assert j.decode(stored, FILE_NO).record == largest
    with pytest.raises(ValueError, match="record of"):
        encoded(j.Envelope(1, 0, 0, 0, 0, largest._replace(data=bytes(j.WRITE_DATA_MAX + 1))))
    with pytest.raises(ValueError, match="more than 32"):
        j.encode_header(HEADER._replace(workspace="w" * 33))
