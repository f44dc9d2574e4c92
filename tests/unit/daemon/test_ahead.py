"""When names are told before they are asked for, and which requests wait meanwhile."""

from __future__ import annotations

import pytest

from cowfs_daemon.fuse import ahead, listing
from cowfs_daemon.fuse.ahead import ASKED_MIN, FACTOR, HELD_MAX, PROBED, WIDELY, Ahead


class Clock:
    """Seconds, as the test says."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(ahead, "monotonic", made)
    return made


def telling(directory: int = 7, *, made: Ahead | None = None) -> Ahead:
    """One that has a directory listed, as somebody says yes to everything."""
    made = made or Ahead(lambda directory, cookie, names: True)
    asked = [made.asked(directory) for _ in range(ASKED_MIN)]
    assert asked == [False] * (ASKED_MIN - 1) + [True]
    return made


def request(number: int) -> bytearray:
    return bytearray(b"%d" % number)


pytestmark = pytest.mark.interpreted


def test_what_waits_is_due_when_the_listing_is_answered(clock: Clock) -> None:
    one = telling()
    assert one.hold(7, bytearray(b"1-and-more"), 1)
    assert not one.hold(8, request(2), 1)
    assert one.take(all_of_them=False) == []
    one.listed(8)
    assert one.take(all_of_them=False) == []
    one.listed(7)
    assert not one.hold(7, request(3), 1)  # its names are told already
    assert one.take(all_of_them=False) == [b"1"]
    assert one.waiting == 0


@pytest.mark.parametrize("state", [0, listing.END, 5])
def test_what_waits_is_due_when_the_listing_has_ended(clock: Clock, state: int) -> None:
    one = telling()
    assert one.hold(7, request(1), 1)
    one.told(7, 99, state)
    assert one.take(all_of_them=False) == [b"1"]
    assert not one.hold(7, request(2), 1)


def test_what_has_waited_for_long_is_due_and_nothing_waits_for_a_while(clock: Clock) -> None:
    one = telling()
    assert one.hold(7, request(1), 1)
    clock.now += ahead.HELD_S / 2
    assert one.hold(7, request(2), 1)
    assert one.take(all_of_them=False) == []
    clock.now += ahead.HELD_S
    assert one.take(all_of_them=False) == [b"1", b"2"]
    telling(8, made=one)
    assert not one.hold(8, request(3), 1)
    clock.now += ahead.HELD_S
    telling(9, made=one)
    assert one.hold(9, request(4), 1)
    assert one.take(all_of_them=True) == [b"4"]
    clock.now += ahead.HELD_S
    telling(10, made=one)
    assert not one.hold(10, request(5), 1)  # twice as long after the second time
    clock.now += ahead.HELD_S
    telling(11, made=one)
    assert one.hold(11, request(6), 1)
    one.listed(11)
    assert one.take(all_of_them=False) == [b"6"]
    telling(12, made=one)
    assert one.hold(12, request(7), 1)
    one.take(all_of_them=True)
    clock.now += ahead.HELD_S
    telling(13, made=one)
    assert one.hold(13, request(8), 1)


def test_each_directory_has_a_time_of_its_own(clock: Clock) -> None:
    """While some wait all the time, each in time, none counts as having waited in vain; who does wait in vain, does not
    longer since others are in time."""
    one = telling(1)
    assert one.hold(1, request(1), 1)
    for directory in range(2, 6):
        telling(directory, made=one)
        clock.now += ahead.HELD_S / 5
        assert one.hold(directory, request(directory), 1)
        one.listed(directory)
        assert one.take(all_of_them=False) == [b"%d" % directory]
    clock.now += ahead.HELD_S / 5 + 1e-6
    assert one.take(all_of_them=False) == [b"1"]
    assert one.waiting == 0


def test_so_many_wait_and_none_comes_back(clock: Clock) -> None:
    one = telling()
    one.holds = False
    assert not one.asked(7)
    one.holds = True
    assert one.asked(7)
    assert [one.hold(7, request(number), 1) for number in range(HELD_MAX + 1)] == [True] * HELD_MAX + [False]
    assert len(one.take(all_of_them=True)) == HELD_MAX
    assert one.waiting == 0


def test_a_directory_is_listed_once_at_a_time_and_several_are(clock: Clock) -> None:
    told: list[int] = []

    def tell(directory: int, cookie: int, names: int) -> bool:
        told.append(directory)
        return True

    one = Ahead(tell)
    for _ in range(100):
        one.asked(1)
        one.asked(2)
    assert told == [1, 2]


def shown(one: Ahead, directories: range, names: int = ASKED_MIN) -> None:
    """So many names of each directory are asked for, and told."""
    for directory in directories:
        for _ in range(names):
            one.asked(directory)
        one.told(directory, 99, listing.END)


def test_the_first_name_is_enough_where_nearly_every_directory_came_to_that() -> None:
    told: list[tuple[int, int]] = []

    def tell(directory: int, cookie: int, names: int) -> bool:
        told.append((directory, names))
        return True

    one = Ahead(tell)
    shown(one, range(100))
    told.clear()
    first = [one.asked(directory) for directory in range(100, 100 + 5 * PROBED)]
    assert first.count(False) == 5  # these have to show it
    assert {names for _, names in told} == {ASKED_MIN * FACTOR}
    probes = [100 + at for at, early in enumerate(first) if not early]
    assert not any(one.asked(directory) for directory in probes for _ in range(ASKED_MIN - 2))
    assert all(one.asked(directory) for directory in probes)


def test_directories_of_which_one_name_is_wanted_are_not_told_ahead_for_long() -> None:
    told: list[int] = []
    one = Ahead(lambda directory, cookie, names: bool(told.append(directory)) or True)
    shown(one, range(100))
    told.clear()
    shown(one, range(100, 1100), names=1)
    assert len(told) <= 2 * WIDELY * PROBED
    assert not any(directory > 500 for directory in told)
    told.clear()
    shown(one, range(2000, 2100))
    assert len(told) == 100
    assert one.asked(3000) or one.asked(3001)


def test_a_mixture_is_told_when_it_has_shown_it() -> None:
    told: list[int] = []
    one = Ahead(lambda directory, cookie, names: bool(told.append(directory)) or True)
    for number in range(100):
        shown(one, range(10 * number, 10 * number + 3))
        shown(one, range(10 * number + 3, 10 * number + 10), names=1)
    assert {directory % 10 for directory in told} == {0, 1, 2}
