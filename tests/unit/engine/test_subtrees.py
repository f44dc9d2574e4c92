"""Removing and cloning whole trees in parts, with everything else going on in between."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable

import pytest

from cowfs import subtrees
from cowfs.errors import Busy
from cowfs.view import acl
from cowfs.view.inode import NOW, SetAttr
from tests.support.lab import ME, Lab
from tests.support.model import CAPABILITY

FILES = 60


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subtrees, "STEP", 5)
    monkeypatch.setattr(subtrees, "PART", 10)


@pytest.fixture
def tree(lab: Lab) -> Lab:
    """``ws`` with a/ of FILES files, and as many again in a/z."""
    files = lab.files("ws")
    files.mkdir("a")
    files.mkdir("a/z")
    for number in range(FILES):
        files.write(f"a/{number}", b"%d" % number)
        files.write(f"a/z/{number}", b"z%d" % number)
    return lab


def between(lab: Lab, monkeypatch: pytest.MonkeyPatch, act: Callable[[], object], after: int = 2) -> None:
    """Have ``act`` done before that part."""
    host, parts = lab.engine.host, itertools.count(1)

    def acting(ask: Callable[..., subtrees.Part]) -> Callable[..., subtrees.Part]:
        def asked(*arguments: object) -> subtrees.Part:
            if next(parts) == after:
                act()
            return ask(*arguments)

        return asked

    monkeypatch.setattr(host, "remove_path", acting(host.remove_path))
    monkeypatch.setattr(host, "clone_path", acting(host.clone_path))


def test_checkpoints_have_their_turn(tree: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    between(tree, monkeypatch, lambda: made.append(tree.engine.checkpoint("ws", "between").snapshot.id), after=3)
    assert tree.engine.paths.clone("ws", b"a", b"b") == 2 * FILES + 2
    tree.engine.settle()
    tree.engine.fork(made[0], "between")
    assert 0 < len(tree.files("between").names("b")) < FILES + 1
    assert tree.files("ws").names("b") == tree.files("ws").names("a")
    assert tree.files("ws").read("b/z/7") == b"z7"


@pytest.mark.parametrize("what", ["remove", "clone"])
def test_a_restore_ends_it(tree: Lab, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """What is left of it must not be done to the restored state."""
    before = tree.engine.checkpoint("ws", "before").snapshot.id
    wanted = tree.hash("ws")
    between(tree, monkeypatch, lambda: tree.engine.restore("ws", before))
    with pytest.raises(Busy, match="restored"):
        _ = tree.engine.paths.remove("ws", b"a") if what == "remove" else tree.engine.paths.clone("ws", b"a", b"b")
    assert tree.hash("ws") == wanted
    tree.reopen()
    assert tree.hash("ws") == wanted


@pytest.mark.parametrize("what", ["remove", "clone"])
def test_a_move_to_another_process_ends_it(tree: Lab, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """The journal belongs to the other one from then on."""
    tree.engine.settle()
    ident = tree.engine.workspace("ws").id

    def move() -> None:
        tree.engine.checkpoint("ws", "")
        tree.engine.settle()
        assert tree.engine.move(ident, lambda: tree.engine.host.close(ident))

    between(tree, monkeypatch, move)
    with pytest.raises(Busy):
        _ = tree.engine.paths.remove("ws", b"a") if what == "remove" else tree.engine.paths.clone("ws", b"a", b"b")
    wanted = tree.hash("ws")
    tree.reopen()
    assert tree.hash("ws") == wanted


def test_what_is_moved_away_stays(tree: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when some of it has been removed already."""
    files = tree.files("ws")
    files.mkdir("safe")
    for number in range(FILES):
        files.unlink(f"a/{number}")
    between(tree, monkeypatch, lambda: files.rename("a/z", "safe/z"))
    tree.engine.paths.remove("ws", b"a")
    assert not files.exists("a")
    assert 0 < len(files.names("safe/z")) < FILES


def test_what_is_removed_meanwhile_is_no_error(tree: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    files = tree.files("ws")

    def remove() -> None:
        for name in files.names("a/z"):
            files.unlink(f"a/z/{name}")
        files.rmdir("a/z")

    between(tree, monkeypatch, remove)
    tree.engine.paths.remove("ws", b"a")
    assert files.names() == []


def test_attributes_that_a_copy_could_lose(lab: Lab) -> None:
    """A change of owner takes capabilities away, and a default ACL of the target's directory would be inherited."""
    files = lab.files("ws")
    files.mkdir("in")
    files.mkdir("in/d")
    ino = files.create("in/d/f", 0o755)
    files.set("in/d/f", uid=7, gid=8, mode=0o4755)
    files.view.setxattr(ino, CAPABILITY, b"cap", 0, ME)
    files.set("in/d/f", mtime=5, atime=NOW)
    files.mkdir("out", 0o2775)
    named = acl.encode([(1, 7, 0xFFFFFFFF), (2, 7, 5), (4, 5, 0xFFFFFFFF), (16, 7, 0xFFFFFFFF), (32, 5, 0xFFFFFFFF)])
    files.view.setxattr(files.ino("out"), acl.DEFAULT, named, 0, ME)
    lab.engine.paths.clone("ws", b"in/d", b"out/d")
    for path in ("d", "d/f"):
        one, other = files.inode(f"in/{path}"), files.inode(f"out/{path}")
        assert (one.mode, one.uid, one.gid, one.mtime, one.xattrs) == (
            other.mode, other.uid, other.gid, other.mtime, other.xattrs,
        )  # fmt: skip
    assert files.inode("out/d/f").xattrs == {CAPABILITY: b"cap"}


def test_a_file_in_very_many_pieces(lab: Lab) -> None:
    """It is copied in steps, too, and its holes stay holes."""
    files = lab.files("ws")
    ino = files.create("f")
    for number in range(200):
        files.view.write(ino, number * 8192, b"x" * 4096, ME)
    files.view.setattr(ino, SetAttr(size=200 * 8192), ME)
    lab.engine.paths.clone("ws", b"f", b"g")
    assert files.read("g") == files.read("f")
    assert files.inode("g").blocks == files.inode("f").blocks == 200 * 8
    assert files.view.seek(files.ino("g"), 4096, 4) == 4096
    with pytest.raises(OSError, match="such device") as caught:
        files.view.seek(files.ino("g"), 199 * 8192 + 4096, 3)
    assert caught.value.errno == errno.ENXIO
