"""What a store may show after a verb met a fault: all or nothing, nothing left behind, and the verb can be repeated."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from cowfs.remembered import Imported, Removed
from tests.support.interpose import Point
from tests.support.verbs import REQUEST, Case, VerbLab, World, leftovers

VERB_IDS, LATER_IDS = 500_000, 900_000
"""First ids of the run with the fault, and of what opens the store afterwards."""


class Undisturbed(NamedTuple):
    """A verb when nothing goes wrong: what the store shows before and after, its calls, its result."""

    before: World
    after: World
    points: list[Point]
    result: Any


def judge(lab: VerbLab, case: Case, calm: Undisturbed, source: Path, done: bool | None) -> None:
    """What a store shows after a fault is all or nothing, clean, and the verb asked for again ends as it should.

    ``done``: whether the verb was answered; None: nobody knows.
    """
    assert list(lab.engine.fsck(deep=True)) == []
    assert leftovers(lab) == []
    now = World.of(lab)
    assert now in worlds(case, calm), "the store shows neither what it did before nor what it should after"
    assert not done or now == calm.after, "what was answered is gone"
    if case.keyed:
        known = lab.engine.keys.find(REQUEST)
        assert (known is not None) == (now == calm.after), "the key is not where the verb is"
        if known is None:
            case.run(lab, source)
            assert World.of(lab).without_ids() == calm.after.without_ids()
        else:
            assert (known.workspace if isinstance(known, Imported) else known) == kept_of(calm.result)
    else:
        case.run(lab, source)
        assert World.of(lab) == calm.after
    assert leftovers(lab) == []


def worlds(case: Case, calm: Undisturbed) -> list[World]:
    """What a store may show after a fault."""
    halfway = [] if case.halfway is None else [case.halfway(calm.before, calm.after)]
    return [calm.before, calm.after, *halfway]


def kept_of(result: Any) -> Any:
    """What is kept of a verb's result."""
    if result is None:
        return Removed()
    return tuple(result) if isinstance(result, list) else result


def reopened(path: Path, case: Case, calm: Undisturbed, source: Path, done: bool | None, what: str) -> None:
    """Open the store again and judge it."""
    try:
        lab = VerbLab.at(path, LATER_IDS)
        try:
            judge(lab, case, calm, source, done)
        finally:
            lab.engine.close()
    except BaseException as error:
        error.add_note(what)
        raise
