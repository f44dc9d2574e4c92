"""A slice of the suite; ``python -m tests.conformance`` plays everything."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.conformance.differences import KNOWN, TRANSPORTS, known_of
from tests.conformance.player import all_cases
from tests.conformance.suite import Report, native_directory, play, served
from tests.support.mounting import as_others
from tests.tidy.source import ROOT

ONE_IN = 12


def filesystem_of(path: Path) -> str:
    """Its type, of the longest mount point above."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    mounts = {line.split()[4]: line.partition(" - ")[2].split()[0] for line in lines}
    return next(mounts[str(above)] for above in (path, *path.parents) if str(above) in mounts)


@as_others
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_slice_is_as_on_ext4(tmp_path: Path, transport: str) -> None:
    if filesystem_of(tmp_path) != "ext4":
        pytest.skip("compares with ext4, on which the temporary directory does not lie")
    if transport == "pyfuse3":
        pytest.importorskip("pyfuse3", reason="pyfuse3 is not installed")
    with served(transport, tmp_path) as mounted, native_directory(tmp_path / "native") as native:
        report = play(native, mounted, ONE_IN, tmp_path, transport)
    assert report.unknown == []
    assert report.stale == []
    assert report.wide == []
    assert report.cases > 300
    assert report.checks > 10_000


@as_others
def test_what_differs_is_told(tmp_path: Path) -> None:
    """Two directories of the same filesystem agree, so that every known difference is stale."""
    with native_directory(tmp_path / "native") as native, native_directory(tmp_path / "second") as second:
        report: Report = play(native, second, 10**9, tmp_path)
    assert report.unknown == []
    assert sorted(report.stale) == sorted(each.name for each in known_of("kernel"))
    assert not report.passed


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_an_entry_that_explains_more_than_it_did_is_told(transport: str) -> None:
    report = Report(transport, known=Counter({each.name: each.most_on(transport) for each in known_of(transport)}))
    report.judge(set())
    assert report.passed
    report.known["seek-limit"] += 1
    report.judge(set())
    assert report.wide == ["seek-limit"]
    assert not report.passed


@as_others
def test_what_records_a_step_leaves_locks_alone(tmp_path: Path) -> None:
    """A process that closes any descriptor of a file loses its locks of it: cases without a lock would all agree."""
    command = [sys.executable, "-m", "tests.conformance.player", str(tmp_path), "1", "lock/process/write/write/rdwr"]
    _, steps = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    assert [(label, result) for label, result, _ in steps[2:]] == [
        ("over it", "EAGAIN"), ("beside it", "None"), ("unlock", None), ("over it", "None"),
    ]  # fmt: skip


def test_names_are_different() -> None:
    names = [case.name for case in all_cases()]
    assert len(names) == len(set(names)) > 10_000
    assert {each.witness for each in KNOWN} <= set(names)


@pytest.mark.parametrize(("document", "kernel"), [("posix.md", True), ("pyfuse3.md", False)])
def test_the_documents_list_the_same(document: str, kernel: bool) -> None:
    listed = re.findall(r"^\| `([a-z]+(?:-[a-z]+)+)` \|", (ROOT / "docs" / document).read_text(), re.MULTILINE)
    assert listed == [each.name for each in KNOWN if ("kernel" in each.transports) is kernel]
