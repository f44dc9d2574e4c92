"""One owner, damaged and newer stores, freezing by size, journals that go when nothing needs them."""

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import xxhash

from cowfs import workspace as module
from cowfs.catalog.log import LOG
from cowfs.engine import Engine
from cowfs.errors import Busy, Conflict, Corrupt, CowfsError, Invalid, NotFound
from cowfs.formats.superblock import decode_superblock
from cowfs.geometry import Geometry
from cowfs.layers.journal import Limits
from tests.support.lab import ME, Ids, Lab, Ticks


def open_store(path: Path) -> Engine:
    return Engine.open(path, Ticks(), Ids(10_000))


def test_a_second_owner_is_refused_and_told_whom_to_ask(lab: Lab) -> None:
    lab.files("ws").create("a")
    before = lab.hash("ws")
    with pytest.raises(Busy, match=f"process {os.getpid()}"):
        open_store(lab.path)
    code = "import sys; from pathlib import Path; from cowfs.store import StoreDirectory\n"
    code += "StoreDirectory.open(Path(sys.argv[1])).lock()"
    other = subprocess.run([sys.executable, "-c", code, lab.path], capture_output=True, text=True, cwd=os.getcwd())
    assert f"process {os.getpid()}" in other.stderr
    assert lab.hash("ws") == before


def test_a_store_that_cannot_be_opened_is_let_go_of(lab: Lab) -> None:
    lab.engine.close()
    log = next((lab.path / "control").iterdir())
    good = log.read_bytes()
    log.write_bytes(b"\0" * len(good))
    for _ in range(2):  # a second try finds the same, not a lock of the first
        with pytest.raises(Corrupt):
            open_store(lab.path)
    log.write_bytes(good)
    lab.engine = lab.open()


def test_places_that_are_no_store(tmp_path: Path, lab: Lab) -> None:
    with pytest.raises(NotFound):
        open_store(tmp_path / "nowhere")
    (tmp_path / "file").write_bytes(b"")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(Invalid):
            open_store(place)
        with pytest.raises(Invalid):
            Engine.create_store(place, Ticks(), bytes(16))
    with pytest.raises(Conflict):
        Engine.create_store(lab.path, Ticks(), bytes(16))
    with pytest.raises(Conflict):
        Engine.create_store(tmp_path, Ticks(), bytes(16))


@pytest.mark.parametrize("part", ["control", "segments", "journals", "tmp"])
def test_a_store_that_lacks_a_part(tmp_path: Path, part: str) -> None:
    Engine.create_store(tmp_path / "s", Ticks(), bytes(16))
    shutil.rmtree(tmp_path / "s" / part)
    with pytest.raises(Corrupt, match=part):
        open_store(tmp_path / "s")


def test_a_damaged_superblock_and_one_of_a_newer_version(tmp_path: Path) -> None:
    path = tmp_path / "s"
    Engine.create_store(path, Ticks(), bytes(16), Geometry(key_bits=20))
    place = path / "superblock"
    good = place.read_bytes()
    assert decode_superblock(good).geometry == Geometry(key_bits=20)
    for at in range(0, len(good), 3):
        place.write_bytes(good[:at] + bytes([good[at] ^ 0x20]) + good[at + 1 :])
        with pytest.raises(Corrupt):
            open_store(path)
    newer = good[:8] + (9).to_bytes(4, "little") * 2 + good[16:56]
    place.write_bytes(newer + xxhash.xxh3_64_intdigest(newer).to_bytes(8, "little"))
    with pytest.raises(Corrupt, match="format version 9"):
        open_store(path)
    place.write_bytes(good)
    open_store(path).close()


def test_one_damaged_journal_makes_one_workspace_read_only(lab: Lab) -> None:
    lab.engine.create("other")
    for name in ("ws", "other"):
        lab.files(name).write("f", b"data" * 100)
    lab.workspace("ws").sync()
    lab.files("ws").create("behind")
    state = lab.hash("other")
    folder = lab.path / "journals" / lab.engine.workspace("ws").id
    lab.engine.close()
    (path,) = folder.iterdir()
    good = path.read_bytes()
    path.write_bytes(good[:100] + bytes([good[100] ^ 1]) + good[101:])
    lab.engine = lab.open()
    assert lab.hash("other") == state
    lab.engine.checkpoint("other", "goes on")
    assert lab.files("ws").names() == []
    with pytest.raises(OSError, match="Read-only"):
        lab.files("ws").create("new")
    damage = f"{folder.name}/{path.name}, byte 64"
    assert {each.name: damage in (each.damage or "") for each in lab.engine.list()} == {"ws": True, "other": False}
    assert [damage in problem.what for problem in lab.engine.fsck()] == [True]
    empty = lab.engine.checkpoint("ws", "what is left").snapshot.id
    with pytest.raises(Corrupt, match=damage):
        lab.engine.restore("ws", empty)
    lab.engine.fork("ws", "next")
    lab.files("next").create("goes-on")
    lab.engine.settle()
    assert path.read_bytes() == good[:100] + bytes([good[100] ^ 1]) + good[101:], "what fsck looks at stays as it is"
    lab.engine.close()
    path.write_bytes(good)
    lab.engine = lab.open()
    assert lab.files("ws").names() == ["behind", "f"]
    path.write_bytes(good[:100] + bytes([good[100] ^ 1]) + good[101:])
    lab.engine.close()
    lab.engine = lab.open()
    lab.engine.remove("ws")  # a damaged workspace can go
    assert not folder.exists()


def test_a_damaged_layer_does_not_keep_others_from_settling(lab: Lab) -> None:
    lab.engine.create("other")
    lab.files("ws").write("f", b"data" * 100)
    lab.engine.checkpoint("ws", "m")
    lab.files("other").write("f", b"data" * 100)
    lab.engine.checkpoint("other", "m")
    folder = lab.path / "journals" / lab.engine.workspace("ws").id
    (path,) = folder.iterdir()
    good = path.read_bytes()
    path.write_bytes(good[:100] + bytes([good[100] ^ 1]) + good[101:])
    for _ in range(2):
        with pytest.raises(Corrupt):
            lab.engine.settle()
    assert lab.engine.log("other")[0].state == "settled"
    assert lab.engine.log("ws")[0].state == "frozen"
    path.write_bytes(good)
    lab.engine.settle()
    assert lab.engine.log("ws")[0].state == "settled"


def test_a_large_live_layer_is_frozen_by_itself(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LIVE_INODES_MAX", 50)
    for number in range(120):
        lab.files("ws").create(f"f{number}")
        lab.engine.settle_next()
    assert lab.workspace("ws").statistics().view.live < 60
    assert lab.engine.log("ws") == []
    state = lab.hash("ws")
    lab.kill()
    assert lab.hash("ws") == state
    made = lab.engine.checkpoint("ws", "m")
    assert made.changed, "what was frozen by itself still belongs into a snapshot"
    lab.files("ws").unlink("f0")
    lab.engine.restore("ws", made.snapshot.id)
    assert lab.hash("ws") == state


def test_a_long_live_journal_is_frozen_by_itself(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LIVE_BYTES_MAX", 100_000)
    for number in range(30):
        lab.files("ws").write("same", b"x" * 10_000, number * 1000)
        lab.engine.settle_next()
    assert lab.workspace("ws").journal.layer_bytes() < 120_000
    state = lab.hash("ws")
    lab.kill()
    assert lab.hash("ws") == state


def test_settled_journals_go_and_needed_ones_stay(tmp_path: Path) -> None:
    lab = Lab(tmp_path / "s", limits=Limits(file_records=4))
    lab.engine.create("ws")
    for turn in range(6):
        for number in range(3):
            lab.files("ws").write(f"f{number}", b"%d" % turn * 100)
        lab.engine.checkpoint("ws", str(turn), label=f"t{turn}")
    assert len(lab.journal_files("ws")) > 5
    lab.engine.fork("ws@t3", "fork")
    lab.files("fork").write("f1", b"fork")
    states = {name: lab.hash(name) for name in ("ws", "fork")}
    while lab.engine.settle_next():
        assert {name: lab.hash(name) for name in states} == states
        lab.kill()
        assert {name: lab.hash(name) for name in states} == states
    assert len(lab.journal_files("ws")) == 1, "only the one that the live layer begins in"
    for turn in range(6):
        lab.engine.restore("ws", f"@t{turn}")
        assert lab.files("ws").read("f2") == b"%d" % turn * 100
    lab.close()


def test_an_open_orphan_is_read_to_its_end(lab: Lab) -> None:
    files = lab.files("ws")
    ino = files.write("f", b"unlinked" * 10_000)
    files.view.opened(ino, True, ME)
    files.unlink("f")
    lab.engine.checkpoint("ws", "1", label="one")
    lab.engine.settle()
    assert files.view.read(ino, 8, 8) == b"unlinked"
    assert files.view.write(ino, 0, b"STILL", ME) == 5
    lab.engine.checkpoint("ws", "2", allow_empty=True)
    lab.engine.settle()
    assert files.view.read(ino, 0, 8) == b"STILLked"
    assert lab.files("ws").names() == []
    files.view.released(ino, True, ME)
    with pytest.raises(OSError, match="Stale"):
        files.view.read(ino, 0, 1)
    assert lab.engine.diff("ws@one", "ws") == []


@pytest.mark.parametrize("step", ["", "settle"])
def test_a_file_without_a_name_gets_one_in_a_later_layer(lab: Lab, step: str) -> None:
    view = lab.files("ws").view
    ino = view.tmpfile(1, 0o600, ME).ino
    view.opened(ino, True, ME)
    content = os.urandom(3 * 1024 * 1024 + 5)
    view.write(ino, 0, content[:100_000], ME)
    lab.engine.checkpoint("ws", "1", allow_empty=True)
    lab.do(step)
    view.write(ino, 2_000_000, content[2_000_000:], ME)
    view.write(ino, 100_000, content[100_000:2_000_000], ME)
    view.setxattr(ino, b"user.x", b"kept", 0, ME)
    lab.engine.checkpoint("ws", "2", allow_empty=True)
    lab.do(step)
    view.link(ino, 1, b"named", ME)
    state = lab.hash("ws")
    for after in ("kill", "settle kill", "kill settle"):
        lab.do(after)
        assert lab.hash("ws") == state
        assert lab.files("ws").read("named") == content
        assert lab.files("ws").view.getxattr(ino, b"user.x") == b"kept"
    lab.engine.checkpoint("ws", "3")
    lab.do("settle kill")
    assert lab.hash("ws") == state


def test_verbs_of_several_workspaces_at_once(lab: Lab) -> None:
    names = [each.name for each in lab.engine.fork("ws", "t", count=4)]
    problems: list[BaseException] = []

    def work(name: str) -> None:
        try:
            for turn in range(8):
                lab.files(name).write("f", b"%d" % turn * 2000)
                lab.engine.checkpoint(name, str(turn))
                if turn % 3 == 2:
                    lab.engine.restore(name, f"{name}@-2")
                    assert lab.files(name).read("f") == b"%d" % (turn - 1) * 2000
                lab.engine.fork(name, f"{name}-{turn}")
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        lab.engine.settle_next()
    for thread in threads:
        thread.join()
    assert problems == []
    lab.engine.settle()
    assert len(lab.engine.list()) == 1 + 4 + 32


def test_a_snapshot_that_an_unsynced_restore_names_is_kept(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.files("ws").create("a")
    one = lab.engine.checkpoint("ws", "1").snapshot.id
    lab.files("ws").create("b")
    journal = lab.workspace("ws").journal
    with monkeypatch.context() as patch:

        def fail(_: int) -> None:
            raise OSError(5, "lost")

        patch.setattr(os, "fdatasync", fail)
        with pytest.raises(OSError):
            lab.engine.restore("ws", one)
    assert journal is lab.workspace("ws").journal
    with pytest.raises(Busy):
        lab.engine.remove(one)
    lab.kill()
    assert lab.files("ws").names() == ["a"]
    lab.engine.remove(one)
    assert lab.files("ws").names() == ["a"]


def test_a_full_disk_does_not_keep_snapshots_from_being_removed(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.files("ws").create("a")
    one = lab.engine.checkpoint("ws", "1").snapshot.id
    lab.files("ws").create("b")

    def full(*_: object) -> int:
        raise OSError(28, "full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", full)
        with pytest.raises((OSError, CowfsError)):
            lab.engine.checkpoint("ws", "2")
        lab.engine.remove(one)
    assert lab.engine.checkpoint("ws", "2").changed


def test_journals_of_a_workspace_that_a_damaged_control_log_forgot_are_put_away(tmp_path: Path) -> None:
    lab = Lab(tmp_path / "store")
    lab.engine.create("kept")
    lab.engine.create("forgotten")
    log = lab.path / "control" / LOG
    before = log.stat().st_size
    workspace = lab.workspace("forgotten").id
    lab.files("forgotten").create("file")
    lab.workspace("forgotten").sync()
    lab.engine.close()
    data = bytearray(log.read_bytes()[:before])
    data[-1] ^= 1  # in the entry that made it, the last one
    log.write_bytes(data)
    for _ in range(2):
        lab = Lab.existing(lab.path)
        assert [each.name for each in lab.engine.list()] == ["kept"]
        lab.engine.close()
    kept = [path.relative_to(lab.path / "quarantine") for path in (lab.path / "quarantine").rglob("*.journal")]
    assert [path.parts[:2] for path in kept] == [("journals", workspace)]
