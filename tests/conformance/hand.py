"""The process in which :mod:`.fsx` acts: JSON steps on stdin, a JSON answer to each on stdout.

It knows what each file should hold and says in ``check`` where it does not.
"""

from __future__ import annotations

import json
import mmap
import os
import sys
import zlib
from random import Random
from typing import Any

from tests.conformance import calls

PAGE = 4096
NAMES = ("f", "g")
"""The files of the current directory; a step names one by its number."""


class File:
    """One file, with a descriptor, a shared mapping, and its content in memory. ``other``: the file that "copy over"
    copies to."""

    other: File

    def __init__(self, name: str) -> None:
        self.content = bytearray()
        self._name = name
        self._kept: dict[int, bytes] = {}
        self._fd = os.open(name, os.O_RDWR | os.O_CREAT, 0o644)
        self._mapping: mmap.mmap | None = None

    # ---- each step: (offset, length, another offset, seed)

    def do(self, kind: str, arguments: list[Any]) -> Any:
        """Take a step."""
        return getattr(self, "_" + kind.replace(" ", "_"))(*arguments)

    def _put(self, offset: int, data: bytes) -> None:
        if offset > len(self.content):
            self.content += bytes(offset - len(self.content))
        self.content[offset : offset + len(data)] = data

    def _write(self, offset: int, length: int, _: int, seed: int) -> int:
        data = Random(seed).randbytes(length)
        self._put(offset, data)
        return os.pwrite(self._fd, data, offset)

    def _append(self, _: int, length: int, __: int, seed: int) -> int:
        data = Random(seed).randbytes(min(length, 5000))
        fd = os.open(self._name, os.O_WRONLY | os.O_APPEND)
        self._put(len(self.content), data)
        try:
            return os.write(fd, data)
        finally:
            os.close(fd)

    def _read(self, offset: int, length: int, _: int, __: int) -> int:
        return zlib.crc32(os.pread(self._fd, length, offset))

    def _mapped(self) -> mmap.mmap:
        if self._mapping is not None and len(self._mapping) != len(self.content):
            self._mapping.close()
            self._mapping = None
        if self._mapping is None:
            self._mapping = mmap.mmap(self._fd, len(self.content))
        return self._mapping

    def _mmap_write(self, offset: int, length: int, _: int, seed: int) -> int:
        end = min(offset + length, len(self.content))
        if end <= offset:
            return 0
        data = Random(seed).randbytes(end - offset)
        self._mapped()[offset:end] = data
        self._put(offset, data)
        return len(data)

    def _mmap_read(self, offset: int, length: int, _: int, __: int) -> int:
        return zlib.crc32(self._mapped()[offset : offset + length]) if self.content else 0

    def _private(self, offset: int, length: int, _: int, seed: int) -> list[int]:
        """What a private mapping holds before and after it is written to; the file must not have it."""
        if not self.content:
            return []
        with mmap.mmap(self._fd, len(self.content), access=mmap.ACCESS_COPY) as mapping:
            end = min(offset + length, len(mapping))
            found = [zlib.crc32(mapping[offset:end])]
            if offset < end:
                mapping[offset:end] = Random(seed).randbytes(end - offset)
            return [*found, zlib.crc32(mapping)]

    def _msync(self, *_: int) -> None:
        if self._mapping is not None and len(self._mapping) <= len(self.content):
            self._mapping.flush()

    def _direct_write(self, offset: int, length: int, _: int, seed: int) -> int:
        offset, length = offset // PAGE * PAGE, -(-length // PAGE) * PAGE
        data = Random(seed).randbytes(length)
        fd = os.open(self._name, os.O_RDWR | os.O_DIRECT)
        try:
            with mmap.mmap(-1, length) as buffer:
                buffer[:] = data
                self._put(offset, data)
                return os.pwritev(fd, [buffer], offset)
        finally:
            os.close(fd)

    def _direct_read(self, offset: int, length: int, _: int, __: int) -> list[int]:
        offset, length = offset // PAGE * PAGE, -(-length // PAGE) * PAGE
        fd = os.open(self._name, os.O_RDWR | os.O_DIRECT)
        try:
            with mmap.mmap(-1, length) as buffer:
                got = os.preadv(fd, [buffer], offset)
                return [got, zlib.crc32(buffer[:got])]
        finally:
            os.close(fd)

    def _truncate(self, offset: int, *_: int) -> None:
        os.ftruncate(self._fd, offset)
        self._resize(offset)

    def _sparse(self, offset: int, *_: int) -> None:
        """Empty, then long: everything is a hole."""
        for size in (0, offset):
            os.truncate(self._name, size)
            self._resize(size)

    def _resize(self, size: int) -> None:
        if size < len(self.content):
            del self.content[size:]
        self.content += bytes(size - len(self.content))

    def _punch(self, offset: int, length: int, *_: int) -> None:
        calls.fallocate(self._fd, calls.PUNCH_HOLE | calls.KEEP_SIZE, offset, length)
        self._blank(offset, min(offset + length, len(self.content)))

    def _zero(self, offset: int, length: int, _: int, seed: int) -> None:
        calls.fallocate(self._fd, calls.ZERO_RANGE | (seed & calls.KEEP_SIZE), offset, length)
        if not seed & calls.KEEP_SIZE:
            self._resize(max(len(self.content), offset + length))
        self._blank(offset, min(offset + length, len(self.content)))

    def _blank(self, start: int, end: int) -> None:
        if start < end:
            self.content[start:end] = bytes(end - start)

    def _allocate(self, offset: int, length: int, *_: int) -> None:
        calls.fallocate(self._fd, 0, offset, length)
        self._resize(max(len(self.content), offset + length))

    def _copy(self, offset: int, length: int, target: int, _: int) -> int:
        length = min(length, max(0, len(self.content) - offset))
        if offset < target + length and target < offset + length:
            return 0
        return self._copied(self, offset, length, target)

    def _copy_over(self, offset: int, length: int, target: int, _: int) -> int:
        return self._copied(self.other, offset, min(length, max(0, len(self.content) - offset)), target)

    def _copied(self, to: File, offset: int, length: int, target: int) -> int:
        done = 0
        while done < length:
            copied = os.copy_file_range(self._fd, to._fd, length - done, offset + done, target + done)
            if not copied:
                break
            done += copied
        if length:
            to._put(target, bytes(self.content[offset : offset + length]))
        return done

    def _reopen(self, *_: int) -> None:
        self._let_go()
        self._fd = os.open(self._name, os.O_RDWR)

    def _fsync(self, *_: int) -> None:
        os.fsync(self._fd)

    def _holes(self, *_: int) -> str:
        """Whatever is no data must be zeros; where exactly holes are is each filesystem's own matter."""
        at, size = 0, len(self.content)
        while at < size:
            try:
                data = os.lseek(self._fd, at, os.SEEK_DATA)
            except OSError:
                data = size
            if any(self.content[at:data]):
                return f"a hole from {at} to {data} that is not zero"
            if data >= size:
                break
            at = os.lseek(self._fd, data, os.SEEK_HOLE)
        return ""

    # ---- verbs around it

    def _keep(self, number: int) -> None:
        self._kept[number] = bytes(self.content)

    def _let_go(self) -> None:
        """Until :meth:`_back`, nothing of it is open."""
        if self._mapping is not None:
            self._mapping.close()
            self._mapping = None
        os.close(self._fd)
        self._fd = -1

    def _back(self, number: int, write: int) -> None:
        """The content of then; ``write``: this filesystem has no verbs, so that it is written."""
        if self._mapping is not None:
            if write:
                self._mapping.flush()
            self._mapping.close()
            self._mapping = None
        if self._fd < 0:
            self._fd = os.open(self._name, os.O_RDWR)
        self.content = bytearray(self._kept[number])
        if write:
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, self.content, 0)

    def _saved(self, number: int) -> list[Any]:
        return [number, self._kept[number].hex()]

    def _adopt(self, saved: list[Any]) -> None:
        self.content = bytearray.fromhex(saved[1])
        self._kept[saved[0]] = bytes(self.content)

    def _check(self) -> dict[str, Any]:
        size = os.fstat(self._fd).st_size
        if size != len(self.content):
            return {"size": size, "wrong": f"{size} bytes for {len(self.content)}"}
        found = os.pread(self._fd, size, 0)
        if found != self.content:
            at = next(i for i, (a, b) in enumerate(zip(found, self.content, strict=True)) if a != b)
            return {"size": size, "wrong": f"byte {at} of {size}"}
        return {"size": size, "wrong": ""}


def main() -> None:
    """See the module."""
    os.chdir(sys.argv[1])
    files = [File(name) for name in NAMES]
    for file, other in zip(files, reversed(files), strict=True):
        file.other = other
    for line in sys.stdin:
        kind, which, *arguments = json.loads(line)
        print(json.dumps(files[which].do(kind, arguments)), flush=True)


if __name__ == "__main__":
    main()
