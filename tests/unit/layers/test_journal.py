"""cowfs.layers.journal: append, rotate, sync and read; what fails leaves nothing behind."""

import errno
import os
import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cowfs.errors import Corrupt
from cowfs.formats import journal as fmt
from cowfs.layers import journal as module
from cowfs.layers.journal import FIRST_FILE, Journal, JournalFile, Limits, Position, file_path, read_records
from cowfs.layers.layer import Span

NOTHING = Position(0, 0, 0)


def journal(folder: Path, **limits: int) -> Journal:
    return Journal(folder, "wsp-1", NOTHING, Limits(**limits))


def record(number: int, size: int = 10) -> fmt.Write:
    return fmt.Write(number, 0, 0, bytes([number % 256]) * size)


def stored(folder: Path, number: int) -> list[fmt.Envelope]:
    file = JournalFile.open(folder, "wsp-1", number)
    end = os.fstat(file.fd).st_size
    return [envelope for _, _, envelope in read_records(file, fmt.HEADER_BYTES, end)]


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """A full disk, as this process sees it: writes behind ``size`` are cut short, then fail."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_nothing_exists_before_the_first_record(tmp_path: Path) -> None:
    made = journal(tmp_path)
    made.sync()
    assert made.cut() == ()
    assert list(tmp_path.iterdir()) == []
    assert made.position == NOTHING


def test_what_is_appended_is_read(tmp_path: Path) -> None:
    made = journal(tmp_path)
    file, at = made.append(record(1), 100, 7, 8)
    assert (file.file_no, at) == (FIRST_FILE, fmt.HEADER_BYTES)
    data_file, data_at = made.append_write(2, 4096, 1, memoryview(b"data"), 200, 9, 10)
    assert data_file.pread(4, data_at) == b"data"
    assert stored(tmp_path, FIRST_FILE) == [
        fmt.Envelope(1, 0, 100, 7, 8, record(1)),
        fmt.Envelope(2, 0, 200, 9, 10, fmt.Write(2, 4096, 1, b"data")),
    ]
    assert made.position == Position(FIRST_FILE, os.fstat(file.fd).st_size, 2)


def test_a_record_says_what_was_durable(tmp_path: Path) -> None:
    made = journal(tmp_path)
    for number in range(3):
        made.append(record(number), 0)
    made.sync()
    made.append(record(3), 0)
    made.append(record(4), 0)
    made.sync()
    made.append(record(5), 0)
    assert [envelope.durable for envelope in stored(tmp_path, FIRST_FILE)] == [0, 0, 0, 3, 3, 5]


@pytest.mark.parametrize("limits", [{"file_records": 3}, {"file_bytes": 300}])
def test_rotation_goes_on_without_a_gap(tmp_path: Path, limits: dict[str, int]) -> None:
    made = journal(tmp_path, **limits)
    for number in range(10):
        made.append(record(number, 30), 0)
    files = module.file_numbers(tmp_path, "wsp-1")
    assert files == list(range(FIRST_FILE, FIRST_FILE + len(files)))
    assert len(files) > 2
    seen = [envelope for number in files for envelope in stored(tmp_path, number)]
    assert [envelope.seq for envelope in seen] == list(range(1, 11))
    for number in files:
        assert JournalFile.open(tmp_path, "wsp-1", number).first_seq == stored(tmp_path, number)[0].seq


def test_spans_cover_exactly_what_was_appended_since_the_last_cut(tmp_path: Path) -> None:
    made = journal(tmp_path, file_records=3)
    ends = [made.append(record(n, 20), 0) and made.position for n in range(4)]
    assert made.layer_bytes() == ends[2].offset + ends[3].offset - 2 * fmt.HEADER_BYTES
    assert made.cut() == (
        Span(FIRST_FILE, fmt.HEADER_BYTES, ends[2].offset),
        Span(FIRST_FILE + 1, fmt.HEADER_BYTES, ends[3].offset),
    )
    assert made.cut() == ()
    assert made.layer_bytes() == 0
    made.append(record(5), 0)
    assert made.cut() == (Span(FIRST_FILE + 1, ends[3].offset, made.position.offset),)


@pytest.mark.parametrize("extra", [0, 1, 55, 56, 57, 80, 100])
def test_a_full_disk_takes_nothing(tmp_path: Path, extra: int) -> None:
    made = journal(tmp_path)
    made.append(record(1), 0)
    before = made.position
    attempts: list[Callable[[], object]] = [
        lambda: made.append(record(2, 100), 0),
        lambda: made.append_write(2, 0, 0, b"x" * 100, 0, 0, 0),
    ]
    with file_size_limit(before.offset + extra):
        for attempt in attempts:
            with pytest.raises(OSError) as caught:
                attempt()
            assert caught.value.errno in (errno.ENOSPC, errno.EFBIG)
            assert made.position == before
            assert file_path(tmp_path, "wsp-1", FIRST_FILE).stat().st_size == before.offset
    made.append(record(3), 0)
    assert [envelope.seq for envelope in stored(tmp_path, FIRST_FILE)] == [1, 2]


@pytest.mark.parametrize("room", [0, 1, 63])
def test_a_full_disk_at_a_rotation(tmp_path: Path, room: int) -> None:
    made = journal(tmp_path, file_records=1)
    made.append(record(1), 0)
    before = made.position
    with file_size_limit(room), pytest.raises(OSError):
        made.append(record(2), 0)
    assert made.position == before
    assert module.file_numbers(tmp_path, "wsp-1") == [FIRST_FILE]
    made.append(record(2), 0)
    assert [envelope.seq for envelope in stored(tmp_path, FIRST_FILE + 1)] == [2]


def test_a_failed_write_whose_rest_cannot_be_cut_is_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = journal(tmp_path)
    made.append(record(1), 0)
    with file_size_limit(made.position.offset + 70), monkeypatch.context() as patch:

        def refuse(*_: int) -> None:
            raise OSError(errno.EIO, "no")

        patch.setattr(os, "ftruncate", refuse)
        with pytest.raises(OSError):
            made.append(record(2, 500), 0)
    made.append(record(2, 5), 0)
    made.append(record(3, 5), 0)
    assert [envelope.seq for envelope in stored(tmp_path, FIRST_FILE)] == [1, 2, 3]


def test_after_a_failed_sync_nothing_is_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = journal(tmp_path)
    made.append(record(1), 0)
    made.sync()
    made.append(record(2), 0)
    with monkeypatch.context() as patch:

        def fail(_: int) -> None:
            raise OSError(errno.EIO, "lost")

        patch.setattr(os, "fdatasync", fail)
        with pytest.raises(OSError):
            made.sync()
    for _ in range(2):  # the kernel would say yes now; what it dropped is gone all the same
        with pytest.raises(OSError) as caught:
            made.sync()
        assert caught.value.errno == errno.EIO
    made.append(record(3), 0)
    assert [envelope.durable for envelope in stored(tmp_path, FIRST_FILE)] == [0, 1, 1]


def test_threads_share_one_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = journal(tmp_path)
    made.append(record(0), 0)
    made.sync()
    entered, go = threading.Event(), threading.Event()
    calls: list[int] = []
    real = os.fdatasync

    def counted(fd: int) -> None:
        calls.append(fd)
        entered.set()
        assert go.wait(30)
        real(fd)

    monkeypatch.setattr(os, "fdatasync", counted)
    made.append(record(1), 0)
    first = threading.Thread(target=made.sync)
    first.start()
    assert entered.wait(30)
    made.append(record(2), 0)  # an append goes on during a sync, which does not cover it
    rest = [threading.Thread(target=made.sync) for _ in range(6)]
    for thread in rest:
        thread.start()
    go.set()
    for thread in (first, *rest):
        thread.join(30)
    assert len(calls) == 2, "the six that waited share one"
    made.append(record(3), 0)
    assert stored(tmp_path, FIRST_FILE)[-1].durable == 3


def test_a_sync_covers_every_file_since_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = journal(tmp_path, file_records=1)
    synced: list[int] = []
    real_data, real = os.fdatasync, os.fsync

    def noting(sync: Callable[[int], None]) -> Callable[[int], None]:
        def noted(fd: int) -> None:
            synced.append(os.fstat(fd).st_ino)
            sync(fd)

        return noted

    monkeypatch.setattr(os, "fdatasync", noting(real_data))
    monkeypatch.setattr(os, "fsync", noting(real))
    files = [made.append(record(n), 0)[0] for n in range(3)]
    made.sync()
    wanted = [os.fstat(file.fd).st_ino for file in files]
    assert synced == [*wanted, (tmp_path / "wsp-1").stat().st_ino, tmp_path.stat().st_ino]
    synced.clear()
    made.sync()
    assert synced == []
    made.append(record(3), 0)
    made.sync()
    assert wanted[0] not in synced
    assert (tmp_path / "wsp-1").stat().st_ino in synced


def test_a_bad_byte_is_named(tmp_path: Path) -> None:
    made = journal(tmp_path)
    starts = [made.append(record(n, 40), 0)[1] for n in range(5)]
    path = file_path(tmp_path, "wsp-1", FIRST_FILE)
    data = bytearray(path.read_bytes())
    data[starts[2] + 60] ^= 4
    path.write_bytes(data)
    file = JournalFile.open(tmp_path, "wsp-1", FIRST_FILE)
    seen: list[int] = []
    with pytest.raises(Corrupt, match=rf"wsp-1/{path.name}, byte {starts[2]}:"):
        seen.extend(envelope.seq for _, _, envelope in read_records(file, fmt.HEADER_BYTES, len(data)))
    assert seen == [1, 2]
    assert len(list(read_records(file, starts[3], len(data)))) == 2
    with pytest.raises(Corrupt):
        list(read_records(file, starts[3], len(data) - 1))
    with pytest.raises(Corrupt):
        list(read_records(file, starts[3] + 1, len(data)))
    with pytest.raises(Corrupt, match="shorter"):
        file.pread(10, len(data) - 5)


def test_records_longer_than_the_read_buffer(tmp_path: Path) -> None:
    made = journal(tmp_path)
    sizes = [fmt.WRITE_DATA_MAX, 1, fmt.WRITE_DATA_MAX - 1, 3_000_000, 10, fmt.WRITE_DATA_MAX]
    for number, size in enumerate(sizes):
        made.append(record(number, size), 0)
    assert [len(envelope.record.data) for envelope in stored(tmp_path, FIRST_FILE)] == sizes  # type: ignore[union-attr]


@pytest.mark.parametrize("other", ["number", "workspace", "cut", "damaged"])
def test_a_file_of_something_else_is_refused(tmp_path: Path, other: str) -> None:
    made = journal(tmp_path)
    made.append(record(1), 0)
    path = file_path(tmp_path, "wsp-1", FIRST_FILE)
    name, number = "wsp-1", FIRST_FILE
    if other == "number":
        number += 1
    elif other == "workspace":
        name = "wsp-2"
        (tmp_path / name).mkdir()
    data = path.read_bytes()
    if other == "cut":
        data = data[:60]
    elif other == "damaged":
        data = b"\0" + data[1:]
    file_path(tmp_path, name, number).write_bytes(data)
    with pytest.raises(Corrupt, match=rf"{name}/{number:010d}.journal, byte 0"):
        JournalFile.open(tmp_path, name, number)
