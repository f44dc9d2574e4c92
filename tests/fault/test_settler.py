"""The settler process: killed at any instant, nothing is half-published, and the next job goes on."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

import cowfs
from cowfs.blocks.api import Location
from cowfs.blocks.index import BlockIndex
from cowfs.blocks.reader import BlockReader
from cowfs.blocks.segments import read_segment, segment_path
from cowfs.errors import Busy, Corrupt, CowfsError, NoSpace, NotFound
from cowfs.formats.inode import decode_inode
from cowfs.geometry import Geometry
from cowfs.settle import bulk
from cowfs.settle.importer import PROGRESS_FILES
from cowfs.settle.pool import SegmentPool
from cowfs.settle.process import BACKGROUND, Settler, SettlerDied
from cowfs.tree import content, radix
from cowfs.tree.root import read_root

GEOMETRY = Geometry()
FILES = 3 * PROGRESS_FILES


class Store:
    """A store's blocks and a settler, with a hook before each commit."""

    def __init__(self, path: Path, idle_seconds: float = 60.0) -> None:
        self.path = path
        for part in ("segments", "tmp"):
            (path / part).mkdir()
        self.index = BlockIndex(path / "index", writable=True)
        self.blocks = BlockReader(self.index, path / "segments")
        self.pool = SegmentPool(path / "segments")
        self.before_commit: Callable[[], None] = lambda: None
        self.after_commit: Callable[[], None] = lambda: None
        self.batches: list[tuple[int, int]] = []
        self.settler = Settler(
            path / "index",
            path / "tmp",
            self.pool,
            GEOMETRY,
            self._commit,
            idle_seconds=idle_seconds,
            reaped=lambda _: self.index.clear_readers(),
        )

    def _commit(self, records: Sequence[tuple[bytes, Location]], relied_on: Sequence[bytes]) -> list[bytes]:
        self.before_commit()
        gone = self.index.commit(records, relied_on)
        self.batches.append((len(records), len(gone)))
        self.after_commit()
        return gone

    def files(self, root: bytes) -> dict[int, bytes]:
        """Content of every regular file, by inode; reads every block that the root refers to."""
        found: dict[int, bytes] = {}
        for ino, value in radix.scan(self.blocks, read_root(self.blocks, root)):
            record = decode_inode(value)
            if record.mode >> 12 == 8:
                blocks = content.read_blocks(self.blocks, record.content, record.size, 1 << record.block_log2)
                found[ino] = b"".join(block.data for block in blocks)
            else:
                list(radix.scan(self.blocks, content.directory_pointer(record.content)))
        return found

    def close(self) -> None:
        self.settler.close()
        self.blocks.close()
        self.index.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    path = tmp_path / "store"
    path.mkdir()
    made = Store(path)
    yield made
    made.close()
    assert list((path / "tmp").iterdir()) == []


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    root.mkdir()
    for number in range(FILES):
        (root / f"{number:04}").write_bytes(b"%d " % number * 300)
        os.utime(root / f"{number:04}", ns=(1, number))
    os.utime(root, ns=(1, 1))
    return root


def wait_for_end(pid: int) -> None:
    """Wait until a process has ended, reaped or not."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([fd], [], [], 20)[0], f"process {pid} goes on"
    finally:
        os.close(fd)


def test_jobs_share_one_process_and_equal_trees_store_nothing(store: Store, source: Path) -> None:
    progress: list[tuple[int, int]] = []
    first = store.settler.import_directory(source, progress=lambda files, size: progress.append((files, size)))
    again = store.settler.import_directory(source)
    assert again == first
    assert progress[-1] == (first.files, first.bytes)
    assert first.files == FILES + 1
    assert store.batches[0][0] > FILES
    assert store.batches[1:] == [(0, 0)]
    assert sorted(store.files(first.root).values()) == sorted(b"%d " % n * 300 for n in range(FILES))
    made = store.settler.make_root(0o755, 0, 0, 7)
    assert store.files(made) == {}
    statistics = store.settler.statistics()
    assert (statistics.starts, statistics.jobs, statistics.failed) == (1, 3, 0)


def test_a_job_that_fails_leaves_no_bytes_behind(store: Store, source: Path) -> None:
    """On a full disk every attempt would take more of what was freed."""
    root = store.settler.make_root(0o755, 0, 0, 7)
    segments = store.path / "segments"
    before = {file.name: file.stat().st_size for file in segments.iterdir()}
    (store.path / "tmp").rmdir()
    for _ in range(2):
        with pytest.raises(CowfsError):
            store.settler.import_directory(source)
        assert {file.name: file.stat().st_size for file in segments.iterdir()} == before
    (store.path / "tmp").mkdir()
    store.files(store.settler.import_directory(source).root)
    assert store.files(root) == {}


@pytest.mark.parametrize(
    "instant", ["first block", "first progress", "later progress", "before commit", "after commit"]
)
def test_killed_at_any_instant(store: Store, source: Path, instant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = store.settler.import_directory(source, exclude=["0*"])
    calls: list[int] = []

    def kill(*_: object) -> None:
        calls.append(1)
        if instant != "later progress" or len(calls) == 3:
            store.settler.kill()

    progress: Callable[[int, int], None] | None = kill if "progress" in instant else None
    if instant == "first block":
        take = store.pool.take
        monkeypatch.setattr(store.pool, "take", lambda: (kill(), take())[1])  # type: ignore[func-returns-value]
    elif "commit" in instant:
        setattr(store, instant.replace(" ", "_"), kill)
    with pytest.raises(SettlerDied) as caught:
        store.settler.import_directory(source, progress=progress)
    assert "SIGKILL" in caught.value.message
    assert isinstance(caught.value, Busy)  # the caller may try again
    assert calls
    monkeypatch.undo()
    store.before_commit = store.after_commit = lambda: None
    # what was there is as it was, the same job works, and the segment of the dead goes on
    assert store.settler.import_directory(source, exclude=["0*"]).root == wanted.root
    result = store.settler.import_directory(source)
    assert len(store.files(result.root)) == FILES
    assert store.settler.statistics().starts == 2
    assert len(list((store.path / "segments").iterdir())) == 1
    contents = read_segment(segment_path(store.path / "segments", 1), deep=True)
    assert not contents.damage
    assert not contents.torn


def test_a_torn_tail_is_cut_by_the_next_writer(store: Store, source: Path) -> None:
    store.settler.import_directory(source, exclude=["00*"])
    with segment_path(store.path / "segments", 1).open("ab") as file:
        file.write(os.urandom(1000))
    result = store.settler.import_directory(source)
    assert len(store.files(result.root)) == FILES
    assert not read_segment(segment_path(store.path / "segments", 1), deep=True).torn


def test_a_damaged_segment_is_left_alone(store: Store, source: Path) -> None:
    store.settler.import_directory(source, exclude=["00*"])
    path = segment_path(store.path / "segments", 1)
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"\xff" * 200)
    size = path.stat().st_size
    store.settler.make_root(0o755, 0, 0, 1)
    assert path.stat().st_size == size
    assert segment_path(store.path / "segments", 2).exists()
    assert store.pool.in_use() == {2}


def test_blocks_collected_meanwhile_are_written_again(store: Store, source: Path) -> None:
    first = store.settler.import_directory(source)
    os.utime(source / "0001", ns=(5, 5))
    rounds: list[int] = []

    def collect() -> None:
        if not rounds:
            ids = [block_id for block_id, _, _ in store.index.items()]
            assert store.index.sweep(store.index.condemn(ids[::3]))
        rounds.append(1)

    store.before_commit = collect
    second = store.settler.import_directory(source)
    assert second.root != first.root
    assert [gone > 0 for _, gone in store.batches] == [False, True, False]
    assert len(store.files(second.root)) == FILES


def test_condemned_blocks_that_are_relied_on_stay(store: Store, source: Path) -> None:
    first = store.settler.import_directory(source)
    marked: list[tuple[bytes, Location]] = []

    def condemn() -> None:
        marked.extend(store.index.condemn([block_id for block_id, _, _ in store.index.items()]))

    store.before_commit = condemn
    assert store.settler.import_directory(source).root == first.root
    assert marked
    assert store.index.sweep(marked) == []
    assert len(store.files(first.root)) == FILES


def test_a_failing_commit_fails_the_job_only(store: Store, source: Path) -> None:
    def full() -> None:
        raise NoSpace("no space for the index")

    store.before_commit = full
    with pytest.raises(NoSpace):
        store.settler.import_directory(source)
    assert store.index.statistics().blocks == 0
    store.before_commit = lambda: None
    assert store.settler.import_directory(source).files == FILES + 1


def test_progress_can_give_up(store: Store, source: Path) -> None:
    def give_up(files: int, size: int) -> None:
        raise KeyError("enough")

    with pytest.raises(KeyError):
        store.settler.import_directory(source, progress=give_up)
    assert store.settler.statistics().pid is None
    assert store.settler.import_directory(source).files == FILES + 1


def test_errors_keep_their_kind_and_the_process(store: Store, source: Path) -> None:
    with pytest.raises(NotFound):
        store.settler.import_directory(source / "nothing")
    with pytest.raises(Corrupt):
        store.settler.settle(bytes(32), [])
    assert store.settler.import_directory(source).files == FILES + 1
    statistics = store.settler.statistics()
    assert (statistics.starts, statistics.jobs, statistics.failed) == (1, 1, 2)


def test_an_idle_settler_ends_and_is_started_again(tmp_path: Path, source: Path) -> None:
    (tmp_path / "store").mkdir()
    store = Store(tmp_path / "store", idle_seconds=0.2)
    try:
        store.settler.make_root(0o755, 0, 0, 1)
        pid = store.settler.statistics().pid
        assert pid is not None
        wait_for_end(pid)
        store.settler.make_root(0o755, 0, 0, 1)
        statistics = store.settler.statistics()
        assert statistics.failed == 0
        assert statistics.starts >= 2
    finally:
        store.close()
    with pytest.raises(Busy):
        store.settler.make_root(0o755, 0, 0, 1)


def test_it_dies_with_its_owner(tmp_path: Path, source: Path) -> None:
    (tmp_path / "store" / "segments").mkdir(parents=True)
    (tmp_path / "store" / "tmp").mkdir()
    script = f"""
        import os, signal
        from pathlib import Path
        from cowfs.blocks.index import BlockIndex
        from cowfs.geometry import Geometry
        from cowfs.settle.pool import SegmentPool
        from cowfs.settle.process import Settler
        store = Path({str(tmp_path / "store")!r})
        index = BlockIndex(store / "index", writable=True)
        settler = Settler(store / "index", store / "tmp", SegmentPool(store / "segments"), Geometry(), index.commit)
        def die(files, size):
            print(settler.statistics().pid, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        settler.import_directory({str(source)!r}, progress=die)
    """
    environment = {"PYTHONPATH": str(Path(cowfs.__file__).parent.parent)}
    owner = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env=environment,
        stdout=subprocess.PIPE,
        timeout=30,
        check=False,
    )
    assert owner.returncode == -signal.SIGKILL
    wait_for_end(int(owner.stdout))
    # what the dead left is swept, and the next owner goes on in the same segment
    bulk.write_file(tmp_path / "store" / "tmp" / f"{bulk.PREFIX}9-9", bulk.IDS, b"")
    assert bulk.sweep(tmp_path / "store" / "tmp") >= 1
    assert SegmentPool(tmp_path / "store" / "segments").take()[0] == 1


def test_descriptors_and_environment_are_not_inherited(store: Store) -> None:
    with open(store.path / "secret", "w") as file:
        os.set_inheritable(file.fileno(), True)
        store.settler.make_root(0o755, 0, 0, 1)
        pid = store.settler.statistics().pid
        links = {os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()}
        assert str(store.path / "secret") not in links
        names = {entry.partition(b"=")[0] for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") if entry}
        assert names == {b"PYTHONPATH", b"LC_ALL"}


def test_it_gives_way_to_programs_of_other_sessions(store: Store) -> None:
    store.settler.make_root(0o755, 0, 0, 1)
    pid = store.settler.statistics().pid
    assert os.getpriority(os.PRIO_PROCESS, pid or 0) == min(os.getpriority(os.PRIO_PROCESS, 0) + BACKGROUND, 19)
    group = Path(f"/proc/{pid}/autogroup")  # none where the kernel has no groups of this kind
    if group.exists():
        for hurry, niceness in ((False, BACKGROUND), (True, 0), (True, 0), (False, BACKGROUND)):
            store.settler.hurry(hurry)
            assert group.read_text().endswith(f" nice {niceness}\n")
        with store.settler.waited_for():
            store.settler.hurry(False)
            assert group.read_text().endswith(" nice 0\n")
        assert group.read_text().endswith(f" nice {BACKGROUND}\n")


def test_a_damaged_batch_is_refused_and_its_child_killed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    take_file = bulk.take_file

    def damaged(path: Path, kind: int) -> bytes:
        path.write_bytes(path.read_bytes()[:-1])
        return take_file(path, kind)

    monkeypatch.setattr(bulk, "take_file", damaged)
    with pytest.raises(Corrupt):
        store.settler.make_root(0o755, 0, 0, 1)
    assert store.settler.statistics().pid is None
    assert store.index.statistics().blocks == 0
