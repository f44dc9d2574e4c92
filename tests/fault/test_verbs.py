"""Each verb is killed at each call that changes the store, and each such call fails once: all or nothing, nothing left.

The settler's calls count too; it dies alone, and with its owner.
"""

from __future__ import annotations

import errno
import os
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import lmdb
import pytest

from cowfs.engine import Engine
from cowfs.errors import CowfsError
from tests.support.interpose import LMDB, WRITES, Action, Call, Died, Point, interposed, threads_for_children
from tests.support.judged import LATER_IDS, VERB_IDS, Undisturbed, reopened, worlds
from tests.support.verbs import (
    CASES,
    REQUEST,
    Case,
    Still,
    VerbLab,
    World,
    copy_store,
    leftovers,
    make_base,
    make_unclean,
)

EXPECTED = (OSError, CowfsError)


@pytest.fixture(scope="module", autouse=True)
def children() -> Iterator[None]:
    with threads_for_children():
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base") / "store"
    make_base(path)
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source")
    (path / "sub").mkdir()
    for number in range(3):
        (path / "sub" / f"f{number}").write_bytes(b"%d" % number * 5000)
    (path / "link").symlink_to("sub")
    for each in (path / "sub" / "f0", path / "sub", path):
        os.utime(each, ns=(1, 1))
    return path


@pytest.fixture(scope="module")
def undisturbed(base: Path, source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Undisturbed]:
    """Every case by name."""
    found = {}
    for name, case in CASES.items():
        lab = VerbLab.at(copy_store(base, tmp_path_factory.mktemp("calm") / "store"), VERB_IDS)
        before = World.of(lab)
        with interposed(lab.path, through) as points:
            result = case.run(lab, source)
        after = World.of(lab)
        assert leftovers(lab) == []
        lab.close()
        found[name] = Undisturbed(before, after, list(points), result)
    return found


def through(number: int, point: Point, real: Call, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """Disturb nothing."""
    return real(*args, **named)


def opened(path: Path) -> VerbLab:
    """The store, ready for a verb."""
    return VerbLab.at(path, VERB_IDS)


def half(name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments of a write that is cut short."""
    data = b"".join(args[1]) if name == "pwritev" else bytes(args[1])
    cut = data[: len(data) * 2 // 3]
    return (args[0], [cut] if name == "pwritev" else cut, *args[2:])


def run_and_die(
    path: Path, begin: Callable[[Path], Any], run: Callable[[Any], object], number: int, torn: bool
) -> bool:
    """``run(begin(path))`` in a process that kills itself at the ``number``-th call of ``run``; whether it ended."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        try:

            def die(at: int, point: Point, real: Call, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
                if at == number:
                    if torn and point.name in WRITES:
                        real(*half(point.name, args), **named)
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*args, **named)

            begun = begin(path)
            with interposed(path, die):
                run(begun)
            os.write(writer, b"done")
            os.kill(os.getpid(), signal.SIGKILL)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(3)
    os.close(writer)
    with open(reader, "rb") as pipe:
        done = pipe.read() == b"done"
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status), f"the process ended with {status} instead of being killed"
    return done


@pytest.mark.parametrize("name", CASES)
def test_everything_is_killed_at_every_call(
    fast_path: Path, base: Path, source: Path, undisturbed: dict[str, Undisturbed], name: str
) -> None:
    case, calm = CASES[name], undisturbed[name]
    for number, point in enumerate(calm.points, 1):
        for torn in (False, True) if point.name in WRITES else (False,):
            path = copy_store(base, fast_path / f"{number}{'-torn' * torn}")
            done = run_and_die(path, opened, lambda lab: case.run(lab, source), number, torn)
            reopened(path, case, calm, source, done, f"{name}: killed at call {number}, {point}, torn: {torn}")


@pytest.mark.parametrize("name", [name for name in CASES if name in ("create", "import", "settle", "collect")])
def test_the_settler_dies_at_every_call(
    fast_path: Path, base: Path, source: Path, undisturbed: dict[str, Undisturbed], name: str
) -> None:
    case, calm = CASES[name], undisturbed[name]
    for number, point in enumerate(calm.points, 1):
        if not point.child:
            continue
        for torn in (False, True) if point.name in WRITES else (False,):

            def die(
                at: int, here: Point, real: Call, args: tuple[Any, ...], named: dict[str, Any],
                number: int = number, torn: bool = torn,
            ) -> Any:  # fmt: skip
                if at == number and here.child:
                    if torn:
                        real(*half(here.name, args), **named)
                    raise Died
                return real(*args, **named)

            path = copy_store(base, fast_path / f"{number}{'-torn' * torn}")
            disturbed(path, case, calm, source, die, f"{name}: the settler died at call {number}, {point}, {torn}")


def disturbed(path: Path, case: Case, calm: Undisturbed, source: Path, action: Action, what: str) -> None:
    """Run the verb with a fault; judge what the running store shows, and what it shows when it is opened again."""
    lab = VerbLab.at(path, VERB_IDS)
    done: bool | None = None
    try:
        with interposed(path, action):
            try:
                case.run(lab, source)
                done = True
            except EXPECTED:
                done = None
        now = World.of(lab)
        if done:
            assert now == calm.after
        else:  # what a journal says already may not be in the catalog yet
            for part, *possible in zip(now.parts(), *(each.parts() for each in worlds(case, calm)), strict=True):
                assert part in possible
    except BaseException as error:
        error.add_note(what)
        raise
    finally:
        with suppress(*EXPECTED):
            lab.engine.close()
    reopened(path, case, calm, source, done, what)


def failing(number: int, code: int | None) -> Action:
    """The ``number``-th call fails with an errno; None: it is a write, and writes less than it should."""

    def fail(at: int, point: Point, real: Call, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if at != number or (code is None and point.name not in WRITES):
            return real(*args, **named)
        if code is None:
            return real(*half(point.name, args), **named)
        if point.name == LMDB:
            raise lmdb.DiskError(os.strerror(code))
        raise OSError(code, os.strerror(code))

    return fail


FAULTS = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO, "short": None}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", CASES)
def test_every_call_fails_once(
    fast_path: Path, base: Path, source: Path, undisturbed: dict[str, Undisturbed], name: str, fault: str
) -> None:
    case, calm, code = CASES[name], undisturbed[name], FAULTS[fault]
    for number, point in enumerate(calm.points, 1):
        if code is None and point.name not in WRITES:
            continue
        path = copy_store(base, fast_path / str(number))
        disturbed(
            path, case, calm, source, failing(number, code), f"{name}: call {number}, {point}, fails with {fault}"
        )


def ways(points: list[Point]) -> Iterator[tuple[int, bool]]:
    """Every call, and every write once more, torn."""
    for number, point in enumerate(points, 1):
        yield number, False
        if point.name in WRITES:
            yield number, True


@pytest.fixture(scope="module")
def unclean(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = copy_store(base, tmp_path_factory.mktemp("unclean") / "store")
    make_unclean(path)
    return path


def opening(path: Path) -> tuple[World, list[Point]]:
    """What a store shows when nothing goes wrong while it is opened, and the calls that this takes."""
    with interposed(path, through) as points:
        lab = VerbLab.at(path, VERB_IDS)
    world = World.of(lab)
    assert "later" in lab.files("a").names()
    assert lab.engine.keys.find(REQUEST) is not None
    lab.engine.close()
    return world, points


def judge_opened(path: Path, world: World, what: str) -> None:
    """Journals that nobody knows stay at first, when the control log had a torn tail."""
    VerbLab.at(path, LATER_IDS).engine.close()
    lab = VerbLab.at(path, LATER_IDS)
    try:
        assert World.of(lab) == world, what
        assert leftovers(lab) == [], what
        assert list(lab.engine.fsck(deep=True)) == [], what
    finally:
        lab.engine.close()


def test_opening_is_killed_at_every_call(fast_path: Path, unclean: Path) -> None:
    world, points = opening(copy_store(unclean, fast_path / "calm"))
    assert len(points) > 10
    for number, torn in ways(points):
        path = copy_store(unclean, fast_path / f"{number}{'-torn' * torn}")
        run_and_die(path, lambda path: path, opened, number, torn)
        judge_opened(path, world, f"killed at call {number}, {points[number - 1]}, torn: {torn}")


@pytest.mark.parametrize("fault", ["ENOSPC", "EIO"])
def test_every_call_of_opening_fails_once(fast_path: Path, unclean: Path, fault: str) -> None:
    world, points = opening(copy_store(unclean, fast_path / "calm"))
    for number, point in enumerate(points, 1):
        path = copy_store(unclean, fast_path / str(number))
        with interposed(path, failing(number, FAULTS[fault])), suppress(*EXPECTED):
            VerbLab.at(path, VERB_IDS).engine.close()
        judge_opened(path, world, f"call {number}, {point}, fails with {fault}")


def make_store(path: Path) -> None:
    Engine.create_store(path, Still(), bytes(range(16)))


def judge_made(path: Path) -> None:
    """Either there is a store, or making it again makes one."""
    if not (path / "superblock").exists():
        make_store(path)
    lab = VerbLab.at(path, VERB_IDS)
    lab.engine.create("ws")
    assert list(lab.engine.fsck(deep=True)) == []
    assert leftovers(lab) == []
    lab.engine.close()


def test_making_a_store_is_killed_at_every_call(fast_path: Path) -> None:
    with interposed(fast_path / "calm", through) as points:
        make_store(fast_path / "calm")
    for number, torn in ways(points):
        path = fast_path / f"{number}{'-torn' * torn}"
        run_and_die(path, lambda path: path, make_store, number, torn)
        judge_made(path)


@pytest.mark.parametrize("fault", FAULTS)
def test_every_call_of_making_a_store_fails_once(fast_path: Path, fault: str) -> None:
    with interposed(fast_path / "calm", through) as points:
        make_store(fast_path / "calm")
    for number in range(1, len(points) + 1):
        path = fast_path / str(number)
        with interposed(path, failing(number, FAULTS[fault])), suppress(*EXPECTED):
            make_store(path)
        judge_made(path)
