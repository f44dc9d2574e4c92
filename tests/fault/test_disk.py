"""The model of a disk: what may be left of a few operations, and what may not."""

import stat
from pathlib import Path
from random import Random
from typing import Any

from tests.support.disk import Disk, Image, digest, write_image

FILE, FOLDER = stat.S_IFREG | 0o600, stat.S_IFDIR | 0o700
TRIES = 300


def disk(*entries: tuple[Any, ...]) -> Disk:
    """After these operations."""
    made = Disk()
    for entry in entries:
        made.apply(entry)
    return made


def possible(made: Disk) -> list[Image]:
    """Different states that are possible."""
    return list({digest(image): image for image in (made.random(Random(at)) for at in range(TRIES))}.values())


def test_a_file_needs_its_bytes_and_its_name_synced() -> None:
    entries = [("make", 1, b"f", 2, FILE), ("write", 2, 0, b"abc")]
    for_bytes, for_name = ("sync", 2), ("sync", 1)
    assert possible(disk(*entries, for_bytes, for_name)) == [{"f": b"abc"}]
    assert {tuple(image.items()) for image in possible(disk(*entries, for_bytes))} == {(), (("f", b"abc"),)}
    assert {image.get("f") for image in possible(disk(*entries, for_name))} == {b"", b"abc", bytes(3)}
    assert disk(*entries).corner("synced") == {}
    assert disk(*entries).corner("names") == {"f": b""}
    assert disk(*entries).corner("written") == {"f": b"abc"}


def test_a_synced_name_in_a_lost_folder_is_lost() -> None:
    made = disk(("make", 1, b"d", 2, FOLDER), ("make", 2, b"f", 3, FILE), ("sync", 3), ("sync", 2))
    assert {tuple(image) for image in possible(made)} == {(), ("d", "d/f")}


def test_sectors_are_kept_and_lost_each_by_itself_and_never_torn() -> None:
    made = disk(
        ("make", 1, b"f", 2, FILE),
        ("write", 2, 0, b"a" * 2048),
        ("sync", 2),
        ("sync", 1),
        ("write", 2, 256, b"b" * 1024),
    )
    kept = {image["f"] for image in possible(made) if isinstance(image["f"], bytes)}
    assert b"a" * 512 + b"b" * 512 + b"a" * 1024 in kept  # the middle one alone
    assert b"a" * 256 + b"b" * 256 + b"a" * 512 + b"b" * 256 + b"a" * 768 in kept  # the outer ones
    assert len(kept) == 2**3


def test_a_size_may_be_kept_without_its_bytes() -> None:
    made = disk(("make", 1, b"f", 2, FILE), ("sync", 2), ("sync", 1), ("write", 2, 0, b"abc"))
    assert {image["f"] for image in possible(made)} == {b"", b"abc", bytes(3)}
    made = disk(("make", 1, b"f", 2, FILE), ("write", 2, 0, b"abc"), ("sync", 2), ("sync", 1), ("size", 2, 1))
    assert {image["f"] for image in possible(made)} == {b"abc", b"a", b"a\0\0"}


def test_a_rename_leaves_the_old_or_the_new_file() -> None:
    made = disk(
        ("make", 1, b"new", 2, FILE), ("write", 2, 0, b"2"), ("sync", 2),
        ("make", 1, b"f", 3, FILE), ("write", 3, 0, b"3"), ("sync", 3), ("sync", 1), ("rename", 1, b"new", 1, b"f"),
    )  # fmt: skip
    found = {(image.get("new"), image["f"]) for image in possible(made)}
    assert found == {(b"2", b"3"), (b"2", b"2"), (None, b"2")}


def test_a_name_that_was_removed_may_come_back() -> None:
    made = disk(("make", 1, b"f", 2, FILE), ("write", 2, 0, b"abc"), ("sync", 2), ("sync", 1), ("remove", 1, b"f"))
    assert {tuple(image.items()) for image in possible(made)} == {(), (("f", b"abc"),)}


def test_an_image_is_written_as_it_is(tmp_path: Path) -> None:
    made = disk(("make", 1, b"d", 2, FOLDER), ("make", 2, b"f", 3, FILE), ("write", 3, 5, b"abc"))
    write_image(made.corner("written"), tmp_path / "disk")
    assert (tmp_path / "disk/d/f").read_bytes() == bytes(5) + b"abc"
