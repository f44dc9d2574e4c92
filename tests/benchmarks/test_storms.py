"""The storms of ``bench.requests`` send what they are named for, and a file's CPU is taken apart as said."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import storms
from tests.support.mounting import OBSTACLE, needs_root

SENT = {"create": "create", "getattr": "getattr", "write_4k": "write", "lookup": "lookup", "unlink": "unlink"}
FILES = 100


@pytest.mark.fuse
@pytest.mark.skipif(bool(OBSTACLE), reason=OBSTACLE)
@needs_root("it drops caches")
def test_a_storm_on_a_live_mount_sends_what_it_is_named_for(tmp_path: Path) -> None:
    found = storms.measure(tmp_path, FILES, 1)
    assert found.keys() == SENT.keys()
    for name, operation in SENT.items():
        sent = found[name]["requests_each"]
        assert sent[operation] == pytest.approx(1, abs=0.05), name
        about = {"getattr", "forget", "batch_forget"} if name in ("create", "unlink") else set()
        assert sum(n for other, n in sent.items() if other not in about | {operation}) < 0.1, name


def test_what_the_directory_was_asked_for_is_taken_off() -> None:
    sent = {"getattr": {"getattr": 1.0}, "create": {"create": 1.0, "getattr": 1.0}}
    found = storms.summed_up({"getattr": 8.0, "create": 30.0}, sent)
    assert found["getattr"] == {"cpu_us": 8, "own_us": 8, "requests_each": {"getattr": 1}}
    assert found["create"] == {"cpu_us": 15, "own_us": 22, "requests_each": {"create": 1, "getattr": 1}}
