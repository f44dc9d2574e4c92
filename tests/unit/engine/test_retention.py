"""Retention: what goes, what stays, and that a dry run says exactly what happens."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cowfs.formats.control import SnapshotEntry
from cowfs.retention import NS, _by_rule
from tests.support.lab import Lab

DAY = 86_400 * NS


def checkpoint(lab: Lab, count: int = 1, automatic: bool = False) -> list[str]:
    """So many more snapshots of ``ws``, oldest first."""
    made = []
    for _ in range(count):
        if automatic:
            entry = lab.engine._branches.ready("ws")
            done = lab.engine.host.checkpoint(entry.id, lab.engine._automatic("automatic", True))
            lab.engine._branches.take(entry.id, done.operations)
            made.append(done.snapshot or "")
        else:
            made.append(lab.engine.checkpoint("ws", "", allow_empty=True).snapshot.id)
    return made


def ids(lab: Lab) -> list[str]:
    """Ids of the snapshots of ``ws`` that are left, oldest first."""
    return [each.id for each in lab.engine.log("ws")][::-1]


def prune(lab: Lab) -> dict[str, str]:
    """What goes, by id, with the reason; the dry run must say the same."""
    planned = lab.engine.retention.plan()
    before = ids(lab) if any(each.name == "ws" for each in lab.engine.list()) else []
    assert (ids(lab) if before else []) == before
    done = lab.engine.collect(False, lambda _: None, prune=True).pruned
    assert sorted(map(str, done)) == sorted(map(str, planned))
    assert list(lab.engine.fsck()) == []
    return {each.id: each.why for each in done}


def test_without_rules_only_automatic_ones_are_limited(lab: Lab) -> None:
    named, automatic = checkpoint(lab, 30), checkpoint(lab, 25, automatic=True)
    gone = prune(lab)
    assert list(gone) == automatic[:5][::-1]
    assert set(gone.values()) == {"automatic, and not among the newest 20"}
    assert ids(lab) == named + automatic[5:]
    assert prune(lab) == {}


def test_the_last_so_many(lab: Lab) -> None:
    made = checkpoint(lab, 10)
    lab.engine.set("ws", {"retention.last": 3})
    assert set(prune(lab).values()) == {"not among the newest 3"}
    assert ids(lab) == made[-3:]


def test_within_a_time(lab: Lab) -> None:
    old = checkpoint(lab, 5)
    lab.clock.now += 8 * DAY
    new = checkpoint(lab, 5)
    lab.engine.set("ws", {"retention.within": "7d"})
    assert set(prune(lab)) == set(old)
    lab.engine.set("ws", {"retention.last": 7})
    lab.clock.now += 8 * DAY
    assert prune(lab) == {}, "either rule keeps a snapshot"
    assert ids(lab) == new
    lab.engine.set("ws", {"retention.last": 2})
    assert set(prune(lab).values()) == {"older than 1w and not among the newest 2"}
    assert ids(lab) == new[-2:]


def test_what_is_protected(lab: Lab) -> None:
    made = checkpoint(lab, 9)
    lab.engine.set(made[0], {"label": "kept"})
    lab.engine.set(made[1], {"pin": "yes"})
    lab.engine.set(made[2], {"pin": "no"})
    lab.engine.fork(made[3], "fork")
    lab.files("ws").write("f", b"changed")
    undo = lab.engine.restore("ws", made[4]).undo
    assert undo is not None
    lab.engine.set("ws", {"retention.last": 0, "retention.automatic": 0})
    prune(lab)
    assert ids(lab) == [made[0], made[1], made[3], made[4], undo.id], "label, pin, heads of both, undo"
    lab.engine.undo("ws")
    assert lab.files("ws").read("f") == b"changed"


def test_what_forks_need_stays_unnamed(lab: Lab) -> None:
    lab.files("ws").write("f", b"first")
    (first,) = checkpoint(lab)
    lab.engine.settle()
    lab.engine.fork(first, "fork")
    lab.files("fork").write("g", b"own")
    lab.engine.checkpoint("fork", "moves its head")
    lab.files("ws").write("f", b"second")
    checkpoint(lab)
    lab.engine.set("ws", {"retention.last": 1})
    assert set(prune(lab)) == {first}
    lab.do("settle kill")
    lab.engine.collect(False, lambda _: None)
    assert lab.files("fork").read("f") == b"first"


def test_many_go_in_steps(lab: Lab) -> None:
    checkpoint(lab, 450)
    lab.engine.set("ws", {"retention.last": 1})
    assert len(prune(lab)) == 449


def test_a_snapshot_that_is_mounted_stays(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.files("ws").write("f", b"x" * 20_000)
    (mounted, *_) = checkpoint(lab, 3)
    lab.engine.settle()
    layer = lab.engine.catalog.layer(lab.engine.catalog.snapshot(mounted).layer)
    monkeypatch.setattr(lab.engine.host, "shown", lambda: {mounted: layer.root})
    lab.engine.set("ws", {"retention.last": 1})
    prune(lab)
    assert mounted in ids(lab)


def test_a_workspace_that_nobody_uses(lab: Lab) -> None:
    lab.engine.create("other")
    lab.engine.set("other", {"ttl": "2d"})
    lab.clock.now += DAY
    assert prune(lab) == {}
    lab.engine.open_workspace("other")
    prune(lab)
    lab.clock.now += int(1.5 * DAY)
    lab.do("kill")
    prune(lab)
    assert [each.name for each in lab.engine.list()] == ["other", "ws"], "opening it was a use"
    lab.engine.set("other", {"pin": True})
    lab.clock.now += 9 * DAY
    assert prune(lab) == {}, "it is pinned"
    lab.engine.set("other", {"pin": None})
    prune(lab)
    lab.clock.now += 3 * DAY
    assert list(prune(lab).values()) == ["not used for longer than 2d"]
    assert [each.name for each in lab.engine.list()] == ["ws"]


def test_a_mounted_workspace_is_used(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.engine.set("ws", {"ttl": "1h"})
    lab.engine.open_workspace("ws")
    monkeypatch.setattr(lab.engine.host, "serving", lambda workspace: True)
    prune(lab)
    lab.clock.now += 9 * DAY
    assert prune(lab) == {}
    monkeypatch.undo()
    assert prune(lab) == {}, "it was in use a moment ago"
    lab.clock.now += DAY
    assert len(prune(lab)) == 1


def test_another_workspace_of_the_same_name_stays(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look and the removal, somebody removes the old one and makes a new one."""
    lab.engine.create("other")
    lab.engine.set("other", {"ttl": "1h"})
    lab.clock.now += DAY
    remove = lab.engine.retention._remove_workspace

    def meanwhile(entry: Any) -> None:
        lab.engine.remove("other")
        lab.engine.create("other")
        remove(entry)

    monkeypatch.setattr(lab.engine.retention, "_remove_workspace", meanwhile)
    assert lab.engine.retention.apply() == []
    assert [each.name for each in lab.engine.list()] == ["other", "ws"]


def entry(number: int, age: int, automatic: bool) -> SnapshotEntry:
    """A snapshot of some age in days."""
    return SnapshotEntry(f"snap-{number}", "wsp-1", None, "lay-1", "", "", -age * DAY, automatic, number)


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.booleans()), max_size=40), st.none() | st.integers(0, 10),
    st.none() | st.integers(1, 30), st.integers(0, 10),
)  # fmt: skip
def test_rules(ages: list[tuple[int, bool]], last: Any, within: Any, automatic: int) -> None:
    newest = [entry(n, age, auto) for n, (age, auto) in enumerate(sorted(ages))]
    seconds = None if within is None else within * 86_400
    gone = [each for _, each in _by_rule(newest, last, seconds, automatic, 0)]
    kept = [each for each in newest if each not in gone]
    assert sum(each.automatic for each in kept) == min(automatic, sum(auto for _, auto in ages))
    named = [each for each in newest if not each.automatic]
    wanted = {each.id for each in named}
    if last is not None or within is not None:
        wanted = {each.id for each in named[: last or 0]}
        wanted |= {each.id for each in named if within is not None and -each.created_at <= within * DAY}
    assert {each.id for each in kept if not each.automatic} == wanted
