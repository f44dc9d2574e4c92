"""Open files without a name are written again behind each marker: nothing of them is lost, wherever a process dies."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from cowfs.formats import control
from cowfs.formats import journal as fmt
from cowfs.layers.journal import FIRST_FILE, JournalFile, Position, file_path, read_records
from cowfs.workspace import Branch, Env, Outcome, Workspace
from tests.support.memory import ME, MemoryWorkspace

END = 25_000
CONTENT = b"a" * 5_000 + bytes(15_000) + b"b" * 5_000


def made(tmp_path: Path) -> tuple[MemoryWorkspace, int, int]:
    """(a workspace with a checkpoint, the inode of a file in two pieces that never had a name, the journal's length
    when it had all its bytes)."""
    memory = MemoryWorkspace(tmp_path)
    view = memory.workspace.view
    ino = view.tmpfile(1, 0o600, ME).ino
    view.opened(ino, True, ME)
    view.write(ino, 0, CONTENT[:5_000], ME)
    view.write(ino, 20_000, CONTENT[20_000:], ME)
    whole = ends(memory.env.journals)[-1]
    memory.checkpoint()
    return memory, ino, whole


def ends(journals: Path) -> list[int]:
    """Where each record of the journal ends."""
    file = JournalFile.open(journals, "ws", FIRST_FILE)
    size = file_path(journals, "ws", FIRST_FILE).stat().st_size
    return [end for _, end, _ in read_records(file, fmt.HEADER_BYTES, size)]


def cut(env: Env, folder: Path, length: int) -> Env:
    """The journals as they are when the process ended at ``length``."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(env.journals, folder)
    with file_path(folder, "ws", FIRST_FILE).open("r+b") as file:
        file.truncate(length)
    return replace(env, journals=folder)


def opened(memory: MemoryWorkspace, env: Env, branch: Branch | None = None) -> tuple[Workspace, Outcome]:
    """What a successor finds, and has written for its own successor."""
    layers = {layer.id: layer for layer in memory.layers}
    workspace, outcome = Workspace.open(env, branch or memory.branch, layers.__getitem__)
    workspace.view.taken_over()
    workspace.outlived()
    return workspace, outcome


def behind(workspace: Workspace, outcome: Outcome) -> Branch:
    """Where the control log says that a workspace stands once it has been told of ``outcome``."""
    place = next(each for each in reversed(outcome.operations) if isinstance(each, control.Position))
    position = Position(place.file_no, place.offset, place.seq)
    parent = outcome.layers[-1]
    return Branch("ws", workspace.live, parent, workspace.head, workspace.view.state.next_ino, position, parent.id)


def deaths(env: Env, folder: Path, first: int) -> Iterator[Env]:
    """The journals at every end of a record from ``first`` on."""
    for length in [each for each in ends(env.journals) if each >= first]:
        yield cut(env, folder, length)


def test_two_deaths_in_a_row(tmp_path: Path) -> None:
    memory, ino, whole = made(tmp_path)
    count = 0
    for once in deaths(memory.env, tmp_path / "once", whole):
        workspace, _ = opened(memory, once)
        assert workspace.view.read(ino, 0, END) == CONTENT
        for twice in deaths(once, tmp_path / "twice", whole):
            workspace, outcome = opened(memory, twice)
            assert workspace.view.read(ino, 0, END) == CONTENT
            assert workspace.view.inode(ino).blocks == 8 * 5
            count += 1
            if outcome.operations:  # the control log is told: whoever comes begins behind the marker
                again, _ = opened(memory, twice, behind(workspace, outcome))
                assert again.view.read(ino, 0, END) == CONTENT
    assert count > 20


def test_what_is_written_behind_a_part_stays(tmp_path: Path) -> None:
    """A successor that finds a part of what was written again goes on with what it knows, and others with that."""
    memory, ino, whole = made(tmp_path)
    for once in deaths(memory.env, tmp_path / "once", whole):
        workspace, _ = opened(memory, once)
        workspace.view.write(ino, 100, b"later", ME)
        for _ in range(2):
            workspace, _ = opened(memory, once)
            assert workspace.view.read(ino, 0, END) == CONTENT[:100] + b"later" + CONTENT[105:]
