"""The owner is killed at each of its system calls: what was answered is there, the rest happened or did not."""

import os
import signal
import sys
import traceback
from pathlib import Path

import pytest

from tests.support.faults import WRITES, Call, Moment, intercepted, new_lab, prove_usable, refuse_other, script
from tests.support.lab import Lab

GROUPS = 8
"""Tests that share the calls among them, so that one failure does not hide the others."""


def run_and_die(path: Path, number: int, torn: bool) -> int:
    """Run the script in a child that kills itself at the ``number``-th call; how many steps it acknowledged."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            _child(path, number, torn, writer)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(3)
    os.close(writer)
    acknowledged = 0
    while data := os.read(reader, 4096):
        acknowledged += len(data)
    os.close(reader)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f"the child ended with status {status} instead of being killed"
    assert os.WTERMSIG(status) == signal.SIGKILL
    return acknowledged


def _child(path: Path, number: int, torn: bool, writer: int) -> None:
    write = os.write

    def die(at: int, name: str, real: Call, args: tuple[object, ...], named: dict[str, object]) -> object:
        if at == number:
            if torn and name in ("write", "pwrite"):
                data = bytes(args[1])  # type: ignore[call-overload]
                real(args[0], data[: len(data) // 2], *args[2:])
            elif torn and name == "pwritev":
                data = b"".join(args[1])  # type: ignore[arg-type]
                real(args[0], [data[: len(data) * 2 // 3]], *args[2:])
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **named)

    lab = new_lab(path)
    with intercepted(die):
        for step in script():
            step.run(lab)
            write(writer, b"x")


@pytest.mark.parametrize("torn", [False, True], ids=["before", "torn"])
@pytest.mark.parametrize("group", range(GROUPS))
def test_killed_at_every_call(
    fast_path: Path, undisturbed: list[Moment], calls: list[str], group: int, torn: bool
) -> None:
    for number in range(1 + group, len(calls) + 1, GROUPS):
        if torn and calls[number - 1] not in WRITES:
            continue  # killed behind it is killed before the next
        path = fast_path / str(number)
        done = run_and_die(path, number, torn)
        where = f"call {number} ({calls[number - 1]}), after {done} steps: {script()[done].name}"
        lab = Lab.existing(path)
        try:
            refuse_other(Moment.of(lab), undisturbed[done], undisturbed[done + 1])
            if number % 3 == 0:
                prove_usable(lab)
            else:
                lab.check()
        except BaseException as error:
            error.add_note(where)
            raise
        finally:
            lab.engine.close()
