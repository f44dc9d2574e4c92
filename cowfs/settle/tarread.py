"""Reading a tar archive that may be hostile: entry by entry, in one pass, everything bounded.

What is read: ustar, pax (with SCHILY.xattr and SCHILY.acl), GNU long names, numbers in base 256, sparse files of GNU
tar (old, 0.0, 0.1, 1.0), Unix V7. The standard library's tarfile takes a damaged header for the end of the archive, and
rounds times to floats; both lose data without a word.

Sources: tar(5) of libarchive, POSIX pax, "Storing Sparse Files" and "Basic Tar Format" of the GNU tar manual.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from typing import NamedTuple, NoReturn, Protocol

from cowfs.errors import Invalid
from cowfs.settle.acltext import acl_from_text

BLOCK = 512
HEADER_MAX = 1 << 20
"""Bytes of an extended header, a long name or a sparse map, at most."""

EXTENDED_MAX = 2 * HEADER_MAX
"""Bytes of all extended headers and long names in front of one entry, at most."""

GLOBALS_MAX = 256
"""Records of global headers that hold for what follows, at most: each entry looks at all of them."""

PATH_MAX = 32 * 1024
"""Bytes of a path, at most."""

SIZE_MAX = (1 << 63) - 1
NS = 1_000_000_000

_TYPES = {
    b"0": stat.S_IFREG, b"\0": stat.S_IFREG, b"7": stat.S_IFREG, b"S": stat.S_IFREG, b"2": stat.S_IFLNK,
    b"3": stat.S_IFCHR, b"4": stat.S_IFBLK, b"5": stat.S_IFDIR, b"D": stat.S_IFDIR, b"6": stat.S_IFIFO,
}  # fmt: skip
_EXTENDED = b"xXgLKV"
_ACLS = {b"SCHILY.acl.access": b"system.posix_acl_access", b"SCHILY.acl.default": b"system.posix_acl_default"}
_XATTR = b"SCHILY.xattr."


class Stream(Protocol):
    """Bytes in order."""

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes; fewer only at the end."""


class Entry(NamedTuple):
    """One entry. ``kind``: its file type, 0 for a hard link; ``target``: of a link; ``mtime`` in ns.

    ``size``: of the file. ``regions``: (offset, length) of what the archive has of it, ascending; None: all of it.
    ``xattrs``: an access list that cannot be read is empty. ``stored``: bytes in the archive, which
    :meth:`Reader.data` reads.
    """

    path: bytes
    kind: int
    mode: int
    uid: int
    gid: int
    mtime: int
    target: bytes
    rdev: int
    xattrs: tuple[tuple[bytes, bytes], ...]
    size: int
    stored: int
    regions: tuple[tuple[int, int], ...] | None


def refuse(message: str) -> NoReturn:
    """The archive cannot be taken. Raises Invalid."""
    raise Invalid(f"tar archive: {message}")


class Reader:
    """Iterate over the entries; between two of them, :meth:`data` reads what the archive has of the last."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._left = self._padding = 0
        self._globals: dict[bytes, bytes] = {}

    def __iter__(self) -> Iterator[Entry]:
        while (entry := self._next()) is not None:
            yield entry
            self._skip()

    def data(self, size: int) -> bytes:
        """The next ``size`` bytes of the entry at hand. Raises Invalid when the archive ends before."""
        if size > self._left:
            raise AssertionError("more than the entry has")
        self._left -= size
        return self._exactly(size)

    def _exactly(self, size: int) -> bytes:
        data = self._stream.read(size)
        if len(data) != size:
            refuse("it ends in the middle of an entry")
        return data

    def _skip(self) -> None:
        left, self._left = self._left + self._padding, 0
        self._padding = 0
        while left:
            left -= len(self._exactly(min(left, 1 << 20)))

    def _whole(self, size: int) -> bytes:
        """The content of a header that is an entry of its own."""
        if size > HEADER_MAX:
            refuse(f"an extended header of {size} bytes")
        data = self._exactly(size)
        self._exactly(-size % BLOCK)
        return data

    def _next(self) -> Entry | None:
        pax: list[tuple[bytes, bytes]] = []
        long: dict[bytes, bytes] = {}
        extended = 0
        while True:
            header = self._stream.read(BLOCK)
            if len(header) != BLOCK:
                refuse("it has no end: was it cut off?" if not header else "it ends in the middle of a header")
            if not header.strip(b"\0"):
                if pax or long:
                    refuse("an extended header without an entry")
                return None
            _check(header)
            kind, size = header[156:157], _number(header[124:136], "size")
            if kind not in _EXTENDED:
                return self._entry(header, kind, size, pax, long)
            extended += BLOCK + size
            if extended > EXTENDED_MAX:
                refuse(f"more than {EXTENDED_MAX} bytes of extended headers in front of one entry")
            data = self._whole(size)
            if kind in (b"x", b"X"):
                pax += _records(data)
            elif kind == b"g":
                self._set_globals(_records(data))
            elif kind in (b"L", b"K"):
                long[kind] = data.rstrip(b"\0")

    def _set_globals(self, records: list[tuple[bytes, bytes]]) -> None:
        self._globals.update(records)
        size = sum(len(key) + len(value) for key, value in self._globals.items())
        if len(self._globals) > GLOBALS_MAX or size > HEADER_MAX:
            refuse(f"global headers with more than {GLOBALS_MAX} records, or {HEADER_MAX} bytes, in all")

    def _entry(
        self, header: bytes, kind: bytes, size: int, own: list[tuple[bytes, bytes]], long: dict[bytes, bytes]
    ) -> Entry:
        pax = {**self._globals, **dict(own)}
        path, target = _path(header), header[157:257].split(b"\0", 1)[0]
        path = pax.get(b"GNU.sparse.name", pax.get(b"path", long.get(b"L", path)))
        target = pax.get(b"linkpath", long.get(b"K", target))
        if max(len(path), len(target)) > PATH_MAX or b"\0" in path or b"\0" in target:
            refuse("a path that is none")
        if b"size" in pax:
            size = _decimal(pax[b"size"], "size")
        if kind != b"1" and kind not in _TYPES:
            refuse(f"{path!r} is of type {kind!r}, which is unknown")
        file_type = 0 if kind == b"1" else _TYPES[kind]
        if file_type == stat.S_IFREG and path.endswith(b"/") and kind == b"\0":
            file_type = stat.S_IFDIR
        if file_type != stat.S_IFREG and file_type != stat.S_IFDIR:
            size = 0  # a link may say the size of what it leads to; there is no data
        self._left, self._padding = size, -size % BLOCK
        regions, length = self._sparse(header, kind, own, pax, size)
        return Entry(
            path, file_type, _number(header[100:108], "mode") & 0o7777,
            _identity(pax.get(b"uid"), header[108:116]), _identity(pax.get(b"gid"), header[116:124]),
            _time(pax[b"mtime"]) if b"mtime" in pax else _number(header[136:148], "mtime") * NS,
            target if file_type in (0, stat.S_IFLNK) else b"",
            _device(header) if file_type in (stat.S_IFCHR, stat.S_IFBLK) else 0,
            _xattrs(pax), length, self._left, regions,
        )  # fmt: skip

    def _sparse(
        self, header: bytes, kind: bytes, own: list[tuple[bytes, bytes]], pax: dict[bytes, bytes], size: int
    ) -> tuple[tuple[tuple[int, int], ...] | None, int]:
        """(regions, size of the file) of what may be a sparse file."""
        if kind == b"S":
            return self._regions(self._old_map(header), _number(header[483:495], "size"))
        if pax.get(b"GNU.sparse.major") == b"1":
            if pax.get(b"GNU.sparse.minor") != b"0":
                refuse("a sparse file of an unknown version")
            length = _decimal(pax.get(b"GNU.sparse.realsize", b""), "size of a sparse file")
            return self._regions(self._map_in_data(), length)
        if b"GNU.sparse.map" in pax:
            values = [_decimal(each, "sparse map") for each in pax[b"GNU.sparse.map"].split(b",") if each]
        else:
            wanted = (b"GNU.sparse.offset", b"GNU.sparse.numbytes")
            values = [_decimal(value, "sparse map") for key, value in own if key in wanted]
            if not values and b"GNU.sparse.size" not in pax:
                return None, size
        return self._regions(_pairs(values), _decimal(pax.get(b"GNU.sparse.size", b""), "size of a sparse file"))

    def _old_map(self, header: bytes) -> list[tuple[int, int]]:
        fields, more = header[386:482], header[482]
        found: list[tuple[int, int]] = []
        while True:
            for at in range(0, len(fields) // 24 * 24, 24):
                if fields[at : at + 24].strip(b"\0 "):
                    found.append((_number(fields[at : at + 12], "map"), _number(fields[at + 12 : at + 24], "map")))
            if not more:
                return found
            if len(found) * 24 > HEADER_MAX:
                refuse("a sparse map without an end")
            block = self._exactly(BLOCK)
            fields, more = block[:504], block[504]

    def _map_in_data(self) -> list[tuple[int, int]]:
        """The map that a file of version 1.0 begins with: decimal numbers, a line each, to the end of a block."""
        text, lines, wanted = bytearray(), -1, 0
        while lines < wanted:
            if self._left < BLOCK or len(text) > HEADER_MAX:
                refuse("a sparse map without an end")
            block = self.data(BLOCK)
            text += block
            lines += block.count(b"\n")
            if lines >= 0 and not wanted:
                wanted = 2 * _decimal(bytes(text.split(b"\n", 1)[0]), "sparse map")
                if wanted > HEADER_MAX:
                    refuse("a sparse map without an end")
        return _pairs([_decimal(each, "sparse map") for each in bytes(text).split(b"\n")[1 : wanted + 1]])

    def _regions(self, found: list[tuple[int, int]], size: int) -> tuple[tuple[tuple[int, int], ...], int]:
        at = stored = 0
        for offset, length in found:
            if offset < at or offset + length > size:
                refuse("a sparse map that makes no sense")
            at, stored = offset + length, stored + length
        if stored != self._left:
            refuse("a sparse file whose map and data differ")
        return tuple((offset, length) for offset, length in found if length), size


def _pairs(values: list[int]) -> list[tuple[int, int]]:
    if len(values) % 2:
        refuse("a sparse map that makes no sense")
    return list(zip(values[::2], values[1::2], strict=True))


def _check(header: bytes) -> None:
    wanted = _number(header[148:156], "checksum")
    rest = header[:148] + b" " * 8 + header[156:]
    if wanted not in (sum(rest), sum(byte - 256 if byte > 127 else byte for byte in rest)):
        refuse("a header with a wrong checksum: it is damaged, or no tar archive")


def _number(field: bytes, what: str) -> int:
    """A number: octal digits, or base 256 with the highest bit set."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big", signed=False) & ((1 << (8 * len(field) - 1)) - 1)
        if field[0] & 0x40:  # negative
            value -= 1 << (8 * len(field) - 1)
        if what != "mtime" and value < 0:
            refuse(f"a negative {what}")
        return _bounded(value, what)
    text = field.strip(b" \0")
    if text.strip(b"01234567"):
        refuse(f"a {what} that is no number")
    return _bounded(int(text, 8) if text else 0, what)


def _decimal(text: bytes, what: str) -> int:
    if not text or text.strip(b"0123456789") or len(text) > 20:
        refuse(f"a {what} that is no number")
    return _bounded(int(text), what)


def _bounded(value: int, what: str) -> int:
    if abs(value) > SIZE_MAX:
        refuse(f"a {what} that is too large")
    return value


def _identity(pax: bytes | None, field: bytes) -> int:
    value = _number(field, "owner") if pax is None else _decimal(pax, "owner")
    if value >= 1 << 32:
        refuse("an owner that is too large")
    return value


def _device(header: bytes) -> int:
    major, minor = _number(header[329:337], "device"), _number(header[337:345], "device")
    if major >= 1 << 12 or minor >= 1 << 20:
        refuse("a device number with more than 32 bits")
    return minor & 0xFF | major << 8 | (minor & ~0xFF) << 12


def _time(text: bytes) -> int:
    """Seconds with a fraction -> ns, rounded down."""
    seconds, _, fraction = text.removeprefix(b"-").partition(b".")
    whole = _decimal(seconds, "time") * NS
    rest = _decimal(fraction[:9].ljust(9, b"0"), "time") if fraction else 0
    if fraction.strip(b"0123456789"):
        refuse("a time that is no number")
    if not text.startswith(b"-"):
        return whole + rest
    return -whole - rest - (1 if fraction[9:].strip(b"0") else 0)


def _path(header: bytes) -> bytes:
    name = header[:100].split(b"\0", 1)[0]
    if header[257:263] == b"ustar\0":
        prefix = header[345:500].split(b"\0", 1)[0]
        return prefix + b"/" + name if prefix else name
    return name


def _records(data: bytes) -> list[tuple[bytes, bytes]]:
    """Records ``LENGTH KEY=VALUE\\n`` of a pax header, in order."""
    found, at = [], 0
    while at < len(data):
        space = data.find(b" ", at, at + 12)
        if space < 0:
            refuse("an extended header that makes no sense")
        end = at + _decimal(data[at:space], "length")
        key, equals, value = data[space + 1 : max(end - 1, 0)].partition(b"=")
        if end > len(data) or end <= space + 1 or data[end - 1 : end] != b"\n" or not key or not equals:
            refuse("an extended header that makes no sense")
        found.append((key, value))
        at = end
    return found


def _xattrs(pax: dict[bytes, bytes]) -> tuple[tuple[bytes, bytes], ...]:
    found = {}
    for key, value in pax.items():
        if key.startswith(_XATTR):
            found[key[len(_XATTR) :]] = value
        elif key in _ACLS and value:
            found[_ACLS[key]] = acl_from_text(value) or b""
    return tuple(sorted(found.items()))
