"""docs/performance.md and ``python -m bench.render`` agree: a section changes by its own figures, the rest stays."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from bench import aims, render
from tests.tidy.source import ROOT, below

REPLAY = {"records": 100_200, "journal_bytes": 31_000_000, "replay_ms": 1.5, "replay_ms_per_100k": 3000.0,
          "record_us": 4.5, "journaling_us_each": 6.5}  # fmt: skip
AIM = "replay of 100,000 records"


def results(directory: Path, **scenarios: Any) -> Path:
    """A directory with a report of each scenario."""
    machine = {"cpus": 3, "cpu": "Abacus", "memory_bytes": 2**31, "kernel": "9.9", "python": "3.99", "load": [0.25]}
    for name, found in scenarios.items():
        report = {"scenario": name, "measured": "2033-01-02", "machine": machine, "results": found}
        (directory / f"{name}.json").write_text(json.dumps(report))
    return directory


@pytest.fixture
def document() -> str:
    return render.DOCUMENT.read_text()


def test_every_scenario_has_its_place_and_every_place_its_scenario(document: str) -> None:
    assert sorted(re.findall(r"<!-- (\w+): begin -->", document)) == sorted([*render.SECTIONS, render.AIMS])
    assert all(render.parts(document, name) for name in [*render.SECTIONS, render.AIMS])


def test_every_section_says_when_and_where_it_was_measured(document: str) -> None:
    between = {name: render.parts(document, name)[1] for name in render.SECTIONS}
    says = re.compile(r"Measured on \d{4}-\d\d-\d\d: .+ GiB, Linux .+, Python .+; load average .+|Not measured yet\.$")
    assert [name for name, text in between.items() if not says.match(text)] == []


def test_every_aim_is_in_the_table(document: str) -> None:
    listed = [line[2:].split(" | ")[0] for line in render.parts(document, render.AIMS)[1].splitlines()[2:]]
    assert listed == [one.text for one in aims.aims()]


def test_figures_replace_their_own_section_and_verdict_alone(document: str, tmp_path: Path) -> None:
    changed = render.rendered(results(tmp_path, replay=REPLAY), document)
    before, text, after = render.parts(changed, "replay")
    assert text.startswith("Measured on 2033-01-02: 3 CPUs (Abacus), 2 GiB, Linux 9.9, Python 3.99; load average 0.25")
    assert "3,000 ms per 100,000 records" in text
    rows = [line for line in before.splitlines() if line.startswith(f"| {AIM} ")]
    assert rows == [f"| {AIM} | 2000 ms | 3,000 ms | **missed** |"]
    old_before, _, old_after = render.parts(document, "replay")
    assert after == old_after
    others = [[line for line in part.splitlines() if AIM not in line] for part in (before, old_before)]
    assert others[0] == others[1]


def test_rendering_twice_changes_nothing_more(document: str, tmp_path: Path) -> None:
    once = render.rendered(results(tmp_path, replay=REPLAY), document)
    assert render.rendered(tmp_path, once) == once


def test_a_verdict_goes_when_new_figures_do_not_have_it(document: str, tmp_path: Path) -> None:
    workloads: dict[str, Any] = {"sizes": {}, "placements": {}, "skipped": {}, "failed": {}}
    old = render.parts(document, render.AIMS)[1]
    assert "| git add and commit, over the disk; one CPU | 1.6 times | – | not measured |" not in old
    new = render.aims_section({"workloads": workloads}, old)
    assert "| git add and commit, over the disk; one CPU | 1.6 times | – | not measured |" in new
    assert [line for line in new.splitlines() if AIM in line] == [line for line in old.splitlines() if AIM in line]


def test_nothing_to_render_is_said(document: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="make bench"):
        render.rendered(tmp_path, document)
    with pytest.raises(ValueError, match="no single place for replay"):
        render.rendered(results(tmp_path, replay=REPLAY), document.replace("<!-- replay: end -->", ""))


def test_every_scenario_is_explained() -> None:
    reported = {m for path in below("bench", ".py") for m in re.findall(r'common\.report\("(\w+)"', path.read_text())}
    explained = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "bench" / "README.md").read_text(), re.MULTILINE))
    assert reported - explained == set()
