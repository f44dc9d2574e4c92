"""checkpoint, restore and undo: what the state is afterwards, now, after a stop and after a kill."""

import errno

import pytest

from cowfs.errors import Conflict, Invalid, NotFound
from tests.support.lab import ME, STEPS, Lab
from tests.support.treehash import TreeHash


@pytest.fixture(params=STEPS)
def step(request: pytest.FixtureRequest) -> str:
    """What happens to the store between a verb and a look."""
    return str(request.param)


def populate(lab: Lab, name: str = "ws") -> None:
    files = lab.files(name)
    files.mkdir("dir", 0o2775)
    files.write("dir/small", b"small")
    files.write("dir/large", bytes(range(256)) * 1200)
    files.write("dir/sparse", b"end", 1_000_003)
    files.symlink("link", b"dir/small")
    files.link("dir/small", "hard")
    files.view.setxattr(files.ino("dir"), b"user.x", b"value", 0, ME)
    files.view.mknod(1, b"null", 0o20666, 0x103, ME)
    files.view.mknod(1, b"pipe", 0o10600, 0, ME)


def wreck(lab: Lab, name: str = "ws") -> None:
    files = lab.files(name)
    files.unlink("hard")
    files.write("dir/small", b"SMALLER?", 2)
    files.set("dir/large", size=5000)
    files.write("dir/large", b"tail", 400_000)
    files.rename("dir/sparse", "moved")
    files.unlink("link")
    files.mkdir("link")
    files.write("link/new", b"new")
    files.set("dir", mode=0o700, uid=5)
    files.unlink("pipe")


def test_a_restore_gives_back_everything(lab: Lab, step: str) -> None:
    populate(lab)
    made = lab.engine.checkpoint("ws", "before", label="good")
    before = lab.hash("ws")
    assert made.changed
    assert made.snapshot.labels == ("good",)
    lab.do(step)
    assert lab.hash("ws") == before
    wreck(lab)
    wrecked = lab.hash("ws")
    lab.do(step)
    assert lab.hash("ws") == wrecked
    done = lab.engine.restore("ws", "@good")
    assert done.snapshot.id == made.snapshot.id
    assert done.undo is not None
    assert done.undo.automatic
    assert lab.hash("ws") == before
    lab.do(step)
    assert lab.hash("ws") == before
    undone = lab.engine.undo("ws")
    assert lab.hash("ws") == wrecked
    lab.do(step)
    assert lab.hash("ws") == wrecked
    assert undone.undo is not None
    lab.engine.undo("ws")
    assert lab.hash("ws") == before


def test_a_checkpoint_of_nothing_returns_the_head(lab: Lab, step: str) -> None:
    first = lab.engine.checkpoint("ws", "first")
    assert first.changed  # a workspace without a head gets one
    lab.do(step)
    again = lab.engine.checkpoint("ws", "again", label="name")
    assert not again.changed
    assert again.snapshot.id == first.snapshot.id
    assert again.snapshot.labels == ("name",)
    assert again.snapshot.message == "first"
    fresh = lab.engine.checkpoint("ws", "empty", allow_empty=True)
    assert fresh.changed
    assert fresh.snapshot.parent == first.snapshot.id
    lab.do(step)
    assert [each.id for each in lab.engine.log("ws")] == [fresh.snapshot.id, first.snapshot.id]


def test_a_snapshot_keeps_what_it_was_given(lab: Lab, step: str) -> None:
    lab.files("ws").create("a")
    made = lab.engine.checkpoint("ws", "Größe \N{SNOWMAN}", label="a.b-c_1", creator="me").snapshot
    lab.do(step)
    seen = lab.engine.snapshot("ws@a.b-c_1")
    assert (seen.id, seen.message, seen.labels, seen.creator, seen.automatic, seen.created_at, seen.parent) == (
        made.id, "Größe \N{SNOWMAN}", ("a.b-c_1",), "me", False, made.created_at, None,
    )  # fmt: skip
    assert seen.workspace == "ws"


def test_labels_are_unique_and_move(lab: Lab) -> None:
    lab.files("ws").create("a")
    first = lab.engine.checkpoint("ws", "1", label="x").snapshot
    lab.files("ws").create("b")
    with pytest.raises(Conflict):
        lab.engine.checkpoint("ws", "2", label="x")
    assert lab.engine.log("ws")[0].id == first.id, "a refused label must not leave a snapshot"
    second = lab.engine.checkpoint("ws", "2", label="x", move=True).snapshot
    assert lab.engine.snapshot("ws@x").id == second.id
    with pytest.raises(Conflict):
        lab.engine.label(first.id, "x")
    lab.engine.label(first.id, "x", move=True)
    assert lab.engine.snapshot("ws@x").id == first.id
    for bad in ("latest", "-x", "", "a/b", "a b"):
        with pytest.raises(Invalid):
            lab.engine.checkpoint("ws", "3", label=bad)


def test_back_and_forth_through_a_line(lab: Lab, step: str) -> None:
    hashes: list[tuple[str, TreeHash]] = []
    for turn in range(4):
        files = lab.files("ws")
        files.write("same", b"%d" % turn * 5000, turn * 1000)
        files.write(f"only-{turn}", b"x")
        if turn:
            files.unlink(f"only-{turn - 1}")
        made = lab.engine.checkpoint("ws", str(turn))
        hashes.append((made.snapshot.id, lab.hash("ws")))
    lab.do(step)
    for index in (0, 3, 1, 2, 0, 2):
        snapshot, expected = hashes[index]
        assert lab.engine.restore("ws", snapshot).undo is not None
        assert lab.hash("ws") == expected
        if index == 1:
            lab.do(step)
            lab.files("ws").write("branch", b"new line")
            assert lab.engine.checkpoint("ws", "branch").snapshot.parent == snapshot
    lab.do(step)
    assert lab.hash("ws") == hashes[2][1]


def test_inode_numbers_are_never_used_again(lab: Lab, step: str) -> None:
    lab.engine.checkpoint("ws", "empty", label="empty")
    seen: set[int] = set()
    for name in "abc":
        files = lab.files("ws")
        numbers = {files.create(name), files.mkdir(name + "d"), files.symlink(name + "l", b"t")}
        files.unlink(name)
        assert not numbers & seen
        seen |= numbers
        lab.engine.restore("ws", "@empty", discard=name == "b")
        lab.do(step)
    assert lab.files("ws").names() == []
    assert lab.files("ws").create("new") > max(seen)


def test_an_inode_of_the_other_state_is_stale(lab: Lab) -> None:
    lab.files("ws").create("old")
    lab.engine.checkpoint("ws", "1", label="one")
    new = lab.files("ws").write("new", b"data")
    lab.engine.restore("ws", "@one")
    view = lab.workspace("ws").view
    for call in (lambda: view.inode(new), lambda: view.read(new, 0, 1), lambda: view.write(new, 0, b"x", ME)):
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.errno == errno.ESTALE


def test_discard_keeps_nothing(lab: Lab) -> None:
    lab.files("ws").write("a", b"1")
    lab.engine.checkpoint("ws", "1", label="one")
    before = lab.hash("ws")
    lab.files("ws").write("a", b"2")
    done = lab.engine.restore("ws", "@one", discard=True)
    assert done.undo is None
    assert lab.hash("ws") == before
    assert len(lab.engine.log("ws")) == 1
    with pytest.raises(NotFound):
        lab.engine.undo("ws")


def test_a_restore_after_the_head_was_removed_can_be_undone(lab: Lab, step: str) -> None:
    lab.files("ws").write("a", b"1")
    lab.engine.checkpoint("ws", "1", label="one")
    lab.files("ws").write("a", b"2")
    head = lab.engine.checkpoint("ws", "2").snapshot.id
    state = lab.hash("ws")
    lab.engine.remove(head)
    lab.do(step)
    done = lab.engine.restore("ws", "@one")
    assert done.undo is not None
    lab.do(step)
    lab.engine.undo("ws")
    assert lab.hash("ws") == state


def test_a_restore_says_what_changed(lab: Lab) -> None:
    populate(lab)
    lab.engine.checkpoint("ws", "1", label="one")
    assert lab.engine.restore("ws", "@one").changed_inodes == 0
    lab.files("ws").write("dir/small", b"other")
    lab.files("ws").create("fresh")
    assert lab.engine.restore("ws", "@one").changed_inodes == 3  # the file, the new one, the root directory


def test_refusals_change_nothing(lab: Lab) -> None:
    populate(lab)
    lab.engine.checkpoint("ws", "1")
    lab.engine.fork("ws", "other")
    lab.files("other").create("x")
    foreign = lab.engine.checkpoint("other", "2").snapshot.id
    before = lab.hash("ws"), lab.engine.log("ws")
    with pytest.raises(Conflict):
        lab.engine.restore("ws", foreign)
    for unknown in ("@nothing", "snap-999999", "@-7"):
        with pytest.raises(NotFound):
            lab.engine.restore("ws", unknown)
    with pytest.raises(NotFound):
        lab.engine.checkpoint("nowhere", "m")
    with pytest.raises(Invalid):
        lab.engine.checkpoint("ws", "m" * 70_000)
    assert (lab.hash("ws"), lab.engine.log("ws")) == before
