"""The map between stored ids and those of a host's user."""

import struct

from hypothesis import given
from hypothesis import strategies as st

from cowfs.client.subordinate import granted
from cowfs.owners import OVERFLOW, UNKNOWN, Ids, Owners
from cowfs.view import acl

RANGES = ((1000, 1), (100_000, 65_536), (300_000, 10))


def test_root_is_the_user_and_the_granted_ids_follow() -> None:
    ids = Ids(RANGES)
    assert [ids.shown(each) for each in (0, 1, 65_536, 65_537, 65_546)] == [1000, 100_000, 165_535, 300_000, 300_009]
    assert [ids.stored(each) for each in (1000, 100_000, 165_535, 300_009)] == [0, 1, 65_536, 65_546]


def test_what_has_no_number_is_the_overflow_id_and_no_id_stays_none() -> None:
    ids = Ids(RANGES)
    assert ids.shown(70_000) == ids.stored(0) == ids.stored(1001) == OVERFLOW
    assert ids.shown(UNKNOWN) == ids.stored(UNKNOWN) == UNKNOWN


@given(st.integers(0, 65_546))
def test_what_is_shown_comes_back(stored: int) -> None:
    ids = Ids(RANGES)
    assert ids.stored(ids.shown(stored)) == stored


def test_grants_are_read_as_newuidmap_reads_them() -> None:
    lines = ["me:100000:65536", "you:1:5", "1000:300000:10", "me:x:10", "me:5", "me:0:10", "me:4294967290:10", "", "#"]
    assert granted(lines, ["1000", "me"]) == [(100_000, 65_536), (300_000, 10)]


def test_acls_name_users_and_groups() -> None:
    owners = Owners(Ids(RANGES), Ids([(2000, 1)]))
    entries = [(1, 6, UNKNOWN), (2, 4, 7), (4, 4, UNKNOWN), (8, 4, 0), (16, 4, UNKNOWN), (32, 0, UNKNOWN)]
    stored = acl.encode(entries)
    shown = owners.shown_xattr(acl.ACCESS, stored)
    assert acl.decode(shown) == [(tag, perm, {7: 100_006, 0: 2000}.get(who, who)) for tag, perm, who in entries]
    assert owners.stored_xattr(acl.ACCESS, shown) == stored
    assert owners.shown_xattr(b"user.x", stored) == stored
    assert owners.stored_xattr(acl.DEFAULT, struct.pack("<I", 9)) == struct.pack("<I", 9)
