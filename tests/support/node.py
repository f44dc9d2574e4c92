"""One inode of the model: its attributes, and what it holds, in plain dictionaries."""

import stat

PAGE = 4096
"""Bytes in a page: what is allocated or a hole."""


class Node:
    """One inode: the attributes of ``stat``, and what it holds, by kind."""

    def __init__(self, ino: int, mode: int, uid: int, gid: int, rdev: int, now: int) -> None:
        self.ino, self.mode, self.uid, self.gid, self.rdev = ino, mode, uid, gid, rdev
        self.nlink = 1
        self.atime = self.mtime = self.ctime = self.btime = now
        self.length = 0
        self.pages: dict[int, bytearray] = {}
        self.entries: dict[bytes, int] = {}
        self.target = b""
        self.xattrs: dict[bytes, bytes] = {}
        self.temporary = False

    @property
    def is_dir(self) -> bool:
        """Whether it is a directory."""
        return stat.S_ISDIR(self.mode)

    @property
    def size(self) -> int:
        """st_size in bytes."""
        return PAGE if self.is_dir else len(self.target) if stat.S_ISLNK(self.mode) else self.length

    @property
    def blocks(self) -> int:
        """st_blocks in units of 512 bytes."""
        return 8 if self.is_dir else 8 * len(self.pages)

    def drop_set_id(self) -> None:
        """What chown, and a write by somebody without CAP_FSETID, does to the mode."""
        self.mode &= ~stat.S_ISUID
        if self.mode & stat.S_IXGRP:
            self.mode &= ~stat.S_ISGID

    # -- bytes of a regular file: only pages that were written exist

    def read(self, offset: int, size: int) -> bytes:
        """Bytes, fewer at the end; holes are zeros."""
        end = min(offset + size, self.length)
        data = bytearray(max(end - offset, 0))
        for number, page in self.pages.items():
            first, last = max(offset, number * PAGE), min(end, (number + 1) * PAGE)
            if first < last:
                data[first - offset : last - offset] = page[first - number * PAGE : last - number * PAGE]
        return bytes(data)

    def write(self, offset: int, data: bytes) -> None:
        """Put bytes, growing the file if need be."""
        end = offset + len(data)
        for number in range(offset // PAGE, -(-end // PAGE)):
            first, last = max(offset, number * PAGE), min(end, (number + 1) * PAGE)
            page = self.pages.setdefault(number, bytearray(PAGE))
            page[first - number * PAGE : last - number * PAGE] = data[first - offset : last - offset]
        self.length = max(self.length, end)

    def cut(self, size: int) -> None:
        """Another size; what lies beyond is gone, and reads as a hole if the file grows again."""
        if size < self.length:
            self.pages = {number: page for number, page in self.pages.items() if number * PAGE < size}
            if size // PAGE in self.pages:
                self.pages[size // PAGE][size % PAGE :] = bytes(PAGE - size % PAGE)
        self.length = size

    def punch(self, offset: int, end: int) -> None:
        """Whole pages become holes, the edges zeros; a page that the end of the file cuts counts as whole."""
        for number in list(self.pages):
            page_start, page_end = number * PAGE, (number + 1) * PAGE
            if offset <= page_start and end >= min(page_end, self.length):
                del self.pages[number]
                continue
            first, last = max(offset, page_start), min(end, page_end)
            if first < last:
                self.pages[number][first - page_start : last - page_start] = bytes(last - first)

    def next_data(self, offset: int) -> int | None:
        """The first byte at or after ``offset`` in a page that exists, or None."""
        later = [number for number in self.pages if number >= offset // PAGE]
        return max(min(later) * PAGE, offset) if later else None

    def next_hole(self, offset: int) -> int:
        """The first byte at or after ``offset`` in a page that does not exist, or the end of the file."""
        while offset < self.length and offset // PAGE in self.pages:
            offset = (offset // PAGE + 1) * PAGE
        return min(offset, self.length)
