"""Export of an image: snapshots of one line -> an OCI image layout, or an archive as ``docker save`` writes it.

The same snapshots give the same bytes each time (with one zlib). A layout is put together under another name, in the
directory that it goes to, so that whoever looks sees all of it or nothing; an archive is removed when it fails.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import chain
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

from cowfs.blocks.api import BlockSource
from cowfs.durable import sync_directory
from cowfs.errors import Conflict, Invalid
from cowfs.settle import imageconfig, oci
from cowfs.settle.layerdiff import MARK, layer_entries
from cowfs.settle.readtree import StoredTree
from cowfs.settle.tarexport import BLOCK, Progress, Sink, Skip, TarWriter, file_header

GZIP_LEVEL = 6
_PIECE = 1 << 20
_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@+-]{0,127}\Z")
_HASHED = "blobs/sha256"
DEFAULT_NAME = "cowfs"
"""What an archive calls an image of which only the tag is said."""


class Origin(NamedTuple):
    """A layer to be: the root of the snapshot, and the number (from 1) of the imported layer that it is, else 0."""

    root: bytes
    number: int


class Target(Protocol):
    """Where an image goes."""

    def layer(self, write: Callable[[Sink], None]) -> str:
        """Keep what ``write`` writes, an archive, as the next layer; the digest of that."""

    def finish(self, config: bytes) -> None:
        """The image is complete."""


def export_image(
    blocks: BlockSource, target: Target, layers: Sequence[Origin], config: bytes | None, created: int,
    progress: Progress, skip: Skip,
) -> None:  # fmt: skip
    """Write the image of ``layers`` from below. ``config``, ``created``: see :func:`.imageconfig.exported`.

    ``progress(entries, bytes)``; ``skip(path, reason)`` is called for what is left out. What would be a last layer with
    nothing in it is none. Raises OSError, Corrupt, Conflict, Invalid.
    """
    below: StoredTree | None = None
    origins, diff_ids = [], []
    counting = _Counting(progress)
    for root, origin in layers:
        tree = StoredTree(blocks, root)
        entries = layer_entries(below, tree, skip)
        first = next(entries, None)
        if first is None and not origin:
            continue
        entries = chain([] if first is None else [first], entries)
        diff_ids.append(target.layer(partial(_write, tree, entries, skip, counting)))
        origins.append(origin)
        counting.another()
        below = tree
    target.finish(imageconfig.exported(config, origins, diff_ids, created))


def _write(tree: StoredTree, entries: Iterator[tuple[bytes, int]], skip: Skip, progress: Progress, out: Sink) -> None:
    archive = TarWriter(tree, out, skip, progress, acls=False)
    for path, ino in entries:
        if ino == MARK:
            archive.empty(path)
        else:
            archive.entry(path, ino)
    archive.end()


class _Counting:
    """Progress of all layers together."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._before = self._now = (0, 0)

    def __call__(self, files: int, size: int) -> None:
        self._now = self._before[0] + files, self._before[1] + size
        self._progress(*self._now)

    def another(self) -> None:
        """The next layer begins."""
        self._before = self._now


@contextmanager
def opened(kind: str, path: bytes, tag: str) -> Iterator[Target]:
    """Where an image goes: ``oci``, the layout at ``path``, or ``docker-archive``, the new file. What was written is
    taken away again when the body raises. Raises Conflict, Invalid."""
    if tag and not _TAG.match(tag):
        raise Invalid(f"{tag[:80]!a} is no tag", hint="Letters, digits, and ._:@+- after the first.")
    target: _Layout | _Archive = _Layout(path, tag) if kind == "oci" else _Archive(path, tag)
    done = False
    try:
        yield target
        done = True
    finally:
        target.close(done)


class _Packing:
    """Hashes what is written, packs it if need be, and hashes that, on the way to a file."""

    def __init__(self, out: IO[bytes], *, pack: bool) -> None:
        self._out = out
        self._packer = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, 31) if pack else None  # gzip, time 0, no name
        self._raw, self._stored = hashlib.sha256(), hashlib.sha256()
        self._pieces: list[bytes] = []
        self._waiting = 0
        self.size = 0

    def write(self, data: bytes, /) -> None:
        self._pieces.append(data)
        self._waiting += len(data)
        if self._waiting >= _PIECE:
            self._flush()

    def _flush(self) -> None:
        data = b"".join(self._pieces)
        self._pieces, self._waiting = [], 0
        self._raw.update(data)
        self._store(data if self._packer is None else self._packer.compress(data))

    def _store(self, data: bytes) -> None:
        self._stored.update(data)
        self._out.write(data)
        self.size += len(data)

    def finish(self) -> tuple[str, str]:
        """Digests of what was written and of what is in the file, which is on the disk then."""
        self._flush()
        if self._packer is not None:
            self._store(self._packer.flush())
        self._out.flush()
        return self._raw.hexdigest(), self._stored.hexdigest()


class _Layout:
    """A layout that is new, or has other images already."""

    def __init__(self, path: bytes, tag: str) -> None:
        self._path = os.fsdecode(path)
        self._tag = tag
        self._there: oci.Directory | None = None
        if os.path.lexists(path):
            if not os.path.isdir(path) or (os.listdir(path) and not os.path.lexists(path + b"/oci-layout")):
                raise _taken(path)
            if os.listdir(path):
                self._there = oci.Directory(path)
                self._index()
        beside = self._path if self._there else os.path.dirname(self._path)
        self._scratch = tempfile.mkdtemp(prefix=".cowfs-", dir=beside)
        self._stage = f"{self._scratch}/layout"  # made as others make directories: it is renamed
        os.makedirs(f"{self._stage}/{_HASHED}")
        self._layers: list[dict[str, Any]] = []
        self._added: list[str] = []

    def _index(self) -> dict[str, Any]:
        """What is there. Raises Conflict when the tag is, too."""
        if self._there is None:
            return {"schemaVersion": 2, "mediaType": oci.INDEX, "manifests": []}
        if not self._tag:
            raise Invalid("a layout with images needs a tag for one more", hint="oci:DIR:TAG")
        index = oci.read_index(self._there)
        if any(oci.name_of(each) == self._tag for each in index["manifests"]):
            raise Conflict(f"{self._path} has an image {self._tag} already", hint="Choose another tag.")
        return index

    def layer(self, write: Callable[[Sink], None]) -> str:
        part = f"{self._stage}/part"
        with open(part, "xb") as out:
            packing = _Packing(out, pack=True)
            write(packing)
            raw, stored = packing.finish()
            os.fsync(out.fileno())
        os.rename(part, f"{self._stage}/{_HASHED}/{stored}")
        self._layers.append({"mediaType": oci.LAYER_GZIP, "digest": f"sha256:{stored}", "size": packing.size})
        return f"sha256:{raw}"

    def finish(self, config: bytes) -> None:
        described = self._blob(config, oci.CONFIG)
        manifest = {
            "schemaVersion": 2, "mediaType": oci.MANIFEST, "config": described, "layers": self._layers,
        }  # fmt: skip
        found = self._blob(imageconfig.document(manifest), oci.MANIFEST)
        if self._tag:
            found["annotations"] = {oci.NAME: self._tag}
        if self._there is not None:
            fcntl.flock(self._there.fd, fcntl.LOCK_EX)  # two that add an image at once would lose one
        index = self._index()
        self._write("index.json", imageconfig.document({**index, "manifests": [*index["manifests"], found]}))
        if self._there is None:
            self._publish()
        else:
            self._add(self._there.fd)

    def _blob(self, data: bytes, kind: str) -> dict[str, Any]:
        digest = oci.digest_of(data)
        self._write(f"blobs/{digest.replace(':', '/')}", data)
        return {"mediaType": kind, "digest": digest, "size": len(data)}

    def _write(self, name: str, data: bytes) -> None:
        if len(data) > oci.DOCUMENT_MAX:
            raise Invalid(f"image: its {name} would have more than {oci.DOCUMENT_MAX} bytes")
        with open(f"{self._stage}/{name}", "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())

    def _publish(self) -> None:
        self._write("oci-layout", imageconfig.document({"imageLayoutVersion": "1.0.0"}))
        for directory in (_HASHED, "blobs", ""):
            sync_directory(Path(self._stage, directory))
        try:
            os.rename(self._stage, self._path)
        except OSError as error:
            if os.path.lexists(self._path):
                raise _taken(os.fsencode(self._path)) from error
            raise
        sync_directory(Path(self._path).parent)

    def _add(self, top: int) -> None:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        blobs = os.open("blobs", flags, dir_fd=top)
        try:
            place = os.open("sha256", flags, dir_fd=blobs)
        finally:
            os.close(blobs)
        try:
            there = set(os.listdir(place))
            for name in sorted(os.listdir(f"{self._stage}/{_HASHED}")):
                if name not in there:
                    self._added.append(name)
                os.rename(f"{self._stage}/{_HASHED}/{name}", name, dst_dir_fd=place)
            os.fsync(place)
            os.rename(f"{self._stage}/index.json", "index.json", dst_dir_fd=top)
            self._added = []
            os.fsync(top)
        finally:
            for name in self._added:
                os.unlink(name, dir_fd=place)
            os.close(place)

    def close(self, done: bool) -> None:
        """What is not published goes."""
        shutil.rmtree(self._scratch, ignore_errors=True)
        if self._there is not None:
            self._there.close()


class _Archive:
    """An archive, with the layers as they are."""

    def __init__(self, path: bytes, tag: str) -> None:
        self._path = path
        self._tag = tag if not tag or ":" in tag else f"{DEFAULT_NAME}:{tag}"
        try:
            self._out = open(path, "xb")  # noqa: SIM115
        except FileExistsError:
            raise _taken(path) from None
        self._layers: list[str] = []

    def layer(self, write: Callable[[Sink], None]) -> str:
        at = self._out.tell()
        self._out.write(bytes(BLOCK))  # its header, when name and size are known
        packing = _Packing(self._out, pack=False)
        write(packing)
        raw, _ = packing.finish()
        name = f"{raw}.tar"
        if name in self._layers:
            self._out.seek(at)
            self._out.truncate()
        else:
            self._complete(at, name, packing.size)
        self._layers.append(name)
        return f"sha256:{raw}"

    def _complete(self, at: int, name: str, size: int) -> None:
        self._out.write(bytes(-size % BLOCK))
        end = self._out.tell()
        self._out.seek(at)
        self._out.write(file_header(name.encode(), size))
        self._out.seek(end)

    def finish(self, config: bytes) -> None:
        name = f"{hashlib.sha256(config).hexdigest()}.json"
        manifest = [{"Config": name, "RepoTags": [self._tag] if self._tag else None, "Layers": self._layers}]
        for file, data in ((name, config), ("manifest.json", imageconfig.document(manifest))):
            at = self._out.tell()
            self._out.write(bytes(BLOCK) + data)
            self._complete(at, file, len(data))
        self._out.write(bytes(2 * BLOCK))
        self._out.flush()
        os.fsync(self._out.fileno())

    def close(self, done: bool) -> None:
        """It goes when it is not done."""
        if not done:
            os.unlink(self._path)
        with suppress(OSError):  # what is done was flushed
            self._out.close()


def _taken(path: bytes) -> Conflict:
    return Conflict(f"{os.fsdecode(path)} exists already", hint="Choose another name, or remove it.")
