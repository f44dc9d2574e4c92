"""Plays cases in a directory: ``python -m tests.conformance.player DIRECTORY ONE_IN [PATTERNS]``, a JSON line for each.

A process of its own: what a page fault or a lock waits for must not be served by the one that waits.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import zlib
from collections.abc import Iterator
from typing import Any

from tests.conformance import attributes, data, locking, naming
from tests.conformance.case import Case
from tests.conformance.differences import matches, witnesses
from tests.conformance.scene import Scene, clear, name_of

CASE_S = 20
"""A case that takes longer hangs."""


def all_cases() -> Iterator[Case]:
    """Every case, in an order that never changes."""
    for module in (naming, attributes, data, locking):
        yield from module.all_cases()


def chosen(one_in: int, only: str = "") -> list[Case]:
    """One case in so many, and those that show the known differences; or all that ``only`` (see matches) covers."""
    if only:
        return [case for case in all_cases() if matches(case.name, only)]
    wanted = witnesses()
    return [case for case in all_cases() if case.name in wanted or zlib.crc32(case.name.encode()) % one_in == 0]


def play(case: Case) -> list[Any]:
    """Take the steps of a case in the current directory; each as [label, result, attributes]."""
    scene = Scene(case.user)
    try:
        try:
            case.prepare(scene)
        except PermissionError as error:  # root of a user namespace makes no devices
            scene.say("prepared as far as may be", name_of(error))
        scene.do("prepared", int)
        case.act(scene)
    finally:
        scene.close()
    return [list(step) for step in scene.steps]


def _hangs(*_: object) -> None:
    raise AssertionError("a case hangs")


def main() -> None:
    """See the module."""
    directory, one_in, only = sys.argv[1], int(sys.argv[2]), "".join(sys.argv[3:])
    os.umask(0o022)
    signal.signal(signal.SIGALRM, _hangs)
    for number, case in enumerate(chosen(one_in, only)):
        path = f"{directory}/{number}"
        os.mkdir(path, 0o755)
        os.chmod(path, 0o755)
        os.chdir(path)
        signal.alarm(CASE_S)
        try:
            print(json.dumps([case.name, play(case)]), flush=number % 100 == 0)
        except Exception as error:
            error.add_note(f"in the case {case.name}")
            raise
        signal.alarm(0)
        os.chdir(directory)
        clear(path)


if __name__ == "__main__":
    main()
