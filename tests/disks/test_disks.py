"""Disk workspaces: a machine's disk as a file, attached here, checkpointed live, forked and restored."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cowfs.client import connect
from cowfs.client.wire import Wire
from cowfs.errors import Conflict
from cowfs.results import Workspace
from cowfs_cli.disks import making
from tests.cli.live import Live
from tests.containers.adapter import until
from tests.disks.conftest import checked, loops_of


@contextmanager
def holding(path: str, *, create: bool = False) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that has ``path`` open for writing, as a machine has its disk."""
    flags = os.O_RDWR | (os.O_CREAT if create else 0)
    code = "import os, sys; os.open(sys.argv[1], int(sys.argv[2])); print('.', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, path, str(flags)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield process
        finally:
            assert process.stdin is not None
            process.stdin.close()


@contextmanager
def storm(root: str) -> Iterator[list[str]]:
    """A thread that makes, syncs and removes files below ``root``; what it failed with."""
    stop, failures = threading.Event(), []
    begun = threading.Event()

    def run() -> None:
        number = 0
        try:
            while not stop.is_set():
                path = os.path.join(root, f"f{number % 40}")
                with open(path, "wb") as file:
                    file.write(os.urandom(5000))
                    if number % 10 == 0:
                        os.fsync(file.fileno())
                if number % 3 == 0:
                    os.unlink(path)
                number += 1
                begun.set()
        except OSError as error:
            failures.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert begun.wait(30)
        yield failures
    finally:
        stop.set()
        thread.join()


def image_of(live: Live, ref: str) -> str:
    return live.cowfs("mount", ref) + "/disk.img"


def test_it_is_made_with_the_content_of_a_workspace(live: Live, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc/passwd").write_text("root\n")
    (tree / "etc/hard").hardlink_to(tree / "etc/passwd")
    (tree / "secret").write_bytes(b"x" * 100_000)
    os.chown(tree / "secret", 1234, 1235)
    (tree / "secret").chmod(0o640)
    os.setxattr(tree / "secret", "user.note", b"kept")
    live.cowfs("import", str(tree), "ws")
    live.cowfs("checkpoint", "ws", "--label", "good")
    made = live.json("create", "vm", "--disk", "32M", "--from", "ws@good")
    assert os.stat(made["image"]).st_size == 32 << 20
    checked(made["image"])
    place = Path(live.cowfs("disk", "mount", "vm"))
    assert (place / "etc/passwd").read_text() == "root\n"
    assert (place / "etc/passwd").stat().st_ino == (place / "etc/hard").stat().st_ino
    found = (place / "secret").stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (1234, 1235, 0o640)
    assert os.getxattr(place / "secret", "user.note") == b"kept"
    assert [each["ref"] for each in live.json("list") if "ref" in each] == []
    assert {each["name"] for each in live.json("list")} == {"ws", "vm"}
    assert {each["ref"] for each in live.json("mount")} == {"vm"}, "the source is not left mounted"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--disk", "1M"], "From 8M to 16T"),
        (["--disk", "9M", "--from", "dir:/usr/share"], "larger --disk"),
        (["--disk", "64M", "--from", "dir:/no/such/place"], "not a directory"),
        (["--disk", "64M", "--from", "nowhere"], "nowhere"),
        (["--from", "ws"], "--disk"),
    ],
)
def test_what_cannot_be_made_leaves_nothing(live: Live, words: list[str], says: str) -> None:
    ended = live.run("create", "vm", *words)
    assert ended.code != 0
    assert says in ended.err
    assert live.json("list") == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("source", ["tar", "workspace", "nothing"])
def test_what_is_killed_is_in_no_one_s_way_and_does_not_stay(
    live: Live, tmp_path: Path, source: str, number: signal.Signals
) -> None:
    (tmp_path / "file").write_bytes(os.urandom(4 << 20))
    subprocess.run(["tar", "-C", tmp_path, "-cf", tmp_path / "a.tar", "file"], check=True)
    live.cowfs("import", f"tar:{tmp_path}/a.tar", "ws")
    given = {"tar": ["--from", f"tar:{tmp_path}/a.tar"], "workspace": ["--from", "ws"], "nothing": []}[source]
    with connect(live.store) as store:

        def others() -> list[Workspace]:
            return [each for each in store.workspaces() if each.name not in ("ws", "vm")]

        words = live.words("create", "vm", "--disk", "32M", *given)
        # As soon as what it reads is there, or, where it reads nothing, what it makes.
        begun = "making-" if source == "nothing" else "content-"
        with subprocess.Popen(words, env=live.env, stdout=subprocess.DEVNULL) as running:
            until(lambda: any(each.name.startswith(begun) for each in others()))
            running.send_signal(number)
            assert running.wait(30) in (-signal.SIGKILL, 128 + signal.SIGTERM)
        live.cowfs("create", "vm", "--disk", "32M")
        until(lambda: not others())
        assert "ttl" not in store.workspace("vm").info().settings
    until(lambda: not [each for each in live.mounts() if "making-" in each or "content-" in each])
    checked(image_of(live, "vm"))


def test_a_name_that_is_taken_is_said_and_what_has_it_is_left(disk: Live) -> None:
    before = os.stat(image_of(disk, "vm")).st_ino
    assert disk.run("create", "vm", "--disk", "32M").code == 4
    assert os.stat(image_of(disk, "vm")).st_ino == before
    assert disk.run("create", "-x", "--disk", "32M").code == 2
    assert [each["name"] for each in disk.json("list")] == ["vm"]


def test_nobody_can_change_what_a_disk_is_made_of(live: Live, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs in a live workspace could put a link to a file of this machine where mke2fs has just seen a file."""
    (tmp_path / "secret").write_text("the host's")
    live.cowfs("create", "ws")
    own = Path(live.cowfs("path", "ws"))
    (own / "file").write_text("its own")
    real = making.format_image

    def format_image(image: str, root: str | None, label: str) -> None:
        (own / "link").symlink_to(tmp_path / "secret")
        os.replace(own / "link", own / "file")
        assert root is not None
        assert not os.path.islink(os.path.join(root, "file"))
        real(image, root, label)

    monkeypatch.setattr(making, "format_image", format_image)
    with connect(live.store) as store:
        making.make(store, "vm", 32 << 20, "ws")
    assert (Path(live.cowfs("disk", "mount", "vm")) / "file").read_text() == "its own"
    assert [each["name"] for each in live.json("list")] == ["vm", "ws"]


def test_a_live_checkpoint_is_a_clean_filesystem_with_everything(disk: Live) -> None:
    place = Path(disk.cowfs("disk", "mount", "vm"))
    (place / "d").mkdir()
    with storm(str(place / "d")) as failures:
        for number in range(4):
            (place / "marker").write_text(str(number))  # not synced: freezing writes it out
            disk.cowfs("checkpoint", "vm", "--label", f"c{number}")
        disk.cowfs("fork", "vm", "live-fork")
    assert not failures
    for number in range(4):
        checked(image_of(disk, f"vm@c{number}"))
        frozen = Path(disk.cowfs("disk", "mount", f"vm@c{number}"))
        assert (frozen / "marker").read_text() == str(number)
        with pytest.raises(OSError, match="Read-only"):
            (frozen / "new").touch()
    checked(image_of(disk, "live-fork"))
    fork = Path(disk.cowfs("disk", "mount", "live-fork"))
    assert (fork / "marker").read_text() == "3"
    (fork / "marker").write_text("fork")
    assert (place / "marker").read_text() == "3"
    assert len(disk.json("disk", "list")) == 6


def test_restore_is_busy_while_attached_and_disk_restore_does_it(disk: Live) -> None:
    place = Path(disk.cowfs("disk", "mount", "vm"))
    (place / "file").write_text("one")
    disk.cowfs("checkpoint", "vm", "--label", "one")
    (place / "file").write_text("two")
    (place / "new").touch()
    ended = disk.run("restore", "vm", "@one")
    assert ended.code == 5
    assert "disk restore" in ended.err
    with open(place / "file") as file:
        ended = disk.run("disk", "restore", "vm", "@one")
        assert ended.code == 5
        assert str(os.getpid()) in ended.err
        assert file.read() == "two"
    done = disk.json("disk", "restore", "vm", "@one")
    assert sorted(os.listdir(place)) == ["file", "lost+found"]
    assert (place / "file").read_text() == "one"
    disk.cowfs("disk", "restore", "vm", done["undo"])
    assert (place / "file").read_text() == "two"
    assert disk.run("disk", "restore", "vm", "@nowhere").code == 3
    assert (place / "file").read_text() == "two", "attached again after a failure"
    disk.cowfs("disk", "umount", "vm")
    disk.cowfs("restore", "vm", "@one")
    checked(image_of(disk, "vm"))


def test_a_running_machine_keeps_others_out(disk: Live) -> None:
    image = image_of(disk, "vm")
    disk.cowfs("checkpoint", "vm", "--label", "one")
    with holding(image) as machine:
        for words in (("restore", "vm", "@one"), ("disk", "restore", "vm", "@one"), ("disk", "mount", "vm")):
            ended = disk.run(*words)
            assert ended.code == 5, words
        assert str(machine.pid) in ended.err
        disk.cowfs("checkpoint", "vm", "--label", "two", "--allow-empty")
        disk.cowfs("fork", "vm@two", "fork")
        disk.cowfs("disk", "mount", "fork")
        disk.cowfs("restore", "vm", "@one", "--force")
    disk.cowfs("restore", "vm", "@two")


def test_what_is_deleted_becomes_holes(disk: Live) -> None:
    place = Path(disk.cowfs("disk", "mount", "vm"))
    image = image_of(disk, "vm")
    empty = os.stat(image).st_blocks
    (place / "big").write_bytes(os.urandom(20 << 20))
    _sync(place)
    assert os.stat(image).st_blocks - empty >= 20 << 11
    (place / "big").unlink()
    _sync(place)
    subprocess.run(["/sbin/fstrim", str(place)], check=True)
    assert os.stat(image).st_blocks - empty < 1 << 11


def _sync(place: Path) -> None:
    subprocess.run(["sync", "-f", str(place)], check=True)


def test_a_killed_worker_is_not_noticed_inside(disk: Live) -> None:
    place = Path(disk.cowfs("disk", "mount", "vm"))
    with storm(str(place)) as failures:
        for _ in range(3):
            for worker in disk.json("daemon", "status")["workers"]:
                os.kill(worker["pid"], signal.SIGKILL)
            disk.cowfs("checkpoint", "vm")
    assert not failures
    disk.cowfs("disk", "restore", "vm", "@latest")
    disk.cowfs("disk", "umount", "vm")
    checked(image_of(disk, "vm"))


def test_a_supervisor_that_dies_while_it_is_frozen_is_followed_by_one_that_thaws(disk: Live) -> None:
    place = disk.cowfs("disk", "mount", "vm")
    subprocess.run(["/sbin/fsfreeze", "--freeze", place], check=True)
    os.kill(disk.json("daemon", "status")["supervisor"]["pid"], signal.SIGKILL)
    disk.cowfs("list")
    done = subprocess.run(["touch", place + "/thawed"], timeout=30, check=False)
    assert done.returncode == 0
    assert [each["ref"] for each in disk.json("disk", "list")] == ["vm"], "still attached"


def test_it_goes_with_its_workspace(disk: Live) -> None:
    place = Path(disk.cowfs("disk", "mount", "vm"))
    (place / "file").write_text("kept")
    with open(place / "file"):
        for words in (("umount", "vm"), ("rm", "vm"), ("disk", "umount", "vm"), ("daemon", "stop")):
            ended = disk.run(*words)
            assert ended.code == 5, words
            assert str(os.getpid()) in ended.err, words
    disk.cowfs("umount", "vm")
    assert not loops_of(disk.store)
    assert disk.run("disk", "umount", "vm").code == 3
    assert (Path(disk.cowfs("disk", "mount", "vm")) / "file").read_text() == "kept"
    disk.cowfs("daemon", "stop")
    assert not loops_of(disk.store)
    assert (Path(disk.cowfs("disk", "mount", "vm")) / "file").read_text() == "kept"
    with open(place / "file"):
        disk.cowfs("rm", "vm", "--force")
    assert disk.json("list") == []


def test_what_programs_still_use_after_force_is_not_attached_twice(disk: Live) -> None:
    place = Path(disk.cowfs("disk", "mount", "vm"))
    (place / "file").write_text("old")
    with open(place / "file") as file:
        disk.cowfs("disk", "umount", "vm", "--force")
        ended = disk.run("disk", "mount", "vm")
        assert ended.code == 5
        assert "losetup" in ended.err
        assert file.read() == "old"
    disk.cowfs("disk", "mount", "vm")
    assert (place / "file").read_text() == "old"


def test_force_restores_nothing_below_a_kernel_that_has_it(disk: Live) -> None:
    place = Path(disk.cowfs("disk", "mount", "vm"))
    disk.cowfs("checkpoint", "vm", "--label", "one")
    (place / "file").touch()
    assert disk.run("restore", "vm", "@one", "--force").code == 5
    disk.cowfs("set", "vm", "disk=")
    assert disk.run("restore", "vm", "@one").code == 5
    assert (place / "file").exists()


def test_an_unmount_that_comes_again_leaves_what_was_attached_since(disk: Live) -> None:
    disk.cowfs("disk", "mount", "vm")
    wire = Wire(str(disk.store))

    def umount(key: str) -> None:
        assert b"".join(wire.pieces("DELETE", "/v1/mounts?ref=vm", None, key)) == b""

    umount("one")
    assert not loops_of(disk.store)
    place = Path(disk.cowfs("disk", "mount", "vm"))
    (place / "file").write_text("kept")
    with open(place / "file"):
        umount("one")
    assert [each["path"] for each in disk.json("disk", "list")] == [str(place)]
    with pytest.raises(Conflict):
        list(wire.pieces("DELETE", "/v1/mounts?ref=other", None, "one"))
    umount("two")
    assert not loops_of(disk.store)
    wire.close()


def test_a_refused_unmount_leaves_it_attached(disk: Live) -> None:
    place = Path(disk.cowfs("disk", "mount", "vm"))
    (place / "file").write_text("kept")
    with holding(image_of(disk, "vm").removesuffix("disk.img") + "other", create=True):
        for words in (("umount", "vm"), ("rm", "vm")):
            assert disk.run(*words).code == 5, words
            assert (place / "file").read_text() == "kept", words


def test_what_a_daemon_that_was_killed_with_its_keeper_has_left(disk: Live) -> None:
    place = Path(disk.cowfs("disk", "mount", "vm"))
    (place / "file").write_text("kept")
    _sync(place)
    status = disk.json("daemon", "status")
    pids = [status["keeper"]["pid"], status["supervisor"]["pid"]]
    for pid in pids + [each["pid"] for each in status["workers"] + status["settlers"]]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    disk.cowfs("checkpoint", "vm")
    assert disk.json("disk", "list") == []
    assert (Path(disk.cowfs("disk", "mount", "vm")) / "file").read_text() == "kept"


def test_no_disk_or_no_filesystem_is_said(disk: Live) -> None:
    disk.cowfs("create", "ws")
    ended = disk.run("disk", "mount", "ws")
    assert ended.code == 2
    assert "--disk" in ended.err
    root = Path(disk.cowfs("path", "ws"))
    (root / "raw").write_bytes(bytes(1 << 20))
    for name, says in (
        ("raw", "no ext4 filesystem"),
        ("missing", "No such file"),
        ("../x", "no name"),
        ("link", "link"),
    ):
        disk.cowfs("set", "ws", f"disk={name}")
        if name == "link":
            (root / "link").symlink_to("/etc/passwd")
            says = "levels of symbolic links"
        ended = disk.run("disk", "mount", "ws")
        assert ended.code == 2, name
        assert says in ended.err
    assert not loops_of(disk.store)
    assert not [each for each in disk.mounts() if each.endswith("@disk")]


def test_what_boots_from_it(disk: Live) -> None:
    words = disk.json("disk", "config", "vm", "--machine", "qemu", "--kernel", "k", "--socket", "/tmp/a,b")["command"]
    image = image_of(disk, "vm")
    assert f"file={image},if=none,id=root,format=raw,cache=none,discard=unmap,detect-zeroes=unmap" in words
    assert any("path=/tmp/a,,b," in word for word in words)
    line = disk.cowfs("disk", "config", "vm", "--machine", "firecracker", "--kernel", "vmlinux", "--memory", "128")
    value = json.loads(line)
    assert value["drives"][0]["path_on_host"] == image
    assert value["machine-config"] == {"vcpu_count": 1, "mem_size_mib": 128}
    assert "vsock" not in value
