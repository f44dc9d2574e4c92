"""fork, remove, rename, lineage and diff of several workspaces."""

import pytest

from cowfs.errors import Conflict, Invalid, NotFound
from cowfs.results import Change
from tests.support.lab import STEPS, Lab


@pytest.mark.parametrize("step", STEPS)
def test_neither_side_sees_the_other(lab: Lab, step: str) -> None:
    lab.files("ws").write("shared", b"shared" * 1000)
    lab.files("ws").mkdir("d")
    before = lab.hash("ws")
    made = lab.engine.fork("ws", "fork")
    assert [each.name for each in made] == ["fork"]
    lab.do(step)
    assert lab.hash("fork") == before
    lab.files("ws").write("shared", b"parent", 100)
    lab.files("ws").write("d/parent", b"p")
    lab.files("fork").write("shared", b"child", 3000)
    lab.files("fork").unlink("shared")
    lab.files("fork").write("d/child", b"c")
    lab.do(step)
    assert lab.files("ws").names("d") == ["parent"]
    assert lab.files("fork").names("d") == ["child"]
    assert lab.files("ws").read("shared")[100:106] == b"parent"
    assert not lab.files("fork").exists("shared")


@pytest.mark.parametrize("step", STEPS)
def test_a_fork_of_a_fork_of_an_unsettled_parent(lab: Lab, step: str) -> None:
    hashes = {}
    name = "ws"
    for generation in range(4):
        files = lab.files(name)
        files.write("log", b"%d" % generation * 3000, generation * 2500)
        files.mkdir(f"g{generation}")
        if generation:
            files.rmdir(f"g{generation - 1}")
        hashes[name] = lab.hash(name)
        lab.engine.fork(name, f"fork-{generation}")
        name = f"fork-{generation}"
    lab.do(step)
    for each, expected in hashes.items():
        assert lab.hash(each) == expected
    assert lab.hash(name) == hashes["fork-2"]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_the_parent_goes_first(lab: Lab, step: str, when: str) -> None:
    lab.files("ws").write("file", b"bytes" * 50_000)
    lab.engine.checkpoint("ws", "1", label="one")
    lab.files("ws").write("file", b"more", 10)
    lab.engine.fork("ws", "child")
    lab.engine.fork("ws@one", "elder")
    child, elder = lab.hash("child"), lab.hash("elder")
    if when == "before":
        lab.do(step)
    lab.engine.remove("ws")
    if when == "after":
        lab.do(step)
    with pytest.raises(NotFound):
        lab.engine.workspace("ws")
    assert (lab.hash("child"), lab.hash("elder")) == (child, elder)
    lab.files("child").write("file", b"goes on", 1000)
    after = lab.hash("child")
    lab.engine.settle()
    lab.reopen()
    assert (lab.hash("child"), lab.hash("elder")) == (after, elder)
    lab.engine.create("ws")  # the name is free, its past is not there
    assert lab.engine.log("ws") == []
    assert lab.files("ws").names() == []


def test_many_forks_are_made_or_none(lab: Lab) -> None:
    lab.engine.create("try-3")
    with pytest.raises(Conflict):
        lab.engine.fork("ws", "try", count=5)
    assert [each.name for each in lab.engine.list()] == ["try-3", "ws"]
    made = lab.engine.fork("ws", "go", count=5)
    assert [each.name for each in made] == [f"go-{n}" for n in range(1, 6)]
    lab.kill()
    assert len(lab.engine.list()) == 7
    for bad in ("", "a/b", ".", "x" * 300):
        with pytest.raises(Invalid):
            lab.engine.fork("ws", bad)


def test_an_idle_fork_owns_no_journal(lab: Lab) -> None:
    lab.files("ws").write("a", b"a")
    (fork,) = lab.engine.fork("ws", "idle")
    lab.files("idle").read("a")
    lab.engine.checkpoint("idle", "nothing")
    assert not (lab.path / "journals" / fork.id).exists()


@pytest.mark.parametrize("step", STEPS)
def test_restore_to_an_ancestor_before_the_fork_point(lab: Lab, step: str) -> None:
    lab.files("ws").write("a", b"1")
    lab.engine.checkpoint("ws", "1", label="one")
    one = lab.hash("ws")
    lab.files("ws").write("b", b"2")
    lab.engine.checkpoint("ws", "2", label="two")
    lab.engine.fork("ws@two", "fork")
    lab.files("ws").write("c", b"3")
    late = lab.engine.checkpoint("ws", "3", label="three").snapshot.id
    numbers = {lab.files("fork").create(f"f{i}") for i in range(3)}
    lab.do(step)
    lab.engine.restore("fork", "@one")
    assert lab.hash("fork") == one
    lab.do(step)
    assert lab.hash("fork") == one
    assert lab.files("fork").create("new") > max(numbers)
    with pytest.raises((Conflict, NotFound)):
        lab.engine.restore("fork", late)
    assert [each.message for each in lab.engine.log("fork") if not each.automatic] == ["2", "1"]
    lab.engine.undo("fork")
    assert lab.files("fork").names() == ["a", "b", "f0", "f1", "f2"]


def test_a_removed_workspace_leaves_no_journal(lab: Lab) -> None:
    lab.files("ws").write("a", b"a" * 100)
    lab.engine.remove("ws")
    assert list((lab.path / "journals").iterdir()) == []


def test_journals_of_a_removal_that_was_killed_are_swept(lab: Lab) -> None:
    folder = lab.path / "journals" / "wsp-gone"
    folder.mkdir()
    (folder / "0000000016.journal").write_bytes(b"whatever")
    lab.reopen()
    assert not folder.exists()


def test_removing_a_snapshot_keeps_what_needs_it(lab: Lab) -> None:
    for step in range(4):
        lab.files("ws").write("f", b"%d" % step * 100, step * 50)
        lab.engine.checkpoint("ws", str(step), label=f"s{step}")
    state = lab.hash("ws")
    lab.engine.remove("ws@s1")
    lab.engine.remove("ws@s3")
    lab.kill()
    assert lab.hash("ws") == state
    lab.engine.settle()
    lab.reopen()
    assert lab.hash("ws") == state
    assert [each.message for each in lab.engine.log("ws")] == ["2", "0"]
    assert lab.engine.log("ws")[0].parent == lab.engine.log("ws")[1].id
    lab.engine.restore("ws", "@s0")
    assert lab.files("ws").read("f") == b"0" * 100


def test_rename_keeps_everything_but_the_name(lab: Lab) -> None:
    lab.files("ws").write("a", b"a")
    lab.engine.checkpoint("ws", "1", label="one")
    state, log = lab.hash("ws"), lab.engine.log("ws")
    lab.engine.create("taken")
    with pytest.raises(Conflict):
        lab.engine.rename("ws", "taken")
    lab.engine.rename("ws", "new")
    lab.kill()
    assert lab.hash("new") == state
    assert [each.id for each in lab.engine.log("new")] == [each.id for each in log]
    with pytest.raises(NotFound):
        lab.engine.workspace("ws")


@pytest.mark.parametrize("step", STEPS)
def test_diff(lab: Lab, step: str) -> None:
    files = lab.files("ws")
    for name in ("same", "gone", "modified", "mode", "old"):
        files.write(name, name.encode() * 10)
    files.mkdir("dir")
    files.write("dir/in", b"in")
    lab.engine.checkpoint("ws", "1", label="one")
    files.unlink("gone")
    files.write("modified", b"X")
    files.set("mode", mode=0o600)
    files.rename("old", "dir/new")
    files.write("added", b"a")
    files.write("same", b"same")  # equal bytes, another mtime
    lab.do(step)
    expected = [
        Change("added", b"added"),
        Change("renamed", b"dir/new", b"old"),
        Change("removed", b"gone"),
        Change("metadata", b"mode"),
        Change("modified", b"modified"),
        Change("metadata", b"same"),
    ]
    assert lab.engine.diff("ws@one", "ws") == expected
    lab.engine.checkpoint("ws", "2", label="two")
    lab.do(step)
    assert lab.engine.diff("ws@one", "ws@two") == expected
    assert lab.engine.diff("ws@two", "ws") == []
    back = {(each.change, each.path, each.old_path) for each in lab.engine.diff("ws@two", "ws@one")}
    assert ("removed", b"added", None) in back
    assert ("renamed", b"old", b"dir/new") in back


@pytest.mark.parametrize("step", STEPS)
def test_diff_of_forks_goes_by_path_above_their_ancestor(lab: Lab, step: str) -> None:
    lab.files("ws").write("common", b"c")
    lab.engine.fork("ws", "fork")
    lab.files("ws").write("x", b"of the parent")  # the same new number on both sides
    lab.files("fork").write("y", b"of the fork")
    lab.files("ws").write("both", b"equal")
    lab.files("fork").write("both", b"unequal")
    lab.do(step)
    assert lab.engine.diff("ws", "fork") == [
        Change("modified", b"both"),
        Change("removed", b"x"),
        Change("added", b"y"),
    ]


def test_diff_survives_dropped_layers(lab: Lab) -> None:
    for step in range(4):
        lab.files("ws").write("f", b"%d" % step)
        lab.engine.checkpoint("ws", str(step), label=f"s{step}")
    lab.engine.fork("ws", "fork")
    lab.files("fork").write("g", b"g")
    lab.engine.checkpoint("fork", "g")
    lab.engine.settle()
    for label in ("s1", "s2", "s3"):
        lab.engine.remove(f"ws@{label}")
    lab.engine.remove("ws")
    assert lab.engine.diff("fork@latest", "fork") == []
    lab.reopen()
    lab.files("fork").write("f", b"changed")
    assert lab.engine.diff("fork@latest", "fork") == [Change("modified", b"f")]


def test_show_reads_any_reference(lab: Lab) -> None:
    lab.files("ws").mkdir("etc")
    lab.files("ws").write("etc/f", b"old" * 500_000)
    lab.engine.checkpoint("ws", "1", label="one")
    lab.files("ws").write("etc/f", b"NEW")
    assert b"".join(lab.engine.show("ws@one", b"etc/f")) == b"old" * 500_000
    assert b"".join(lab.engine.show("ws", b"/etc/f"))[:5] == b"NEWol"
    lab.kill()
    assert b"".join(lab.engine.show("ws@one", b"etc/f")) == b"old" * 500_000
    for path in (b"etc/none", b"none/f", b"etc/../etc/f", b"etc/f/x"):
        with pytest.raises(NotFound):
            list(lab.engine.show("ws", path))
    with pytest.raises(Invalid):
        list(lab.engine.show("ws", b"etc"))
