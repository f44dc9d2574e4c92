"""The control log as a file: torn tails, damage, failed writes and syncs, rewriting."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cowfs.catalog import Catalog
from cowfs.catalog.log import ControlLog
from cowfs.errors import Corrupt, CowfsError, NoSpace
from cowfs.formats.control import Set, WorkspaceRemoved, encode_operations
from cowfs.formats.control_file import FILE_HEADER_BYTES, FileHeader, encode_entry, encode_file_header

if TYPE_CHECKING:
    from tests.unit.catalog.conftest import Store


def entries(directory: Path) -> list[bytes]:
    log, found = ControlLog.open(directory)
    log.close()
    return [payload for _, payload in found]


def written(directory: Path, *payloads: bytes, sync_each: bool = True) -> bytes:
    """A log with ``payloads``; its bytes."""
    ControlLog.create(directory, 5)
    log, _ = ControlLog.open(directory)
    for payload in payloads:
        log.append(payload)
        if sync_each:
            log.sync()
    log.close()
    return (directory / "log").read_bytes()


def test_every_cut_leaves_a_prefix(tmp_path: Path) -> None:
    payloads = [b"a", b"", b"three" * 9]
    data = written(tmp_path, *payloads)
    for size in range(FILE_HEADER_BYTES, len(data)):
        (tmp_path / "log").write_bytes(data[:size])
        found = entries(tmp_path)
        assert found == payloads[: len(found)]
        assert len(found) < len(payloads)
        assert (tmp_path / "log").stat().st_size == len(written_size(found))
        assert entries(tmp_path) == found
    for size in range(FILE_HEADER_BYTES):
        (tmp_path / "log").write_bytes(data[:size])
        with pytest.raises(Corrupt):
            ControlLog.open(tmp_path)


def written_size(payloads: list[bytes]) -> bytes:
    parts = [encode_entry(5, number, number - 1, payload) for number, payload in enumerate(payloads, 1)]
    return encode_file_header(FileHeader(5, 1, 0)) + b"".join(parts)


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    payloads = [b"first", b"second", b"third"]
    data = written(tmp_path, *payloads)
    last = len(written_size(payloads[:2]))
    for at in range(len(data)):
        (tmp_path / "log").write_bytes(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
        if at >= last:
            assert entries(tmp_path) == payloads[:2]
        else:
            with pytest.raises(Corrupt):
                ControlLog.open(tmp_path)


def test_damage_names_its_offset(tmp_path: Path) -> None:
    data = bytearray(written(tmp_path, b"first", b"second", b"third"))
    data[-60] ^= 1
    offset = len(written_size([b"first"]))
    (tmp_path / "log").write_bytes(data)
    with pytest.raises(Corrupt, match=f"entry 2 at offset {offset} is damaged"):
        ControlLog.open(tmp_path)


def test_a_hole_in_an_unsynced_stretch_is_cut_and_kept(tmp_path: Path) -> None:
    payloads = [b"first", b"second", b"third"]
    data = bytearray(written(tmp_path, *payloads, sync_each=False))
    hole = len(written_size(payloads[:1]))
    data[hole : hole + 16] = bytes(16)
    (tmp_path / "log").write_bytes(data)
    log, found = ControlLog.open(tmp_path)
    assert [payload for _, payload in found] == payloads[:1]
    assert log.cut_bytes == len(data) - hole
    assert (tmp_path / "cut-2").read_bytes() == data[hole:]
    log.append(b"again")
    log.close()
    assert entries(tmp_path) == [b"first", b"again"]


def test_data_that_looks_like_an_entry_does_not_pass_for_one(tmp_path: Path) -> None:
    forged = encode_entry(0, 9, 8, b"forged")
    data = written(tmp_path, b"first", b"x" + forged + b"y")
    (tmp_path / "log").write_bytes(data[:-1])
    assert entries(tmp_path) == [b"first"]
    assert not list(tmp_path.glob("cut-*"))


def test_a_rewritten_log_is_whole_or_damaged(tmp_path: Path) -> None:
    written(tmp_path, b"a", b"b")
    log, _ = ControlLog.open(tmp_path)
    log.rewrite([b"row-1", b"row-2"])
    log.append(b"new")
    assert log.last == 5
    log.close()
    assert entries(tmp_path) == [b"row-1", b"row-2", b"new"]
    data = (tmp_path / "log").read_bytes()
    base = len(data) - len(encode_entry(5, 5, 4, b"new"))
    for size in range(len(data)):
        (tmp_path / "log").write_bytes(data[:size])
        if size >= base:
            assert entries(tmp_path) == [b"row-1", b"row-2"]
        else:
            with pytest.raises(Corrupt):
                ControlLog.open(tmp_path)


def test_a_rewrite_that_fails_leaves_the_old_log(store: "Store", monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = store.imported("ws-1")
    before = (store.directory / "log").read_bytes()
    for name in ("fsync", "rename"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, failing(errno.ENOSPC))
            with pytest.raises(NoSpace):
                store.catalog.compact()
        assert (store.directory / "log").read_bytes() == before
        assert not (store.directory / "log.new").exists()
    store.checkpoint(workspace)


def test_an_interrupted_rewrite_is_swept(tmp_path: Path) -> None:
    written(tmp_path, b"a")
    (tmp_path / "log.new").write_bytes(b"half")
    assert entries(tmp_path) == [b"a"]
    assert not (tmp_path / "log.new").exists()


@pytest.mark.parametrize(
    ("number", "error"), [(errno.ENOSPC, NoSpace), (errno.EDQUOT, NoSpace), (errno.EIO, CowfsError)]
)
def test_a_failed_write_changes_nothing(
    store: "Store", monkeypatch: pytest.MonkeyPatch, number: int, error: type[Exception]
) -> None:
    workspace = store.imported("ws-1")
    before, data = store.catalog.rows(), (store.directory / "log").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", half_written(number))
        with pytest.raises(error):
            store.checkpoint(workspace)
    assert store.catalog.rows() == before
    assert (store.directory / "log").read_bytes() == data
    store.checkpoint(workspace)


def test_after_a_failed_sync_no_entry_is_taken(store: "Store", monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = store.imported("ws-1")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", failing(errno.EIO))
        with pytest.raises(CowfsError):
            store.catalog.sync()
    with pytest.raises(CowfsError, match="takes no more entries"):
        store.checkpoint(workspace)
    with pytest.raises(CowfsError, match="takes no more entries"):
        store.catalog.compact()
    store.reopen()
    store.checkpoint(workspace)


def test_sync_calls_the_kernel_once_for_all_that_is_new(store: "Store", monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    real = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda fd: (calls.append(fd), real(fd))[1])
    workspace = store.imported("ws-1")
    store.checkpoint(workspace)
    store.catalog.sync()
    store.catalog.sync()
    assert len(calls) == 1


def test_an_entry_that_contradicts_the_tables_is_damage(tmp_path: Path) -> None:
    for payload in (b"\xff", encode_operations([WorkspaceRemoved("wsp-1")])):
        shutil.rmtree(tmp_path)
        written(tmp_path, payload)
        with pytest.raises(Corrupt, match=f"entry at offset {FILE_HEADER_BYTES}"):
            Catalog.open(tmp_path)


def test_compaction_is_due_when_most_is_dead(store: "Store") -> None:
    workspace = store.imported("ws-1")
    for number in range(20):
        store.catalog.commit(Set(workspace, "description", bytes(50_000) + bytes([number])), sync=False)
    assert not store.catalog.statistics().compaction_due
    store.catalog.commit(Set(workspace, "description", bytes(50_000)), sync=False)
    full = store.catalog.statistics()
    assert full.compaction_due
    store.catalog.compact()
    compact = store.catalog.statistics()
    assert compact.log_bytes < 60_000
    assert compact.operations == compact.rows == full.rows
    assert not compact.compaction_due


def failing(number: int) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


def half_written(number: int) -> Callable[[int, bytes, int], int]:
    """A pwrite that writes half of the first piece, then fails."""
    real, calls = os.pwrite, []

    def pwrite(fd: int, data: bytes, at: int) -> int:
        calls.append(at)
        if len(calls) > 1:
            raise OSError(number, os.strerror(number))
        return real(fd, bytes(data)[: len(data) // 2], at)

    return pwrite
