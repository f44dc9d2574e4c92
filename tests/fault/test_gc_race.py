"""Some seconds of :mod:`tests.fault.gc_race`."""

from pathlib import Path

from tests.fault.gc_race import Race


def test_blocks_in_use_outlive_collections_that_never_pause(tmp_path: Path) -> None:
    report = Race(tmp_path, 1).run(6.0)
    assert report["wrong"] == []
    assert report["collections"] >= 2
    assert report["swept"] > 0
    assert report["imports"] >= 2
