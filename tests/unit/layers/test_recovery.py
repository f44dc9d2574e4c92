"""Opening a workspace whose journal was torn, or damaged: what never was durable is cut, the rest opens read-only."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from cowfs.formats import journal as fmt
from cowfs.host import Host
from cowfs.layers.journal import FIRST_FILE, JournalFile, Limits, file_numbers, file_path, read_records
from cowfs.view.inode import Caller
from cowfs.workspace import Workspace
from tests.support.lab import Files
from tests.support.single import NAME, Single


def copy(single: Single, tmp_path: Path) -> Path:
    """A copy of the journals to be damaged."""
    folder = tmp_path / "copy"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(single.env.journals, folder)
    return folder


def opened(single: Single, folder: Path) -> Workspace:
    """The workspace as a successor opens it."""
    return single.open(Host(replace(single.env, journals=folder)))


def offsets(folder: Path, number: int = FIRST_FILE) -> list[tuple[int, int]]:
    """(first byte, end) of every record of a file."""
    file = JournalFile.open(folder, NAME, number)
    size = file_path(folder, NAME, number).stat().st_size
    return [(at, end) for at, end, _ in read_records(file, fmt.HEADER_BYTES, size)]


def names(single: Single, folder: Path) -> list[str]:
    """The root's names, as a successor sees them; it must be able to go on and to be opened again."""
    workspace = opened(single, folder)
    found = Files(workspace.view).names()
    Files(workspace.view).create("gone-on")
    workspace.sync()
    again = opened(single, folder)
    assert Files(again.view).names() == sorted([*found, "gone-on"])
    return found


def read_only(single: Single, folder: Path) -> tuple[list[str], str]:
    """(the root's names, the damage) of a workspace that a successor opens read-only, leaving every file alone."""
    before = {number: file_path(folder, NAME, number).read_bytes() for number in file_numbers(folder, NAME)}
    workspace = opened(single, folder)
    assert workspace.journal.damage is not None
    for change in (lambda: Files(workspace.view).create("new"), lambda: workspace.view.opened(2, True, Caller())):
        with pytest.raises(OSError, match="Read-only"):
            change()
    workspace.sync()
    assert {number: file_path(folder, NAME, number).read_bytes() for number in before} == before
    return Files(workspace.view).names(), workspace.journal.damage.message


def filled(tmp_path: Path, count: int, synced: int = 0, **limits: int) -> Single:
    """A workspace with files a, b, c …; a sync after the first ``synced`` of them."""
    single = Single(tmp_path / "journals", limits=Limits(**limits))
    for at in range(count):
        single.files.create(chr(97 + at))
        if at + 1 == synced:
            single.workspace.sync()
    return single


def test_a_tail_torn_at_any_byte_is_cut(tmp_path: Path) -> None:
    single = filled(tmp_path, 3)
    (start, end) = offsets(single.env.journals)[-1]
    for length in range(start, end):
        folder = copy(single, tmp_path)
        with file_path(folder, NAME, FIRST_FILE).open("r+b") as file:
            file.truncate(length)
        assert names(single, folder) == ["a", "b"]


@pytest.mark.parametrize("tail", [b"\0" * 5000, b"garbage" * 100, b"\xff" * 60, b"COWJ"])
def test_rubbish_behind_the_last_record_is_cut(tmp_path: Path, tail: bytes) -> None:
    single = filled(tmp_path, 2, synced=2)
    folder = copy(single, tmp_path)
    path = file_path(folder, NAME, FIRST_FILE)
    path.write_bytes(path.read_bytes() + tail)
    assert names(single, folder) == ["a", "b"]


@pytest.mark.parametrize("how", ["zeros", "flip"])
@pytest.mark.parametrize("bad", range(6))
@pytest.mark.parametrize("synced", [0, 2, 4, 6])
def test_only_what_was_durable_is_damage(tmp_path: Path, how: str, bad: int, synced: int) -> None:
    """A power loss keeps later pages and loses earlier ones: then the later ones are cut too."""
    single = filled(tmp_path, 7, synced=synced)
    folder = copy(single, tmp_path)
    start, end = offsets(folder)[bad]
    path = file_path(folder, NAME, FIRST_FILE)
    data = bytearray(path.read_bytes())
    if how == "zeros":
        data[start:end] = bytes(end - start)
    else:
        data[(start + end) // 2] ^= 1
    path.write_bytes(data)
    if bad < synced:  # record 6 was written behind the sync, and says so
        found, why = read_only(single, folder)
        assert f"{NAME}/{path.name}, byte {start}:" in why
        assert found == [chr(97 + at) for at in range(bad)]
    else:
        assert names(single, folder) == [chr(97 + at) for at in range(bad)]


@pytest.mark.parametrize("synced", [0, 3, 5])
@pytest.mark.parametrize("lost", ["tail", "file", "header", "empty", "zeros"])
def test_lost_ends_and_files_of_a_chain(tmp_path: Path, synced: int, lost: str) -> None:
    """Records 1 and 2 are in the first file, 3 and 4 in the second, 5 and 6 in the third."""
    single = filled(tmp_path, 6, synced=synced, file_records=2)
    folder = copy(single, tmp_path)
    second = file_path(folder, NAME, FIRST_FILE + 1)
    if lost == "tail":
        left = ["a", "b", "c"]
        second.write_bytes(second.read_bytes()[: offsets(folder, FIRST_FILE + 1)[0][1]])
    else:
        left = ["a", "b"]
        if lost == "file":
            second.unlink()
        elif lost == "header":
            second.write_bytes(b"\0" * 64 + second.read_bytes()[64:])
        elif lost == "empty":
            second.write_bytes(b"")
        else:
            second.write_bytes(bytes(second.stat().st_size))
    if synced > len(left):
        found, why = read_only(single, folder)
        assert re.search(rf"{NAME}/000000001[78].journal, byte|missing", why)
        assert found == left
    else:
        assert names(single, folder) == left


def test_the_first_file_torn_at_birth(tmp_path: Path) -> None:
    single = filled(tmp_path, 1)
    for length in (0, 1, 63, 64):
        folder = copy(single, tmp_path)
        with file_path(folder, NAME, FIRST_FILE).open("r+b") as file:
            file.truncate(length)
        assert names(single, folder) == []


def test_a_stale_file_of_another_chain_is_no_continuation(tmp_path: Path) -> None:
    single = filled(tmp_path, 5, file_records=2)
    folder = copy(single, tmp_path)
    first = file_path(folder, NAME, FIRST_FILE)
    header = fmt.decode_header(file_path(folder, NAME, FIRST_FILE + 1).read_bytes())
    third = file_path(folder, NAME, FIRST_FILE + 2)
    file_path(folder, NAME, FIRST_FILE + 1).write_bytes(
        fmt.encode_header(header._replace(first_seq=99)) + third.read_bytes()[64:]
    )
    assert first.exists()
    assert names(single, folder) == ["a", "b"]
    assert file_numbers(folder, NAME) == [FIRST_FILE, FIRST_FILE + 1]


def test_a_gap_in_the_sequence_is_damage(tmp_path: Path) -> None:
    single = filled(tmp_path, 4, synced=3)
    folder = copy(single, tmp_path)
    path = file_path(folder, NAME, FIRST_FILE)
    start, end = offsets(folder)[1]
    data = path.read_bytes()
    path.write_bytes(data[:start] + data[end:])
    found, why = read_only(single, folder)
    assert "record 3 follows 1" in why
    assert found == ["a"]
