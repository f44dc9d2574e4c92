"""Scrubbing: all of it is read, damage is named, and what was cut off goes on."""

from pathlib import Path

import pytest

from cowfs.blocks.segments import segment_ids, segment_path
from cowfs.scrubbing import STATE_FILE
from tests.support.store import TestStore


@pytest.fixture
def store(tmp_path: Path) -> TestStore:
    store = TestStore(tmp_path / "store")
    store.engine.create("ws")
    return store


def seal(store: TestStore) -> None:
    """Have the next job take another segment."""
    for segment in segment_ids(store.engine.store.segments):
        store.engine.jobs.segments.refuse(segment)
        store.engine.jobs.segments._open.clear()


def test_everything_is_read_and_damage_is_named(store: TestStore) -> None:
    done = store.engine.scrubber.scrub(1 << 30, lambda _: True, lambda _: None)
    assert (done.complete, done.damage) == (True, ())
    assert done.blocks == store.engine.index.statistics().blocks
    path = segment_path(store.engine.store.segments, segment_ids(store.engine.store.segments)[0])
    data = bytearray(path.read_bytes())
    data[30] ^= 1
    path.write_bytes(data + path.read_bytes()[24:])
    again = store.engine.scrubber.scrub(1 << 30, lambda _: True, lambda _: None)
    assert [each.partition(": ")[0] for each in again.damage] == [f"segment {1:016x}"]
    assert store.engine.scrubber.state().damage == again.damage
    store.close()


def test_a_pass_that_was_cut_off_goes_on(store: TestStore) -> None:
    seal(store)
    store.engine.create("other")
    segments = segment_ids(store.engine.store.segments)
    assert len(segments) == 2
    seen: list[int] = []

    def until_one_is_done(_: float) -> bool:
        return not seen

    first = store.engine.scrubber.scrub(1 << 30, until_one_is_done, lambda each: seen.append(each["segment"]))
    assert not first.complete
    store.reopen()
    done = store.engine.scrubber.scrub(1 << 30, lambda _: True, lambda each: seen.append(each["segment"]))
    assert done.complete
    assert seen == segments
    assert store.engine.scrubber.state().passed_at == done.passed_at
    (store.path / STATE_FILE).write_bytes(b"nonsense")
    assert store.engine.scrubber.state().passed_at == 0
    store.close()


def test_the_rate_is_kept(store: TestStore) -> None:
    waited: list[float] = []
    done = store.engine.scrubber.scrub(1000, lambda seconds: waited.append(seconds) or True, lambda _: None)
    assert sum(waited) == pytest.approx(done.bytes / 1000)
    store.close()
