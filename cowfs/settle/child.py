"""The settler's side: run one job after the other, hand in what was written, report the result.

A job runs until nothing that it relied on is gone: the owner commits the records handed in and answers with the
block ids that a garbage collection removed meanwhile; then the job runs again, which writes those anew and finds
everything else in place.
"""

from __future__ import annotations

import errno
import os
import select
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cowfs.blocks.index import BlockIndex
from cowfs.blocks.reader import BlockReader
from cowfs.blocks.segments import SegmentWriter
from cowfs.blocks.writer import BlockWriter
from cowfs.errors import Busy, Conflict, Corrupt, CowfsError, NoSpace
from cowfs.geometry import Geometry
from cowfs.settle import bulk
from cowfs.settle.protocol import Channel, Message

if TYPE_CHECKING:
    from cowfs.settle.importer import ImportResult

ROUNDS = 8
"""Times a job runs at most because blocks that it relied on were collected."""

Numbers = dict[str, int]
Result = tuple[bytes, Numbers, int, bytes]
"""What a job gives: root, numbers for the result, kind and payload of its bulk file (kind 0: none)."""


RAW_CACHE_BYTES = 16 << 20
"""Less than a worker has: jobs mostly read tree nodes, which are kept decoded (see cowfs.blocks.reader)."""

NO_ROOT = bytes(32)
"""The root of a job that makes none."""


class OwnerGone(Exception):
    """The pipe was closed: there is nobody to report to."""


def serve(channel: Channel, idle_seconds: float) -> None:
    """Do jobs until the owner closes the pipe or sends none for ``idle_seconds``."""
    stores: dict[tuple[str, str], Store] = {}
    channel.send("ready", pid=os.getpid())
    while select.select([channel], [], [], idle_seconds)[0]:
        message = channel.receive()
        if message is None:
            break
        if message["type"] != "job":
            raise Corrupt(f"settler: a {message['type']} message between jobs")
        channel.send("started")
        try:
            _run(channel, stores, message["kind"], message["params"])
        except OwnerGone:
            break
    for store in stores.values():
        store.close()


def _run(channel: Channel, stores: dict[tuple[str, str], Store], kind: str, params: Message) -> None:
    try:
        job = _Job(channel, stores, params)
        try:
            result = job.run(kind)
        except BaseException:
            job.drop()
            raise
        finally:
            job.close()
        channel.send("done", **result)  # the segment is closed: its owner may give it to another writer
    except (OwnerGone, BrokenPipeError):
        raise OwnerGone from None
    except CowfsError as error:
        channel.send("failed", code=error.code, message=error.message[:4096], hint=error.hint)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        message, hint = ("no space left in the store", "free some space, then try again") if full else (str(error), "")
        channel.send("failed", code=NoSpace.code if full else "internal", message=message[:4096], hint=hint)
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        channel.send("failed", code="internal", message=f"{type(error).__name__}: {error}"[:4096], hint="")


class Store:
    """A store's index and blocks, open for reading for as long as the process lives."""

    def __init__(self, index: str, segments: str) -> None:
        self.segments = Path(segments)
        self.index = BlockIndex(Path(index), writable=False)
        self.reader = BlockReader(self.index, self.segments, raw_cache_bytes=RAW_CACHE_BYTES)

    def close(self) -> None:
        """Close files and index."""
        self.reader.close()
        self.index.close()


class _Job:
    def __init__(self, channel: Channel, stores: dict[tuple[str, str], Store], params: Message) -> None:
        self._channel = channel
        self._params = params
        key = (params["index"], params["segments"])
        if key not in stores:
            stores[key] = Store(*key)
        self._store = stores[key]
        self._geometry = geometry_of(params["geometry"])
        self._files = 0
        self._writer = BlockWriter(self._store.reader, self._next_segment(), next_segment=self._next_segment)

    def run(self, kind: str) -> Message:
        """Run until everything that the result needs is in the index; the result's fields."""
        work = getattr(self, "_" + kind)
        for _ in range(ROUNDS):
            root, numbers, bulk_kind, payload = work()
            if self._hand_in():
                path = self._file(bulk_kind, payload) if bulk_kind else ""
                return {"root": root.hex(), "numbers": numbers, "path": path}
        raise Busy("blocks were collected as fast as they were relied on", hint="try again")

    def drop(self) -> None:
        """The job failed: take back what it wrote and did not hand in, or attempts on a full disk would fill it."""
        with suppress(OSError):
            self._writer.segment.drop()

    def close(self) -> None:
        """Close the segment; it stays unsealed unless it was full."""
        self._writer.close()
        self._writer.segment.close()
        self._store.reader.files.close()  # what is deleted meanwhile must not be kept open

    # -- the jobs --

    def _mkroot(self) -> Result:
        from cowfs.settle.importer import make_root

        params = self._params
        arguments = (params["mode"], params["uid"], params["gid"], params["time"])
        return make_root(self._writer, self._geometry, *arguments), {}, 0, b""

    def _import(self) -> Result:
        from cowfs.owners import Ids, Owners
        from cowfs.settle.importer import import_directory

        params = self._params
        result = import_directory(
            self._writer,
            os.fsencode(params["source"]),
            self._geometry,
            strings(params["exclude"]),
            frozenset((int(device), int(inode)) for device, inode in params["forbidden"]),
            lambda files, size: self._channel.send("progress", files=files, bytes=size),
            params["numbering"],
            Owners(*(Ids(ranges) for ranges in params["owners"])) if params["owners"] else None,
        )
        return _imported(result)

    def _import_tar(self) -> Result:
        from cowfs.settle.tarimport import import_tar

        params = self._params
        result = import_tar(
            self._writer, os.fsencode(params["source"]), self._geometry, int(params["limit"]),
            lambda files, size: self._channel.send("progress", files=files, bytes=size),
        )  # fmt: skip
        return _imported(result)

    def _import_image(self) -> Result:
        from cowfs.settle import imageimport

        params = self._params
        source = imageimport.Source(params["format"], os.fsencode(params["source"]), params["tag"], params["tmp"])
        image = imageimport.import_image(
            self._writer, self._store.reader, source, self._geometry, int(params["limit"]),
            lambda files, size: self._channel.send("progress", files=files, bytes=size),
            lambda chains: imageimport.from_plain(self._ask("need_layers", "layers", chains=list(chains))["known"]),
        )  # fmt: skip
        return image.layers[-1].root, {}, bulk.BLOBS, imageimport.encode(image)

    def _export(self) -> Result:
        from cowfs.settle.direxport import export_directory
        from cowfs.settle.tarexport import write_tar

        params = self._params
        skipped: list[tuple[bytes, str]] = []
        export = export_directory if params["format"] == "dir" else write_tar
        with _room_for(params["target"]):
            export(
                self._store.reader, bytes.fromhex(params["root"]), os.fsencode(params["target"]),
                lambda files, size: self._channel.send("progress", files=files, bytes=size),
                lambda path, reason: skipped.append((path, reason)),
            )  # fmt: skip
        return NO_ROOT, {}, bulk.REPORT, bulk.encode_report(bulk.Report(skipped, []))

    def _export_image(self) -> Result:
        from cowfs.settle import imageexport

        params = self._params
        skipped: list[tuple[bytes, str]] = []
        layers = [imageexport.Origin(bytes.fromhex(root), int(number)) for root, number in params["layers"]]
        place = params["config"]
        (config,) = bulk.decode_blobs(bulk.take_file(Path(place), bulk.BLOBS)) if place else (None,)
        opened = imageexport.opened(params["format"], os.fsencode(params["target"]), params["tag"])
        with _room_for(params["target"]), opened as target:
            imageexport.export_image(
                self._store.reader, target, layers, config, int(params["created"]),
                lambda files, size: self._channel.send("progress", files=files, bytes=size),
                lambda path, reason: skipped.append((path, reason)),
            )  # fmt: skip
        return NO_ROOT, {}, bulk.REPORT, bulk.encode_report(bulk.Report(skipped, []))

    def _settle(self) -> Result:
        from cowfs.settle.delta import settle_layer

        params = self._params
        spans = [(str(path), int(start), int(end)) for path, start, end in params["spans"]]
        parent, reader, writer = bytes.fromhex(params["parent_root"]), self._store.reader, self._writer
        settled = settle_layer(reader, writer, self._geometry, parent, spans)
        numbers = {"logical_bytes": settled.logical_bytes, "inodes": settled.inodes}
        return settled.root, numbers, bulk.CONTENTS, bulk.encode_contents(settled.contents)

    def _mark(self) -> Result:
        from cowfs.settle.collect import mark

        params = self._params
        roots, inodes = bulk.decode_blobs(bulk.take_file(Path(params["start"]), bulk.BLOBS))
        marked = mark(
            self._store.reader, self._store.index, bulk.decode_ids(roots), bulk.decode_blobs(inodes),
            Path(params["marks"]), params["everything"],
            lambda blocks, size: self._channel.send("progress", files=blocks, bytes=size),
        )  # fmt: skip
        found = bulk.encode_blobs([bulk.encode_ids(marked.garbage), bulk.encode_ids(marked.needed)])
        return NO_ROOT, {}, bulk.BLOBS, found

    def _compact(self) -> Result:
        from cowfs.settle.collect import copy_live

        sources = [int(segment) for segment in self._params["sources"]]
        blocks = copy_live(self._writer, self._store.index, self._store.segments, sources)
        return NO_ROOT, {"blocks": blocks}, 0, b""

    # -- handing in --

    def _hand_in(self) -> bool:
        """Sync and hand in what was written. False when the job must run again."""
        writer = self._writer
        writer.sync()
        records, relied_on = writer.batch()
        path = self._file(bulk.BATCH, bulk.encode_batch(records, relied_on))
        writer.segment.keep()  # from here on the owner may have committed them, even if its answer never comes
        answer = self._ask("batch", "committed", path=path)
        gone: list[bytes] = []
        if answer["gone"]:
            gone = bulk.decode_ids(bulk.take_file(Path(answer["gone"]), bulk.IDS))
        writer.committed(gone)
        return not gone

    def _file(self, kind: int, payload: bytes) -> str:
        self._files += 1
        path = Path(self._params["tmp"]) / f"{bulk.PREFIX}{self._params['job']}-{self._files}"
        bulk.write_file(path, kind, payload)
        return str(path)

    def _next_segment(self) -> SegmentWriter:
        refused = 0
        while True:
            answer = self._ask("need_segment", "segment", refused=refused)
            try:
                return SegmentWriter(Path(answer["path"]), answer["id"])
            except (Corrupt, Conflict):  # damaged, or sealed after all: good records stay readable, take another
                refused = answer["id"]

    def _ask(self, question: str, answer: str, **fields: Any) -> Message:
        self._channel.send(question, **fields)
        message = self._channel.receive()
        if message is None:
            raise OwnerGone
        if message["type"] != answer:
            raise Corrupt(f"settler: {message['type']} instead of {answer}")
        return message


@contextmanager
def _room_for(target: str) -> Iterator[None]:
    """Raises NoSpace where the target of an export is full: what is out of space is not the store."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(f"no space left for {target}", hint="Free some space there, then try again.") from error
        raise


def _imported(result: ImportResult) -> Result:
    numbers = {
        "files": result.files,
        "bytes": result.bytes,
        "logical_bytes": result.logical_bytes,
        "next_ino": result.next_ino,
    }
    report = bulk.encode_report(bulk.Report(list(result.skipped), list(result.changed)))
    return result.root, numbers, bulk.REPORT, report


def geometry_of(values: Message) -> Geometry:
    """The geometry in a job. Raises :class:`Corrupt`."""
    try:
        return Geometry(**{str(name): int(value) for name, value in values.items()})
    except (TypeError, ValueError):
        raise Corrupt("settler message: not a geometry") from None


def strings(values: list[object]) -> list[str]:
    """A list of strings. Raises :class:`Corrupt`."""
    if not all(isinstance(value, str) for value in values):
        raise Corrupt("settler message: not a list of strings")
    return [str(value) for value in values]
