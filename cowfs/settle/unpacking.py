"""Compressed files, as bytes in order: told from others by how they begin, bounded, damage refused."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import queue
import tempfile
import threading
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Any

import zstandard

from cowfs.errors import Invalid
from cowfs.settle.tarread import Stream

_PIECE = 1 << 20
AHEAD_PIECES = 8
"""Pieces of 1 MiB that wait at most."""

MAGIC_BYTES = 6
"""So many bytes tell how a file is compressed."""

_DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, zstandard.ZstdError, OSError)
_OPENERS: dict[bytes, Callable[[Any], Any]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\0": lzma.LZMAFile,
    b"\x28\xb5\x2f\xfd": lambda file: zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(
        file, read_across_frames=True
    ),
}


def is_packed(head: bytes) -> bool:
    """Whether a file that begins with these :data:`MAGIC_BYTES` bytes is compressed."""
    return any(head.startswith(magic) for magic in _OPENERS)


class Hashed:
    """Reads a file and hashes what it reads."""

    def __init__(self, file: Any, digest: str) -> None:
        self._file = file
        self._hash = hashlib.new(digest.partition(":")[0] or "sha256")
        self._wanted = digest
        self.size = 0

    def read(self, size: int) -> bytes:
        """The next bytes."""
        data: bytes = self._file.read(size)
        self._hash.update(data)
        self.size += len(data)
        return data

    def check(self, what: str) -> None:
        """At the end: raises Invalid when the digest is another one."""
        if self._wanted and self._hash.hexdigest() != self._wanted.partition(":")[2]:
            raise Invalid(f"image: {what} has another digest than {self._wanted[:19]}…")


class _Again:
    """A stream of which the first bytes were read already."""

    def __init__(self, head: bytes, file: Stream) -> None:
        self._head = head
        self._file = file

    def read(self, size: int = -1) -> bytes:
        head, self._head = (self._head, b"") if size < 0 else (self._head[:size], self._head[size:])
        return head + self._file.read(size - len(head) if size >= 0 else size)


class Unpacked:
    """The bytes of an archive, decompressed, as far as ``limit``. Raises Invalid beyond, or when they are damaged."""

    def __init__(self, file: Stream, limit: int, digest: str = "") -> None:
        """``digest``: what :meth:`check` compares that of all bytes with ("": nothing)."""
        head = file.read(MAGIC_BYTES)
        opener = next((each for magic, each in _OPENERS.items() if head.startswith(magic)), None)
        whole = _Again(head, file)
        self._file: Stream = whole if opener is None else opener(whole)
        self._limit = limit
        self._hashed = Hashed(self._file, digest) if digest else None
        self._file = self._hashed or self._file
        self.read_bytes = 0

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes; fewer only at the end."""
        pieces, left = [], size
        while left:
            try:
                piece = self._file.read(min(left, _PIECE))
            except _DAMAGED as error:
                raise Invalid(f"the archive cannot be unpacked: {error}") from error
            if not piece:
                break
            pieces.append(piece)
            left -= len(piece)
        data = b"".join(pieces)
        self.read_bytes += len(data)
        if self.read_bytes > self._limit:
            raise Invalid(f"the archive has more than {self._limit} bytes", hint="allow more with --limit")
        return data

    def check(self, what: str) -> None:
        """At the end: raises Invalid when the digest is another one."""
        if self._hashed is not None:
            self._hashed.check(what)

    def drain(self) -> None:
        """Read to the end, so that what a compressed file says of itself is checked."""
        while self.read(_PIECE):
            pass


def unpack(file: Stream, directory: str, limit: int, progress: Callable[[int, int], None]) -> IO[bytes]:
    """A file without a name in ``directory`` that has what ``file`` unpacks to, at most ``limit`` bytes. ``progress(0,
    bytes)`` is called on the way. Raises Invalid, OSError."""
    out = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115
    try:
        stream = Unpacked(file, limit)
        while piece := stream.read(_PIECE):
            out.write(piece)
            progress(0, stream.read_bytes)
        out.seek(0)
    except BaseException:
        out.close()
        raise
    return out


class Ahead:
    """Reads a stream in a thread of its own, a few pieces ahead: unpacking and hashing need no interpreter lock, so
    they go on while what was read is stored. ``with`` ends the thread; then the stream can be read on from there."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._pieces: queue.Queue[bytes | BaseException] = queue.Queue(AHEAD_PIECES)
        self._left, self._at = b"", 0
        self._ended = self._closing = False
        self._thread = threading.Thread(target=self._run, name="cowfs-unpack")
        self.read_bytes = 0

    def __enter__(self) -> Ahead:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing = True
        while self._thread.is_alive():
            with suppress(queue.Empty):
                self._pieces.get(timeout=0.1)
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._closing and (piece := self._stream.read(_PIECE)):
                self._pieces.put(piece)
            self._pieces.put(b"")
        except BaseException as error:
            self._pieces.put(error)

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes; fewer only at the end. Raises what the stream raised."""
        data = self._left[self._at : self._at + size]
        self._at += len(data)
        while len(data) < size and self._more():
            self._at = size - len(data)
            data += self._left[: self._at]
        self.read_bytes += len(data)
        return data

    def _more(self) -> bool:
        """Take the next piece; False at the end."""
        if not self._ended:
            piece = self._pieces.get()
            if isinstance(piece, BaseException):
                self._ended = True
                raise piece
            self._left, self._at, self._ended = piece, 0, not piece
        return not self._ended
