"""cowfs.settle.protocol and cowfs.settle.bulk: what the two processes tell each other, read strictly."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cowfs.blocks.api import Location
from cowfs.errors import Corrupt
from cowfs.formats.inode import Content
from cowfs.settle import bulk
from cowfs.settle.child import geometry_of, strings
from cowfs.settle.pool import SegmentPool
from cowfs.settle.protocol import COMMON, FIELDS, FRAME_MAX, JOBS, Channel, checked, decode_body, encode_frame

VALUES: dict[type, Any] = {int: 7, str: "text\udcff", dict: {}, list: []}


def example(type_: str) -> dict[str, Any]:
    fields = {name: VALUES[kind] for name, kind in FIELDS[type_].items()}
    if type_ == "job":
        fields["kind"] = "import"
        fields["params"] = {name: VALUES[kind] for name, kind in (COMMON | JOBS["import"]).items()}
    return fields


@pytest.mark.parametrize("type_", FIELDS)
def test_messages_survive_the_pipe(type_: str) -> None:
    here, there = os.pipe()
    channel = Channel(here, there)
    channel.send(type_, **example(type_))
    assert channel.receive() == {"type": type_, **example(type_)}
    channel.close()


@pytest.mark.parametrize("type_", FIELDS)
def test_fields_are_exact(type_: str) -> None:
    good = {"type": type_, **example(type_)}
    assert checked(good) == good
    for name, kind in FIELDS[type_].items():
        with pytest.raises(Corrupt):
            checked({key: value for key, value in good.items() if key != name})
        with pytest.raises(Corrupt):
            checked({**good, name: True if kind is int else None})
    with pytest.raises(Corrupt):
        checked({**good, "more": 1})


@given(st.binary(max_size=200) | st.recursive(st.none() | st.text() | st.integers(), st.lists).map(json.dumps))
def test_anything_else_is_corrupt(body: bytes | str) -> None:
    with pytest.raises(Corrupt):
        decode_body(body if isinstance(body, bytes) else body.encode())


def test_a_job_must_be_known() -> None:
    with pytest.raises(Corrupt):
        checked({"type": "job", "kind": "run", "params": {}})
    with pytest.raises(Corrupt):
        checked({"type": "job", "kind": "mkroot", "params": {}})


@pytest.mark.parametrize("length", [0, FRAME_MAX + 1, 0xFFFFFFFF])
def test_impossible_lengths_are_refused(length: int) -> None:
    here, there = os.pipe()
    channel = Channel(here, there)
    os.write(there, struct.pack("<I", length))
    with pytest.raises(Corrupt):
        channel.receive()
    channel.close()


@pytest.mark.parametrize("cut", [0, 2, 4, 10])
def test_a_cut_frame_is_the_end(cut: int) -> None:
    here, there = os.pipe()
    os.write(there, encode_frame("ready", pid=1)[:cut])
    os.close(there)
    channel = Channel(here, -1)
    assert channel.receive() is None
    channel.close()


def test_a_frame_that_would_be_too_long_is_not_sent() -> None:
    with pytest.raises(ValueError):
        encode_frame("batch", path="x" * FRAME_MAX)


ids = st.binary(min_size=32, max_size=32)
u32 = st.integers(0, 2**32 - 1)
locations = st.builds(Location, st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), u32, u32, st.integers(0, 255))
contents = st.builds(Content, st.integers(0, 3), u32, st.binary(max_size=40))


@given(st.lists(st.tuples(ids, locations), max_size=4), st.lists(ids, max_size=4))
def test_batches_round_trip(records: list[tuple[bytes, Location]], relied_on: list[bytes]) -> None:
    assert bulk.decode_batch(bulk.encode_batch(records, relied_on)) == bulk.Batch(records, relied_on)


@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), contents), max_size=4))
def test_contents_round_trip(pairs: list[tuple[int, Content]]) -> None:
    assert bulk.decode_contents(bulk.encode_contents(pairs)) == pairs


@given(st.lists(st.tuples(st.binary(max_size=9), st.text(max_size=9)), max_size=4), st.lists(st.binary(max_size=9)))
def test_reports_round_trip(skipped: list[tuple[bytes, str]], changed: list[bytes]) -> None:
    assert bulk.decode_report(bulk.encode_report(bulk.Report(skipped, changed))) == bulk.Report(skipped, changed)


@given(st.binary(max_size=120))
def test_malformed_payloads_are_corrupt_or_mean_something(data: bytes) -> None:
    for decode in (bulk.decode_batch, bulk.decode_ids, bulk.decode_contents, bulk.decode_report):
        try:
            decode(data)
        except Corrupt:
            continue


def test_files_are_checked_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "settle-1-1"
    bulk.write_file(path, bulk.IDS, b"i" * 64)
    with pytest.raises(FileExistsError):
        bulk.write_file(path, bulk.IDS, b"")
    assert path.stat().st_mode & 0o777 == 0o600
    assert bulk.decode_ids(bulk.take_file(path, bulk.IDS)) == [b"i" * 32] * 2
    assert not path.exists()
    with pytest.raises(Corrupt):
        bulk.take_file(path, bulk.IDS)


def test_every_flipped_or_missing_byte_is_found() -> None:
    data = bulk.seal(bulk.IDS, b"i" * 32)
    assert bulk.unseal(bulk.IDS, data) == b"i" * 32
    with pytest.raises(Corrupt):
        bulk.unseal(bulk.BATCH, data)
    for at in range(len(data)):
        with pytest.raises(Corrupt):
            bulk.unseal(bulk.IDS, data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(Corrupt):
            bulk.unseal(bulk.IDS, data[:at])


def test_sweeping_takes_only_what_settlers_left(tmp_path: Path) -> None:
    for name in ("settle-1-1", "settle-9-gone", "other"):
        (tmp_path / name).touch()
    assert bulk.sweep(tmp_path) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_job_parameters_are_checked() -> None:
    assert geometry_of({"inline_limit": 512, "leaf_limit": 1, "key_bits": 54, "block_log2": 17}).leaf_limit == 1
    for bad in ({"nothing": 1}, {"inline_limit": "x"}):
        with pytest.raises(Corrupt):
            geometry_of(bad)
    assert strings(["a"]) == ["a"]
    with pytest.raises(Corrupt):
        strings(["a", 1])


def test_a_segment_has_one_writer(tmp_path: Path) -> None:
    pool = SegmentPool(tmp_path)
    first, second = pool.take()[0], pool.take()[0]
    assert {first, second} == {1, 2} == pool.in_use()
    pool.release(first)
    assert pool.in_use() == {second}  # its file was never made: the number is not used again
    assert pool.take()[0] == 3
