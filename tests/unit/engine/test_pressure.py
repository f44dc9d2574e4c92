"""Back-pressure: what a backlog costs a workspace's writers, and whom it leaves alone."""

from __future__ import annotations

import pytest

from cowfs.errors import Corrupt
from cowfs.host import KNOWN_LEAST, KNOWN_TOTAL
from cowfs.pressure import PAUSE_FIRST_S, PAUSE_MAX_S, PIECE_BYTES, STALLED_NS, Bounds, Lag, Pressed, backlog
from cowfs.settling import HURRY_LAYERS
from cowfs.workspace import Workspace
from tests.support.lab import Lab


def workspace(lab: Lab, name: str = "ws") -> Workspace:
    return lab.engine.host.workspace(lab.engine.open_workspace(name))


def write(lab: Lab, files: int, name: str = "ws", size: int = 1) -> None:
    view = lab.files(name)
    have = len(list(view.view.readdir(1, 0)))
    for number in range(files):
        view.write(f"f{have + number}", bytes(size))


def bounded(lab: Lab, **bounds: int) -> Lag:
    lag = lab.engine.host.env.lag
    lag.bounds = Bounds(**bounds)
    return lag


def pressed(lab: Lab, name: str = "ws") -> Pressed | None:
    return workspace(lab, name).pressed()


def test_nothing_is_asked_below_half_a_bound_and_more_and_more_above(lab: Lab) -> None:
    bounded(lab, records=200)
    pauses = []
    while backlog(workspace(lab).view.state, workspace(lab).journal).records < 200:
        found = pressed(lab)
        pauses.append(0.0 if found is None else found.request_s)
        write(lab, 1)
    assert pauses[:49] == [0.0] * 49
    slow = [pause for pause in pauses if pause]
    assert slow == sorted(slow)
    assert slow[0] < 2 * PAUSE_FIRST_S
    assert slow[-1] > 500 * PAUSE_FIRST_S
    lab.engine.checkpoint("ws", "")
    lab.engine.settle()
    assert pressed(lab) is None


def test_the_pause_has_a_limit(lab: Lab) -> None:
    bounded(lab, records=10)
    write(lab, 50)
    found = pressed(lab)
    assert found is not None
    assert found.request_s == PAUSE_MAX_S
    assert found.refuse


def test_many_bytes_cost_by_the_byte(lab: Lab) -> None:
    bounded(lab, size_bytes=1_000_000)
    write(lab, 1, size=900_000)
    found = pressed(lab)
    assert found is not None
    assert found.request_s == 0
    assert found.byte_s * PIECE_BYTES > 100 * PAUSE_FIRST_S


def test_many_small_layers_cost_too(lab: Lab) -> None:
    bounded(lab, layers=10)
    for number in range(8):
        assert (pressed(lab) is None) == (number < 5)
        write(lab, 1)
        lab.engine.checkpoint("ws", "")


def test_a_fork_shares_the_backlog_and_a_stranger_does_not(lab: Lab) -> None:
    lab.engine.create("other")
    bounded(lab, records=100, process=100)
    write(lab, 80)
    lab.engine.fork("ws", "child")
    assert pressed(lab, "child") is not None
    assert pressed(lab, "other") is None


def test_the_process_as_a_whole_slows_those_down_that_hold_much(lab: Lab) -> None:
    for name in ("a", "b", "c", "idle"):
        lab.engine.create(name)
    bounded(lab, records=200, process=1)
    for name in ("a", "b", "c"):
        write(lab, 40, name)
        lab.engine.checkpoint(name, "")
    write(lab, 1, "idle")
    lab.engine.host.env.lag.progressed(lab.engine.host.env.clock())  # the clock goes on by a second at each look
    assert [pressed(lab, name) is not None for name in ("a", "b", "c", "idle")] == [True, True, True, False]
    lab.engine.settle()
    assert lab.engine.host.env.lag.waiting() == 0
    assert lab.engine.host.env.lag.records == 0


def test_nobody_waits_for_a_layer_that_cannot_be_settled(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    bounded(lab, records=100)
    write(lab, 70)
    lab.engine.checkpoint("ws", "")
    assert pressed(lab) is not None

    def damaged(*_: object) -> None:
        raise Corrupt("a damaged block")

    with monkeypatch.context() as patch:
        patch.setattr(lab.engine.settler, "settle", damaged)
        with pytest.raises(Corrupt):
            lab.engine.settle_next()
        with pytest.raises(Corrupt):  # the next turn tells the host
            lab.engine.settle_next()
    assert pressed(lab) is None
    write(lab, 100)
    found = pressed(lab)
    assert found == Pressed(0.0, 0.0, True), "neither unbounded memory nor waiting"
    lab.engine.settle()
    lab.engine.checkpoint("ws", "")
    lab.engine.settle()
    assert pressed(lab) is None


def test_settling_hurries_while_several_layers_wait(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[bool] = []
    monkeypatch.setattr(lab.engine.jobs.settler, "hurry", told.append)
    for number in range(HURRY_LAYERS):
        write(lab, 1)
        lab.engine.checkpoint("ws", "")
        told.clear()
        lab.engine.freeze_large()
        assert told == [number + 1 == HURRY_LAYERS]
    assert lab.engine.settle_next()
    told.clear()
    lab.engine.freeze_large()
    assert told == [False]


def test_nobody_waits_when_settling_stands_still(lab: Lab) -> None:
    lag = bounded(lab, records=100)
    write(lab, 70)
    lab.engine.checkpoint("ws", "")
    served = workspace(lab)
    now = lab.engine.host.env.clock()
    assert lag.pressed(served.view.state, served.journal, now) is not None
    assert lag.pressed(served.view.state, served.journal, now + STALLED_NS + 10**12) is None


def test_a_layer_that_goes_unsettled_is_not_counted_any_more(lab: Lab) -> None:
    write(lab, 5)
    lab.engine.checkpoint("ws", "")
    assert lab.engine.host.env.lag.waiting() == 1
    lab.engine.remove("ws", force=True)
    assert lab.engine.host.env.lag.waiting() == 0


def test_what_was_made_does_not_stay_known_for_ever(lab: Lab) -> None:
    workspace(lab).know(100)
    for _ in range(5):
        write(lab, 90)
        lab.engine.checkpoint("ws", "")
        assert workspace(lab).view.statistics().known <= 300


def test_many_workspaces_share_what_is_known(lab: Lab) -> None:
    lab.engine.checkpoint("ws", "")
    lab.engine.fork("ws", "fork", 9)
    for number in range(1, 10):
        workspace(lab, f"fork-{number}")
    limits = {each.known_limit for each in lab.engine.host.workspaces.values()}
    assert limits == {KNOWN_TOTAL // 10}
    assert KNOWN_LEAST < KNOWN_TOTAL // 10
    before = workspace(lab, "fork-1").view.state
    lab.engine.checkpoint("fork-1", "", allow_empty=True)
    lab.engine.restore("fork-1", "@latest")
    assert workspace(lab, "fork-1").view.state is not before
    assert workspace(lab, "fork-1").view.state.known_limit == KNOWN_TOTAL // 10
    for number in range(1, 10):
        lab.engine.remove(f"fork-{number}", force=True)
    assert workspace(lab).known_limit == min(KNOWN_TOTAL, 200_000)


def test_a_removed_workspace_leaves_no_lock_behind(lab: Lab) -> None:
    before = len(lab.engine._verbs)
    for _ in range(3):
        lab.engine.create("short")
        lab.engine.checkpoint("short", "")
        lab.engine.remove("short", force=True)
    assert len(lab.engine._verbs) == before
