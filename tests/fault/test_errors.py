"""Each system call of the owner fails once: what was answered stays, what was refused did not happen."""

import errno
import os
from contextlib import suppress
from pathlib import Path

import pytest

from cowfs.errors import CowfsError
from tests.support.faults import (
    WRITES,
    Call,
    Moment,
    Step,
    intercepted,
    new_lab,
    prove_usable,
    refuse_other,
    script,
    trees,
)
from tests.support.lab import Lab

GROUPS = 8
EXPECTED = (OSError, CowfsError)


class Failure:
    """Fails the ``number``-th call: with an error, or, for a write, by writing half and saying so."""

    def __init__(self, number: int, code: int | None) -> None:
        self.number = number
        self.code = code
        self.name = ""

    def __call__(self, at: int, name: str, real: Call, args: tuple[object, ...], named: dict[str, object]) -> object:
        if at != self.number or (self.code is None and name not in WRITES):
            return real(*args, **named)
        self.name = name
        if self.code is not None:
            raise OSError(self.code, os.strerror(self.code))
        data = b"".join(args[1]) if name == "pwritev" else bytes(args[1])  # type: ignore[arg-type, call-overload]
        half = data[: len(data) // 2]
        return real(args[0], [half] if name == "pwritev" else half, *args[2:])


def run(lab: Lab, failure: Failure, undisturbed: list[Moment]) -> tuple[int, Step]:
    """Run the whole script; looks at the state right behind the call that fails. Returns that step."""
    hit: tuple[int, Step] | None = None
    with intercepted(failure):
        for index, step in enumerate(script()):
            known = not failure.name
            try:
                step.run(lab)
                raised = False
            except EXPECTED:
                raised = True
                assert failure.name, f"{step.name} failed by itself"
            except KeyError:
                assert hit is not None, f"{step.name} misses what should be there"
                continue
            if not known or not failure.name:
                continue
            hit = index, step
            live = trees(lab)
            before, after = undisturbed[index].live, undisturbed[index + 1].live
            if step.kind == "op":
                assert live == (before if raised else after), "a refused operation had an effect" if raised else ""
            else:
                assert live in ((before, after) if raised else (after,))
    assert hit is not None, "the call was never reached"
    return hit


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, None], ids=["ENOSPC", "EIO", "short"])
@pytest.mark.parametrize("group", range(GROUPS))
def test_every_call_fails_once(
    fast_path: Path, undisturbed: list[Moment], calls: list[str], group: int, code: int | None
) -> None:
    for number in range(1 + group, len(calls) + 1, GROUPS):
        if code is None and calls[number - 1] not in WRITES:
            continue
        path = fast_path / str(number)
        lab = new_lab(path)
        where = f"call {number} ({calls[number - 1]})"
        try:
            index, step = run(lab, Failure(number, code), undisturbed)
            where += f" in step {index}, {step.name}"
            last = Moment.of(lab)
            with suppress(*EXPECTED):
                lab.engine.close()
            lab = Lab.existing(path)
            now = Moment.of(lab)
            assert now.live == last.live, "what was answered is not what is found again"
            unacknowledged = {each: tree for each, tree in now.snapshots.items() if each not in last.snapshots}
            refuse_other(now, last, Moment(last.live, {**last.snapshots, **unacknowledged}))
            if number % 5 == 0:
                prove_usable(lab)
            else:
                lab.check()
        except BaseException as error:
            error.add_note(where)
            raise
        finally:
            with suppress(*EXPECTED):
                lab.engine.close()
