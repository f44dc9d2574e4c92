"""``bench.shared`` tells what grows with each mount from what grows with each of its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench import aims, shared


def rows(files: int, a_mount: int, a_file: int) -> list[dict[str, Any]]:
    """Figures of one mount and of 100; the first takes 5 MB more than each further one."""
    each = (a_mount + a_file * files) / 1e6
    names = (*shared.GROWS, "page_cache")
    return [{"mounts": n, **{f"{name}_mb": 5 + n * each for name in names}} for n in (1, 100)]


def test_growth_is_taken_apart() -> None:
    found = shared.growth({500: rows(500, 3000, 20), 100: rows(100, 3000, 20)})
    assert found == {name: {"bytes_a_mount": 3000, "bytes_a_file_and_mount": 20} for name in shared.GROWS}


@pytest.mark.parametrize(("passthrough", "verdict"), [(100, "**missed**"), (0, "not measured")])
def test_the_aim_is_about_the_larger_tree_with_passthrough(passthrough: int, verdict: str) -> None:
    kinds = ("snapshots", "bound")
    small = {**dict.fromkeys(kinds, rows(9, 0, 0)), "passthrough": dict.fromkeys(kinds, 9)}
    large = {**dict.fromkeys(kinds, rows(100, 0, 1000)), "passthrough": dict.fromkeys(kinds, passthrough)}
    judged = [
        each for each in aims.judged({"shared": {"trees": {"9": small, "100": large}}}) if each.scenario == "shared"
    ]
    assert [each.verdict for each in judged] == [verdict] * 4
    assert judged[0].measured == ("2.94 times" if passthrough else "–")


def test_pages_of_a_file_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(100_000))
    with path.open("rb") as file:
        try:
            found = shared.cached(file.fileno())
        except OSError as error:
            pytest.skip(str(error))
        assert found >= 100_000
