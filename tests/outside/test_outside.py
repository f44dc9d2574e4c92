"""The quickest of the suites; ``python -m tests.outside`` runs all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.outside.places import Place, served
from tests.outside.running import Compared, Ended, Report, play, run
from tests.outside.suites import SUITES, Check
from tests.support.mounting import OBSTACLE

QUICK = ("postmark:mail", "fs_mark:fsync-each")


@pytest.fixture(scope="module")
def cowfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    if OBSTACLE:
        pytest.skip(OBSTACLE)
    with served("kernel", tmp_path_factory.mktemp("outside")) as place:
        yield place


@pytest.mark.parametrize("name", QUICK)
def test_what_passes_natively_passes_in_a_workspace(cowfs: Place, tmp_path: Path, name: str) -> None:
    report = Report("kernel")
    said = list(map(str, play([name], tmp_path, cowfs, report)))
    if report.missing:
        pytest.skip(report.missing[0])
    assert report.compared
    assert report.passed, "\n".join(said)


def test_a_defect_and_a_fault_are_told_from_what_fails_everywhere() -> None:
    good, bad, late = Ended(0, 1.0, ""), Ended(1, 1.0, "wrong"), Ended(None, 1.0, "")
    assert Report("kernel", [Compared("x", good, good), Compared("x", bad, bad), Compared("x", bad, good)]).passed
    assert not Report("kernel", [Compared("x", good, bad)]).passed
    assert not Report("kernel", [Compared("x", good, late)]).passed
    assert not Report("kernel", [Compared("x", good, good)], faults=["fsck"]).passed


def test_what_is_skipped_on_cowfs_alone_is_said(tmp_path: Path) -> None:
    check = Check("x:y", ("sh", "-c", "echo 'fine'; echo '[12] skipping it'; exit 3"))
    here = run(check, tmp_path / "d")
    assert (here.code, here.skips) == (3, ("skipping it",))
    assert "on cowfs alone: skipping it" in str(Compared("x:y", Ended(0, 1.0, ""), here))
    assert "on cowfs alone" not in str(Compared("x:y", here, here))


def test_what_does_not_end_is_ended(tmp_path: Path) -> None:
    assert run(Check("x:y", ("tail", "-f", "/dev/null"), limit_s=1), tmp_path / "d").code is None


def test_names_are_different_and_begin_with_their_suite() -> None:
    names = [(suite.name, check.name) for suite in SUITES for check in suite.checks("program")]
    assert len(names) == len(set(names))
    assert all(check.startswith(f"{suite}:") for suite, check in names)
    assert {each.partition(":")[0] for each in QUICK} <= {suite.name for suite in SUITES}
