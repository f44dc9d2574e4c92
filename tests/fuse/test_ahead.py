"""Names that the kernel is told before it asks for them, so that looking at many files is not a round trip for each."""

from __future__ import annotations

import errno
import functools
import itertools
import os
import resource
import select
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cowfs.errors import Corrupt
from cowfs.view.inode import Caller
from cowfs_daemon import lingering
from cowfs_daemon.fuse import ahead, lister, listing, protocol
from cowfs_daemon.fuse.negotiate import REQUEST_BYTES

from .conftest import HANG_S, Mounted, wait_until
from .test_levers import asked

FILES = 3_000
FEW = 400
_A_FILE = stat.S_IFREG | 0o640


def made_unknown(mounted: Mounted, count: int, name: str = "directory") -> Path:
    """A directory of files that the kernel has not heard of, each of its own size; known itself."""
    directory = mounted.path / name
    directory.mkdir()
    view, ino = mounted.workspace.view, directory.stat().st_ino
    with mounted.workspace.lock:
        for number in range(count):
            made = view.mknod(ino, b"f%d" % number, _A_FILE, 0, Caller())
            if number % 100 == 0:
                view.write(made.ino, 0, bytes(number), Caller())
    return directory


def listing_begins(mounted: Mounted) -> None:
    """Return when the process that lists is there: names that are asked for while it starts are not waited for."""
    wait_until(mounted.transport._server.lister.ready)


def looked_at(directory: Path, numbers: range) -> None:
    """Look at files by name; each is what it was made as."""
    for number in numbers:
        found = os.stat(directory / f"f{number}")
        assert found.st_size == (number if number % 100 == 0 else 0), number
        assert found.st_mode == _A_FILE


def opened(mounted: Mounted) -> int:
    """Directories that are open."""
    requests = mounted.transport.session.counts.requests
    return requests[protocol.OPENDIR] - requests[protocol.RELEASEDIR]


def test_most_names_of_a_directory_are_not_asked_for(mounted: Mounted) -> None:
    listing_begins(mounted)
    directory, before = made_unknown(mounted, FILES), opened(mounted)
    with asked(mounted) as seen:
        for first in range(0, FILES, 50):
            looked_at(directory, range(first, first + 50))
            mounted.transport.session.settle()
        wait_until(lambda: opened(mounted) == before)  # nobody waits for RELEASEDIR
    assert seen[protocol.LOOKUP] < FILES / 4
    assert seen[protocol.READDIRPLUS] >= FILES / ahead.TOLD_MAX
    for number in range(FILES):
        os.unlink(directory / f"f{number}")
    directory.rmdir()


@pytest.mark.parametrize("count", [1, ahead.ASKED_MIN - 1])
def test_who_wants_few_is_told_no_more(mounted: Mounted, count: int) -> None:
    directory = made_unknown(mounted, FEW)
    with asked(mounted) as seen:
        looked_at(directory, range(count))
        assert not (directory / "missing").exists()
        mounted.transport.session.settle()
    assert seen == {protocol.LOOKUP: count + 1}


@pytest.mark.parametrize("count", [8, 40])
def test_what_is_told_is_bounded_by_what_is_asked(mounted: Mounted, count: int) -> None:
    listing_begins(mounted)
    directory = made_unknown(mounted, FILES)
    known = len(mounted.transport.session.served.lookups)
    with asked(mounted) as seen:
        looked_at(directory, range(count))
        mounted.transport.session.settle()
    told = len(mounted.transport.session.served.lookups) - known
    # A request holds somewhat more short names than it was made for.
    assert told <= 2.5 * ahead.FACTOR * seen[protocol.LOOKUP]


def test_many_directories_in_turn(mounted: Mounted) -> None:
    """More than are counted at a time: none is told of anything, and nothing is kept of them."""
    directories = [made_unknown(mounted, 10, f"d{number}") for number in range(ahead.DIRECTORIES_MAX + 10)]
    with asked(mounted) as seen:
        for number in range(10):
            for directory in directories:
                os.stat(directory / f"f{number}")
        mounted.transport.session.settle()
    assert seen == {protocol.LOOKUP: 10 * len(directories)}
    assert len(mounted.transport.session.served.ahead._directories) == ahead.DIRECTORIES_MAX


def test_who_may_list_a_directory_from_the_kernel_s_memory_still_may(mounted: Mounted) -> None:
    """What lists ahead takes that from nobody, and leaves no half of a listing there."""
    listing_begins(mounted)
    directory = made_unknown(mounted, FILES)
    looked_at(directory, range(0, FILES, 7))
    mounted.transport.session.settle()
    expected = {f"f{number}" for number in range(FILES)}
    for _ in range(2):  # the kernel had not heard that the files were made: then it does, and forgets what it kept
        assert set(os.listdir(directory)) == expected
    with asked(mounted) as seen:
        assert set(os.listdir(directory)) == expected
    assert protocol.READDIR not in seen
    assert protocol.READDIRPLUS not in seen


def test_a_directory_that_goes_meanwhile(mounted: Mounted) -> None:
    """Removed while it is listed, again and again."""
    listing_begins(mounted)
    for _ in range(20):
        directory = made_unknown(mounted, 30)
        looked_at(directory, range(ahead.ASKED_MIN))
        for number in range(30):
            os.unlink(directory / f"f{number}")
        directory.rmdir()
    mounted.transport.session.settle()
    assert os.listdir(mounted.path) == []


def test_restores_while_names_are_told(mounted: Mounted) -> None:
    """After a restore every file is as the snapshot has it, whoever told the kernel of it before."""
    listing_begins(mounted)
    directory = made_unknown(mounted, FEW)
    base = mounted.checkpoint()
    stopping, wrong = threading.Event(), list[str]()

    def look() -> None:
        for number in itertools.cycle(range(FEW)):
            if stopping.is_set():
                return
            try:
                os.stat(directory / f"f{number}")
            except OSError as error:
                wrong.append(f"f{number}: {error}")

    lookers = [threading.Thread(target=look) for _ in range(2)]
    for each in lookers:
        each.start()
    try:
        for turn in range(5):
            for number in range(0, FEW, 20):  # few: the lookers compete for the interpreter lock
                (directory / f"f{number}").write_bytes(bytes(number + turn + 1))
                (directory / f"more{turn}-{number}").touch()
            mounted.restore(base)
            looked_at(directory, range(FEW))
            assert len(os.listdir(directory)) == FEW
    finally:
        stopping.set()
        for each in lookers:
            each.join()
    assert wrong == []


def test_unmounting_waits_for_it(mount_workspace: Callable[[], Mounted]) -> None:
    """So that it is never busy by what lists ahead: the fixture unmounts without force."""
    for _ in range(5):
        looked_at(made_unknown(mount_workspace(), FEW), range(ahead.ASKED_MIN))


def test_unmounting_while_the_process_is_started(mounted: Mounted, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its beginning is a copy of this one, with every descriptor."""
    slow = functools.partial(subprocess.Popen, preexec_fn=lambda: select.select([], [], [], 0.2))
    monkeypatch.setattr(subprocess, "Popen", slow)
    before = children()
    assert not mounted.transport._server.lister.ready()
    wait_until(lambda: len(children()) > len(before))
    mounted.transport.unmount()
    mounted.gone = True


def test_another_process_is_told_of_all(mounted: Mounted) -> None:
    """What the kernel was told ahead is part of what is handed over."""
    listing_begins(mounted)
    directory = made_unknown(mounted, FEW)
    looked_at(directory, range(FEW))
    mounted.transport.session.settle()
    with mounted.workspace.lock:
        handed = mounted.transport.session.served.handed().lookups
    assert handed is not None
    assert {entry.stat().st_ino for entry in os.scandir(directory)} <= set(handed)


def children() -> set[int]:
    """Of this process."""
    own = Path(f"/proc/{os.getpid()}/task")
    return {int(pid) for task in own.iterdir() for pid in (task / "children").read_text().split()}


def lister_of(mounted: Mounted) -> int:
    """The process that lists, started by what is looked at, when it has listed."""
    listing_begins(mounted)
    looked_at(made_unknown(mounted, FEW), range(ahead.ASKED_MIN))
    mounted.transport.session.settle()
    (found,) = [pid for pid in children() if b"listing.py" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return found


def test_the_process_that_lists_holds_no_connection(mounted: Mounted) -> None:
    """Or a process that served, killed with its request unanswered, would never let go of the mount."""
    held = {os.readlink(entry) for entry in Path(f"/proc/{lister_of(mounted)}/fd").iterdir()}
    assert not {name for name in held if "fuse" in name or str(mounted.path) in name}, held


def test_another_process_lists_when_one_has_ended(mounted: Mounted) -> None:
    first = lister_of(mounted)
    os.kill(first, signal.SIGKILL)
    looked_at(mounted.path / "directory", range(100))  # notices it
    mounted.transport.session.settle()
    assert not mounted.transport.session.served.ahead._telling
    for number in range(FEW):
        os.unlink(mounted.path / "directory" / f"f{number}")
    (mounted.path / "directory").rmdir()
    assert lister_of(mounted) != first


def test_who_looks_waits_for_the_listing_and_asks_no_more(mounted: Mounted) -> None:
    """The name that brings the listing about is answered after it, and the rest of the directory is known by then."""
    directories = [made_unknown(mounted, 30, f"d{number}") for number in range(30)]
    listing_begins(mounted)
    with asked(mounted) as seen:
        for directory in directories:
            looked_at(directory, range(30))
    # Where who looks is faster than who lists, it asks for some names that it was about to be told.
    assert seen[protocol.LOOKUP] < len(directories) * 30 / 2
    assert mounted.transport.session.served.ahead.waiting == 0


def test_nobody_waits_for_a_listing_that_does_not_come(mounted: Mounted, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[lister.Wanted] = []

    def begin(wanted: lister.Wanted) -> bool:
        begun.append(wanted)
        return True

    monkeypatch.setattr(mounted.transport._server.lister, "ready", lambda: True)
    monkeypatch.setattr(mounted.transport._server.lister, "list", begin)
    directory = made_unknown(mounted, FEW)
    began = time.monotonic()
    looked_at(directory, range(FEW))
    taken = time.monotonic() - began
    (wanted,) = begun
    os.close(wanted.root)
    wanted.done(0, 0)
    mounted.transport.session.settle()
    assert taken < HANG_S / 10  # one of them waited
    assert mounted.transport.session.served.ahead.waiting == 0


def test_who_changes_a_directory_that_is_listed_and_looked_at(mounted: Mounted) -> None:
    """Who makes a name waits for who looks, who looks for who lists, who lists for who makes: until one gives up."""
    listing_begins(mounted)
    for turn in range(10):
        directory = made_unknown(mounted, FEW)

        def make(directory: Path = directory) -> None:
            for number in range(100):
                (directory / f"new{number}").touch()

        def look(first: int, directory: Path = directory) -> None:
            looked_at(directory, range(first, FEW, 4))

        threads = [threading.Thread(target=look, args=[first]) for first in range(4)] + [threading.Thread(target=make)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(HANG_S)
            assert not thread.is_alive(), turn
        assert len(os.listdir(directory)) == FEW + 100
        directory.rename(mounted.path / f"done{turn}")


def test_what_waits_is_counted_once(mounted: Mounted) -> None:
    lister_of(mounted)
    session, directory = mounted.transport.session, mounted.path / "other"
    (mounted.path / "directory").rename(directory)
    made_unknown(mounted, FEW)
    before = session._requests
    with asked(mounted) as seen:
        looked_at(mounted.path / "directory", range(FEW))
        session.settle()
        wait_until(lambda: session._requests == session._answered)
        read = session._requests - before
    assert sum(seen.values()) == read


def test_a_thread_of_the_process_that_dies_ends_it(mounted: Mounted) -> None:
    """Or its request would be waited for without end, and with it an unmount."""
    pid = lister_of(mounted)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, 3))  # no descriptor can be sent to it
    (mounted.path / "directory").rename(mounted.path / "other")
    looked_at(made_unknown(mounted, FEW), range(FEW))
    mounted.transport.session.settle()
    assert pid not in children()


def test_a_listing_that_takes_too_long_is_given_up(mounted: Mounted, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program can keep the lock of a directory for as long as it likes."""
    monkeypatch.setattr(lister, "LISTING_S", 0.1)
    pid = lister_of(mounted)
    os.kill(pid, signal.SIGSTOP)
    (mounted.path / "directory").rename(mounted.path / "other")
    looked_at(made_unknown(mounted, FEW), range(FEW))
    mounted.transport.session.settle()
    assert pid not in children()
    assert not mounted.transport._server.lister.ready()  # not again for a while


def test_it_can_be_closed_while_the_process_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = tmp_path / "slow.py"
    slow.write_text(f"import time\ntime.sleep({2 * HANG_S})\n")
    monkeypatch.setattr(listing, "__file__", str(slow))
    before, one = children(), lister.Lister()
    assert not one.ready()
    wait_until(lambda: len(children()) > len(before))
    one.close()
    assert children() == before


def test_a_directory_that_cannot_be_listed_is_left_alone(mounted: Mounted, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    def refuse(wanted: lister.Wanted) -> bool:
        os.close(wanted.root)
        tried.append(wanted.ino)
        threading.Thread(target=wanted.done, args=(0, errno.EACCES)).start()
        return True

    monkeypatch.setattr(mounted.transport._server.lister, "ready", lambda: True)
    monkeypatch.setattr(mounted.transport._server.lister, "list", refuse)
    directory = made_unknown(mounted, FEW)
    looked_at(directory, range(FEW))
    mounted.transport.session.settle()
    assert tried == [directory.stat().st_ino]


@pytest.mark.parametrize("error", [OSError(errno.EMFILE, "too many"), Corrupt("a directory above is damaged")])
def test_a_listing_that_cannot_begin(mounted: Mounted, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    tried: list[object] = []

    def refuse(*wanted: object) -> lister.Wanted:
        tried.append(wanted)
        raise error

    monkeypatch.setattr(mounted.transport._server.lister, "ready", lambda: True)
    monkeypatch.setattr(mounted.transport._handles, "wanted", refuse)
    directory = made_unknown(mounted, FEW)
    looked_at(directory, range(FEW))
    mounted.transport.session.settle()
    assert tried


def test_without_a_process_everything_goes_on(mounted: Mounted, monkeypatch: pytest.MonkeyPatch) -> None:
    """None can be started: names are asked for one by one, and unmounting does not wait."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(subprocess, "Popen", refuse)
    looked_at(made_unknown(mounted, FEW), range(FEW))
    mounted.transport.session.settle()


def test_who_is_killed_while_it_lists_holds_up_nobody(mounted: Mounted) -> None:
    """With its request read and unanswered it cannot end; that it does no harm can be seen."""
    transport, directory = mounted.transport, made_unknown(mounted, FEW)
    ino, session = directory.stat().st_ino, transport.session
    before = children()
    process = lister.Process()
    assert process.reply(HANG_S) is not None
    (pid,) = children() - before
    transport.session.stop()
    wanted = transport._handles.wanted(ino, 0, FEW, lambda reached, state: None)

    process.ask(1, wanted)
    request, opcode, size = bytearray(REQUEST_BYTES), 0, 0
    try:
        while opcode != protocol.READDIRPLUS:
            if size:
                session._answer(mounted.workspace.view, request, size)
            assert select.select([transport.connection.fd], [], [], HANG_S)[0]
            size = os.readv(transport.connection.fd, [request])
            opcode = protocol.header(request)[1]
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: lingering.harmless(pid))
        assert pid in children()
    finally:
        session._answer(mounted.workspace.view, request, size)
        session.start()
        with pytest.raises(ConnectionResetError):
            process.reply(HANG_S)
        process.end()
        os.close(wanted.root)
