"""Power is lost before each system call: what was synced is there, the rest is a prefix of what was done."""

from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.faults import Call, Moment, intercepted, new_lab, prove_usable, script, snapshot_tree, tree
from tests.support.lab import Lab
from tests.support.power import VARIANTS, Disk

GROUPS = 4


class Loss(NamedTuple):
    """A store as it was left: which call came next, after how many steps."""

    path: Path
    number: int
    call: str
    done: int


class History:
    """Per workspace id the trees after each step, and the last step that made it durable."""

    def __init__(self) -> None:
        self.live: list[dict[str, str]] = []
        self.durable: list[dict[str, int]] = []

    def add(self, lab: Lab, synced: bool, everything: bool) -> None:
        """The state after one more step. ``synced``: it made workspace a durable, ``everything``: all of them."""
        now = {each.id: tree(lab.workspace(each.name).view) for each in lab.engine.list()}
        before = self.durable[-1] if self.durable else {}
        at = len(self.live)
        changed = {ws for ws in now if self.live and self.live[-1].get(ws) != now[ws]}
        fresh = now.keys() - before.keys()
        self.durable.append(
            {ws: at if everything or ws in fresh or (synced and ws in changed) else before[ws] for ws in now}
        )
        self.live.append(now)


def lose(folder: Path, variant: str) -> tuple[list[Loss], History]:
    """Run the script once; a copy of the disk from before each of its calls."""
    lab = new_lab(folder / "store")
    disk = Disk(lab.path)
    losses: list[Loss] = []
    history = History()
    history.add(lab, False, True)

    def action(number: int, name: str, real: Call, args: tuple[object, ...], named: dict[str, object]) -> object:
        if recording:
            loss = Loss(folder / str(number), number, name, len(history.live) - 1)
            disk.lose_power(loss.path, variant)
            losses.append(loss)
        return disk.done(name, real, args, named)

    recording = True
    with intercepted(action):
        for step in script():
            step.run(lab)
            recording = False
            history.add(lab, step.kind == "verb", step.kind == "sync")
            recording = True
    lab.close()
    return losses, history


@pytest.mark.parametrize("variant", VARIANTS)
def test_power_is_lost_before_every_call(fast_path: Path, undisturbed: list[Moment], variant: str) -> None:
    losses, history = lose(fast_path, variant)
    assert len(losses) > 100
    for loss in losses:
        lab = Lab.existing(loss.path)
        try:
            look(lab, loss, history, undisturbed)
            if loss.number % 7 == 0:
                prove_usable(lab)
            else:
                lab.check()
        except BaseException as error:
            error.add_note(f"before call {loss.number} ({loss.call}), after {loss.done} steps; {loss.path}")
            raise
        finally:
            lab.engine.close()


def look(lab: Lab, loss: Loss, history: History, undisturbed: list[Moment]) -> None:
    """Compare a store after a power loss with what had been answered by then."""
    done = loss.done
    later = history.live[min(done + 1, len(history.live) - 1)]
    live = {each.id: tree(lab.workspace(each.name).view) for each in lab.engine.list()}
    assert live.keys() in (history.live[done].keys(), later.keys()), "a workspace is missing, or one too many"
    for workspace, seen in live.items():
        since = history.durable[done].get(workspace, done)
        allowed = [states[workspace] for states in [*history.live[since : done + 1], later] if workspace in states]
        assert seen in allowed, f"{workspace} is no state since step {since}"
    before, after = undisturbed[done], undisturbed[min(done + 1, len(undisturbed) - 1)]
    snapshots = {each: snapshot_tree(lab, each) for each in lab.engine.catalog.snapshots}
    known = {**before.snapshots, **after.snapshots}
    assert all(known[snapshot] == seen for snapshot, seen in snapshots.items())
    assert before.snapshots.keys() & after.snapshots.keys() <= snapshots.keys(), "a snapshot is gone"
