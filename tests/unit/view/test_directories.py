"""Directory entries: cookies that stay, keys that collide, all of them in every kind of directory."""

import errno
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from cowfs.geometry import Geometry
from cowfs.tree.names import directory_key
from tests.support.lab import ME
from tests.support.single import Single
from tests.unit.view.conftest import Bench


def listing(single: Single, ino: int = 1, after: int = 2) -> dict[bytes, int]:
    """name -> cookie, in the order in which they come."""
    return {name: cookie for cookie, name, _, _ in single.view.readdir(ino, after)}


def test_cookies_grow_and_stay(bench: Bench) -> None:
    files = bench.files
    for number in range(60):
        files.create(f"f{number}")
    bench.put()
    before = listing(bench)
    assert list(before.values()) == sorted(set(before.values()))
    assert [name for _, name, _, _ in bench.view.readdir(1, 0)][:2] == [b".", b".."]
    choice = random.Random(5)
    gone = set(choice.sample(sorted(before), 20))
    for name in gone:
        files.unlink(name.decode())
    for number in range(20):
        files.create(f"new{number}")
    after = listing(bench)
    assert all(after[name] == cookie for name, cookie in before.items() if name not in gone)
    assert after.keys() == (before.keys() - gone) | {f"new{n}".encode() for n in range(20)}


def test_a_listing_in_pieces_misses_and_repeats_nothing_that_stays(bench: Bench) -> None:
    files = bench.files
    for number in range(80):
        files.create(f"f{number}")
    bench.put()
    choice = random.Random(7)
    seen: list[bytes] = []
    cookie, made, stays = 2, 0, {f"f{number}".encode() for number in range(80)}
    while True:
        page = list(bench.view.readdir(1, cookie))[:7]
        if not page:
            break
        seen += [name for _, name, _, _ in page]
        cookie = page[-1][0]
        for _ in range(3):
            files.create(f"late{made}")
            made += 1
        victim = choice.choice(sorted(stays))
        files.unlink(victim.decode())
        stays.discard(victim)
        if page[-1][1] in stays:  # the name at the cookie itself may go too
            files.unlink(page[-1][1].decode())
            stays.discard(page[-1][1])
    assert len(seen) == len(set(seen))
    assert stays <= set(seen)


def test_a_name_removed_and_made_again_while_its_neighbours_stay(bench: Bench) -> None:
    files = bench.files
    files.create("a")
    files.create("b")
    bench.put()
    before = listing(bench)
    files.unlink("a")
    files.create("a")
    assert listing(bench) == before


@pytest.mark.parametrize("place", ["live", "frozen", "settled"])
def test_names_that_share_a_key(tmp_path: Path, place: str) -> None:
    bench = Bench(tmp_path / "journals", Geometry(key_bits=2))
    bench.place = place
    files = bench.files
    names = [f"n{number}" for number in range(2000)]
    same = [name for name in names if directory_key(name.encode(), 2) == 2][:257]
    for name in same[:128]:
        files.create(name)
    bench.put()
    for name in same[128:256]:
        files.create(name)
    assert [cookie & 255 for cookie in listing(bench).values()] == list(range(256))
    with pytest.raises(OSError) as caught:
        files.create(same[256])
    assert caught.value.errno == errno.ENOSPC
    calls: list[Callable[[], object]] = [
        lambda: files.mkdir(same[256]),
        lambda: files.link(same[0], same[256]),
        lambda: files.rename(same[0], same[256]),
    ]
    for call in calls:
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.errno == errno.ENOSPC
    other = next(name for name in names if directory_key(name.encode(), 2) == 3)
    files.create(other)
    cookies = listing(bench)
    files.unlink(same[100])
    files.unlink(same[200])
    files.create(same[256])  # the smallest free discriminator
    assert listing(bench)[same[256].encode()] == cookies[same[100].encode()]
    assert files.names() == sorted({*same, other} - {same[100], same[200]})
    for name in same[:100:3]:
        files.unlink(name)
    bench.check()
    assert all(files.exists(name) for name in same[1:100] if same.index(name) % 3)


@pytest.mark.parametrize("bits", [2, 8])
def test_random_histories_with_narrow_keys(tmp_path: Path, bits: int) -> None:
    single = Single(tmp_path / "journals", Geometry(key_bits=bits, inline_limit=64, leaf_limit=256))
    choice = random.Random(bits)
    there: set[str] = set()
    for turn in range(600):
        name = f"n{choice.randrange(120)}"
        if name in there:
            single.files.unlink(name)
            there.discard(name)
        else:
            single.files.create(name)
            there.add(name)
        if turn % 150 == 149:
            single.checkpoint()
            if turn % 300 == 299:
                single.settle()
        if turn % 60 == 0:
            assert single.files.names() == sorted(there)
    assert single.files.names() == sorted(there)
    single.check()


def test_the_kind_of_an_entry_follows_its_inode(bench: Bench) -> None:
    files = bench.files
    files.create("a")
    files.mkdir("b")
    bench.put()
    files.rename("a", "b", 2)
    kinds = {name: kind for _, name, _, kind in bench.view.readdir(1, 2)}
    assert kinds == {b"a": 4, b"b": 8}
    files.rmdir("a")
    bench.view.symlink(1, b"a", b"t", ME)
    assert {name: kind for _, name, _, kind in bench.view.readdir(1, 2)} == {b"a": 10, b"b": 8}
