"""The owner's side of the settler: a child process that stores things, one job at a time.

The child is started when there is a job and none is running, and stays until it is idle for long, closed or killed.
It may die at any instant: the job then fails with :class:`SettlerDied`, nothing of it is visible, and the next job
starts another. What it wrote stays in its segment as unused records, which the next writer of that segment keeps.

Order on disk: the child syncs its segments, then the owner commits them to the index, then the caller makes the root
known in the control log. Only then may the caller remove journals.

Threads: one thread of its own starts the child and speaks with it, because the kernel kills the child when the
*thread* that started it ends. Callers wait for it; any thread may call.
"""

from __future__ import annotations

import io
import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cowfs
from cowfs.blocks.api import Location
from cowfs.errors import Busy, Conflict, Corrupt, CowfsError, Invalid, NoSpace, NotFound
from cowfs.formats.inode import ID_BYTES
from cowfs.geometry import Geometry
from cowfs.owners import Owners
from cowfs.settle import bulk, imageimport
from cowfs.settle.collect import Marked
from cowfs.settle.delta import SettledLayer
from cowfs.settle.imageexport import Origin
from cowfs.settle.imageimport import ImportedImage
from cowfs.settle.importer import ImportResult, Progress
from cowfs.settle.numbering import DEFAULT_NUMBERING
from cowfs.settle.pool import SegmentPool
from cowfs.settle.protocol import Channel, Message

IDLE_SECONDS = 60.0
"""A settler without jobs ends after so long."""

BACKGROUND, WAITED_FOR = 10, 5
"""Niceness of a settler whose jobs nobody waits for, and of one that somebody waits for."""

STARTS = 3
"""Children started at most for one job, when they end before they have accepted it."""

_GRACE_SECONDS = 10.0  # for a closed child to end by itself
_ERRORS: dict[str, type[CowfsError]] = {
    kind.code: kind for kind in (Invalid, NotFound, Conflict, Busy, Corrupt, NoSpace)
}
_jobs = itertools.count(1)  # names of bulk files are unique among the settlers of one owner

Commit = Callable[[Sequence[tuple[bytes, Location]], Sequence[bytes]], list[bytes]]
"""``BlockIndex.commit``: (new records, ids relied on) -> ids that are gone."""


class SettlerDied(Busy):
    """The settler ended in the middle of a job. Nothing was published; the same job can be tried again."""


@dataclass(frozen=True, slots=True)
class SettlerStatistics:
    """``pid``: of the running child, or None. ``jobs``: done well; ``failed``: ended by an error or death."""

    pid: int | None
    starts: int
    jobs: int
    failed: int


class Child:
    """A running settler process."""

    def __init__(self, idle_seconds: float, niceness: int) -> None:
        arguments = [
            sys.executable,
            "-P",
            "-s",
            "-X",
            "utf8",
            "-m",
            "cowfs.settle",
            str(os.getpid()),
            str(idle_seconds),
            str(niceness),
        ]
        # The same cowfs as here, wherever it was found; nothing else of the environment matters to the child.
        environment = {"PYTHONPATH": str(Path(cowfs.__file__).parent.parent), "LC_ALL": "C.UTF-8"}
        to_child, from_child = os.pipe(), os.pipe()
        try:
            self.process = subprocess.Popen(
                arguments,
                stdin=to_child[0],
                stdout=from_child[1],
                cwd="/",
                env=environment,
                close_fds=True,
                start_new_session=True,
            )
        except BaseException:
            os.close(to_child[1])
            os.close(from_child[0])
            raise
        finally:
            os.close(to_child[0])
            os.close(from_child[1])
        self.channel = Channel(from_child[0], to_child[1])
        self._niceness = 0
        self._group: io.FileIO | None = None
        with suppress(OSError):  # a kernel without such groups
            self._group = io.FileIO(f"/proc/{self.pid}/autogroup", "w")
        self.share(niceness)

    def share(self, niceness: int) -> None:
        """Have it run behind the programs of other sessions so far.

        A session is a scheduling group where the kernel has such (sched(7), autogroup), and the niceness that a process
        gives itself counts within one (docs/decisions/0602-settling-gives-way.md).
        """
        if niceness != self._niceness and self._group is not None:
            with suppress(OSError, ValueError):  # an ordinary user's turn comes once in 0.1 s; it may have ended
                self._group.write(b"%d" % niceness)
                self._niceness = niceness

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def kill(self) -> None:
        """Kill it; it is still to be reaped."""
        self.process.kill()

    def end(self, kill: bool) -> int:
        """Close the pipes (or kill) and reap; its return code."""
        if kill:
            self.process.kill()
        self.channel.close()
        if self._group is not None:
            self._group.close()
        try:
            return self.process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


class Settler:
    """One settler process of a store.

    ``index``, ``tmp``: directories of the store (segments: the pool's); ``commit`` is called in this object's thread.
    """

    child: type[Child] = Child
    """What runs the jobs."""

    def __init__(
        self,
        index: Path,
        tmp: Path,
        pool: SegmentPool,
        geometry: Geometry,
        commit: Commit,
        *,
        idle_seconds: float = IDLE_SECONDS,
        niceness: int = BACKGROUND,
        reaped: Callable[[int], object] = lambda _: None,
    ) -> None:
        """``reaped`` is called after each child's end, with its return code (``BlockIndex.clear_readers``)."""
        self._pool = pool
        self._tmp = tmp
        self._commit = commit
        self._idle_seconds = idle_seconds
        self._niceness = niceness
        self._sharing = threading.Lock()
        self._behind, self._waiting = False, 0
        self._reaped = reaped
        self._common = {
            "index": str(index),
            "segments": str(pool.directory),
            "tmp": str(tmp),
            "geometry": asdict(geometry),
        }
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="cowfs-settler")
        self._child: Child | None = None
        self._segments: list[int] = []
        self._starts = self._done = self._failed = 0

    # -- jobs --

    def make_root(self, mode: int, uid: int, gid: int, time: int) -> bytes:
        """The root of an empty filesystem, stored; ``time`` in ns."""
        params = {"mode": mode, "uid": uid, "gid": gid, "time": time}
        with self.waited_for():
            return bytes.fromhex(self._run("mkroot", params, None)[0]["root"])

    def import_directory(
        self,
        source: str | bytes | os.PathLike[str],
        exclude: Iterable[str] = (),
        forbidden: Iterable[tuple[int, int]] = (),
        progress: Progress | None = None,
        numbering: str = DEFAULT_NUMBERING,
        owners: Owners | None = None,
    ) -> ImportResult:
        """:func:`cowfs.settle.importer.import_directory` in the child. ``progress`` runs in another thread; when it
        raises, the import is given up and the exception comes out here."""
        params = {
            "source": os.path.abspath(os.fsdecode(source)),
            "exclude": list(exclude),
            "forbidden": [list(identity) for identity in forbidden],
            "numbering": numbering,
            "owners": [] if owners is None else [list(ids.ranges) for ids in owners],
        }
        return self._imported("import", params, progress)

    def import_tar(self, source: bytes, limit: int, progress: Progress | None = None) -> ImportResult:
        """:func:`cowfs.settle.tarimport.import_tar` in the child. ``progress`` as for :meth:`import_directory`."""
        params = {"source": os.path.abspath(os.fsdecode(source)), "limit": limit}
        return self._imported("import_tar", params, progress)

    def import_image(
        self, kind: str, source: bytes, tag: str, limit: int, progress: Progress | None = None,
        known: imageimport.Known = lambda _: (),
    ) -> ImportedImage:  # fmt: skip
        """:func:`cowfs.settle.imageimport.import_image` in the child. ``progress`` as for :meth:`import_directory`;
        ``known`` runs in another thread, too, and what it gives must be held until the image is published."""
        params = {"format": kind, "source": os.path.abspath(os.fsdecode(source)), "tag": tag, "limit": limit}
        _, found = self._run("import_image", params, progress, bulk.BLOBS, known)
        return imageimport.decode(found)

    def export(
        self, root: bytes, target: bytes, progress: Progress | None = None, kind: str = "tar"
    ) -> list[tuple[bytes, str]]:
        """:func:`cowfs.settle.tarexport.export_tar` into the new file ``target``; what was left out, and why."""
        params = {"format": kind, "root": root.hex(), "target": os.path.abspath(os.fsdecode(target))}
        _, report = self._run("export", params, progress, bulk.REPORT)
        return list(bulk.decode_report(report)[0])

    def export_image(
        self, kind: str, target: bytes, tag: str, layers: Sequence[Origin], config: bytes | None, created: int,
        progress: Progress | None = None,
    ) -> list[tuple[bytes, str]]:  # fmt: skip
        """:func:`cowfs.settle.imageexport.export_image` in the child; what was left out, and why."""
        place = self._tmp / f"export-{next(_jobs)}"
        params = {
            "format": kind, "target": os.path.abspath(os.fsdecode(target)), "tag": tag,
            "layers": [[root.hex(), number] for root, number in layers],
            "config": "" if config is None else str(place), "created": created,
        }  # fmt: skip
        if config is not None:
            bulk.write_file(place, bulk.BLOBS, bulk.encode_blobs([config]))
        try:
            _, report = self._run("export_image", params, progress, bulk.REPORT)
        finally:
            place.unlink(missing_ok=True)
        return list(bulk.decode_report(report)[0])

    def _imported(self, kind: str, params: Message, progress: Progress | None) -> ImportResult:
        done, report = self._run(kind, params, progress, bulk.REPORT)
        files, size, logical, next_ino = _numbers(done, "files", "bytes", "logical_bytes", "next_ino")
        skipped, changed = bulk.decode_report(report)
        root = bytes.fromhex(done["root"])
        return ImportResult(root, files, size, logical, next_ino, tuple(skipped), tuple(changed))

    def hurry(self, yes: bool) -> None:
        """Whether the jobs are to have as much of the processors as others have, until this is called again."""
        with self._sharing:
            self._behind = yes
            self._share()

    @contextmanager
    def waited_for(self) -> Iterator[None]:
        """They are to have it meanwhile, as somebody waits for one."""
        with self._sharing:
            self._waiting += 1
            self._share()
        try:
            yield
        finally:
            with self._sharing:
                self._waiting -= 1
                self._share()

    def _share(self) -> None:
        child = self._child
        if child is not None:
            child.share(0 if self._behind or self._waiting else self._niceness)

    def settle(self, parent_root: bytes, spans: Iterable[tuple[str, int, int]]) -> SettledLayer:
        """Store a frozen layer: journal spans (path, first byte, end byte) over a root."""
        params = {"parent_root": parent_root.hex(), "spans": [list(span) for span in spans]}
        done, contents = self._run("settle", params, None, bulk.CONTENTS)
        numbers = _numbers(done, "logical_bytes", "inodes")
        return SettledLayer(bytes.fromhex(done["root"]), bulk.decode_contents(contents), *numbers)

    def mark(
        self, roots: Iterable[bytes], inodes: Iterable[bytes], marks: Path, everything: bool, progress: Progress | None
    ) -> Marked:
        """:func:`cowfs.settle.collect.mark` in the child."""
        start = self._tmp / f"{marks.name}-start"
        start.unlink(missing_ok=True)
        payload = bulk.encode_blobs([bulk.encode_ids(roots), bulk.encode_blobs(inodes)])
        bulk.write_file(start, bulk.BLOBS, payload)
        try:
            params = {"start": str(start), "marks": str(marks), "everything": everything}
            _, found = self._run("mark", params, progress, bulk.BLOBS)
        finally:
            start.unlink(missing_ok=True)
        garbage, needed = bulk.decode_blobs(found)
        return Marked(bulk.decode_ids(garbage), bulk.decode_ids(needed))

    def compact(self, segments: Iterable[int]) -> int:
        """:func:`cowfs.settle.collect.copy_live` in the child: how many blocks were copied."""
        done, _ = self._run("compact", {"sources": list(segments)}, None)
        return int(_numbers(done, "blocks")[0])

    # -- life --

    def statistics(self) -> SettlerStatistics:
        """What the settler has done so far."""
        child = self._child
        return SettlerStatistics(child.pid if child else None, self._starts, self._done, self._failed)

    def kill(self) -> None:
        """Kill the child, if one is running; a job under way fails with :class:`SettlerDied`. Any thread."""
        child = self._child
        if child:
            child.kill()

    def close(self) -> None:
        """Wait for jobs under way, then end the child. Nothing can be asked of it afterwards."""
        with suppress(RuntimeError):  # closed before
            self._thread.submit(self._end).result()
        self._thread.shutdown()

    # -- in the settler's thread --

    def _run(
        self, kind: str, params: Message, progress: Progress | None, bulk_kind: int = 0,
        known: imageimport.Known = lambda _: (),
    ) -> tuple[Message, bytes]:  # fmt: skip
        try:
            future = self._thread.submit(self._job, kind, params, progress, bulk_kind, known)
        except RuntimeError:
            raise Busy("the store is being closed") from None
        return future.result()

    def _job(
        self, kind: str, params: Message, progress: Progress | None, bulk_kind: int, known: imageimport.Known
    ) -> tuple[Message, bytes]:
        job = next(_jobs)
        try:
            child = self._accepted(kind, {**self._common, **params, "job": job})
            done = self._converse(child, job, progress, known)
            payload = bulk.take_file(self._own_file(done["path"], job), bulk_kind) if bulk_kind else b""
            if len(done["root"]) != 2 * ID_BYTES:
                raise Corrupt("settler: its root is not an id")
        except BaseException as error:
            self._failed += 1
            if not isinstance(error, _JobFailed):
                self._end(kill=True)  # it may still be writing, or hold a conversation that nobody listens to
                raise
            raise error.error from None
        else:
            self._done += 1
            return done, payload
        finally:
            self._release()
            for path in self._tmp.glob(f"{bulk.PREFIX}{job}-*"):
                path.unlink(missing_ok=True)

    def _accepted(self, kind: str, params: Message) -> Child:
        """A child that has accepted the job. One that ended before is replaced: it did nothing of it."""
        for _ in range(STARTS):
            if self._child is None:
                self._child = self.child(self._idle_seconds, self._niceness)
                self._starts += 1
                with self._sharing:
                    self._share()
            with suppress(BrokenPipeError):
                self._child.channel.send("job", kind=kind, params=params)
                message = self._child.channel.receive()
                if message and message["type"] == "ready":
                    message = self._child.channel.receive()
                if message and message["type"] == "started":
                    return self._child
                if message:
                    raise Corrupt(f"settler: {message['type']} instead of started")
            self._end()
        raise SettlerDied("the settler cannot be started", hint="see the log of the daemon")

    def _converse(self, child: Child, job: int, progress: Progress | None, known: imageimport.Known) -> Message:
        """Answer the child until the job is done."""
        while True:
            try:
                message = child.channel.receive()
                if message is None:
                    raise BrokenPipeError
                if message["type"] == "done":
                    return message
                self._answer(child.channel, message, job, progress, known)
            except BrokenPipeError:
                how = self._end()
                raise SettlerDied(f"the settler ended during a job ({how})", hint="try again") from None

    def _answer(
        self, channel: Channel, message: Message, job: int, progress: Progress | None, known: imageimport.Known
    ) -> None:
        match message["type"]:
            case "progress":
                if progress:
                    progress(message["files"], message["bytes"])
            case "need_segment":
                if message["refused"] in self._segments:
                    self._pool.refuse(message["refused"])
                    self._segments.remove(message["refused"])
                segment_id, path = self._pool.take()
                self._segments.append(segment_id)
                channel.send("segment", id=segment_id, path=str(path))
            case "need_layers":
                channel.send("layers", known=imageimport.plain(known([str(each) for each in message["chains"]])))
            case "batch":
                batch = bulk.decode_batch(bulk.take_file(self._own_file(message["path"], job), bulk.BATCH))
                gone = self._commit(batch.records, batch.relied_on)
                path = self._tmp / f"{bulk.PREFIX}{job}-gone"
                if gone:
                    bulk.write_file(path, bulk.IDS, bulk.encode_ids(gone))
                channel.send("committed", gone=str(path) if gone else "")
            case "failed":
                error = _ERRORS.get(message["code"], CowfsError)(message["message"], hint=message["hint"])
                raise _JobFailed(error)
            case other:
                raise Corrupt(f"settler: {other} during a job")

    def _own_file(self, path: str, job: int) -> Path:
        """The path of a bulk file, which must be one of this job."""
        if not path.startswith(f"{self._tmp}/{bulk.PREFIX}{job}-") or "/" in path[len(str(self._tmp)) + 1 :]:
            raise Corrupt("settler: its file is not one of this job")
        return Path(path)

    def _release(self) -> None:
        """Give back the job's segments: the child has closed them, or is gone."""
        for segment_id in self._segments:
            self._pool.release(segment_id)
        self._segments = []

    def _end(self, kill: bool = False) -> str:
        """End the child and wait for it; how it ended."""
        child, self._child = self._child, None
        if child is None:
            return "none running"
        code = child.end(kill)
        self._reaped(code)
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


class _JobFailed(Exception):
    """The child reported an error; it is ready for another job."""

    def __init__(self, error: CowfsError) -> None:
        super().__init__(error.message)
        self.error = error


def _numbers(done: Message, *names: str) -> list[Any]:
    numbers = [done["numbers"].get(name) for name in names]
    if not all(type(number) is int for number in numbers):
        raise Corrupt("settler: numbers are missing from its result")
    return numbers
