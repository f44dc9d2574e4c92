"""The INIT exchange: what the kernel offers, what is taken. Pure."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from cowfs.errors import Invalid
from cowfs_daemon.fuse import protocol

ASYNC_READ, ATOMIC_O_TRUNC, EXPORT_SUPPORT, BIG_WRITES, DONT_MASK = 1 << 0, 1 << 3, 1 << 4, 1 << 5, 1 << 6
DO_READDIRPLUS, READDIRPLUS_AUTO, ASYNC_DIO, WRITEBACK_CACHE = 1 << 13, 1 << 14, 1 << 15, 1 << 16
PARALLEL_DIROPS, POSIX_ACL, ABORT_ERROR, MAX_PAGES = 1 << 18, 1 << 20, 1 << 21, 1 << 22
CACHE_SYMLINKS, EXPLICIT_INVAL_DATA = 1 << 23, 1 << 25
HANDLE_KILLPRIV_V2, SETXATTR_EXT, INIT_EXT = 1 << 28, 1 << 29, 1 << 30
HAS_EXPIRE_ONLY, PASSTHROUGH, HAS_RESEND, ALLOW_IDMAP = 1 << 35, 1 << 37, 1 << 39, 1 << 40

WANTED: Final = (
    ASYNC_READ | ATOMIC_O_TRUNC | EXPORT_SUPPORT | BIG_WRITES | DONT_MASK | DO_READDIRPLUS | READDIRPLUS_AUTO
    | ASYNC_DIO | PARALLEL_DIROPS | POSIX_ACL | MAX_PAGES | CACHE_SYMLINKS
    | HANDLE_KILLPRIV_V2 | SETXATTR_EXT | INIT_EXT | HAS_EXPIRE_ONLY | HAS_RESEND | ALLOW_IDMAP
)  # fmt: skip
"""Taken where offered.

Left out on purpose: WRITEBACK_CACHE (the kernel would own sizes and times, and a restore could not take them
back), the lock flags (locks stay in the kernel and survive a worker), EXPLICIT_INVAL_DATA (without it the
kernel drops a file's pages whenever an answer changes its size, which a restore relies on).
"""

PAGES: Final = 256
MAX_WRITE: Final = PAGES * 4096
REQUEST_BYTES: Final = MAX_WRITE + 4096
"""A read buffer holds the largest request, headers included."""

MAX_BACKGROUND: Final = 64

_IN = struct.Struct("<IIII")
_OUT = struct.Struct("<IiQIIIIHHIIHHIIHH20x")


@dataclass(frozen=True, slots=True)
class Negotiated:
    """What both sides agreed on; it belongs to the connection and outlives the process that mounted."""

    minor: int
    flags: int
    max_write: int

    def has(self, flag: int) -> bool:
        """Whether ``flag`` was negotiated."""
        return bool(self.flags & flag)


def negotiate(request: bytes, *, passthrough: bool = False) -> tuple[Negotiated, bytes]:
    """The INIT request -> (what is agreed, the reply). Raises :class:`Invalid` for a kernel that is too old.

    ``passthrough``: take that, too, where it is offered; needs CAP_SYS_ADMIN.
    """
    if len(request) < protocol.HEADER_BYTES + _IN.size:
        raise Invalid("the kernel's FUSE INIT request is too short")
    _, opcode, unique, _ = protocol.header(request)
    major, minor, readahead, low = _IN.unpack_from(request, protocol.HEADER_BYTES)
    if opcode != protocol.INIT:
        raise Invalid(f"FUSE request {opcode} came before INIT")
    if major != protocol.MAJOR or minor < protocol.MINOR_MIN:
        raise Invalid(
            f"the kernel speaks FUSE {major}.{minor}; 7.{protocol.MINOR_MIN} is needed", hint="use Linux 5.4 or newer"
        )
    offered = low
    if low & INIT_EXT and len(request) >= protocol.HEADER_BYTES + _IN.size + 4:
        offered |= struct.unpack_from("<I", request, protocol.HEADER_BYTES + _IN.size)[0] << 32
    flags = offered & (WANTED | (PASSTHROUGH if passthrough else 0))
    agreed = Negotiated(min(minor, protocol.MINOR), flags, MAX_WRITE)
    reply = _OUT.pack(
        16 + 64, 0, unique, protocol.MAJOR, agreed.minor, readahead, flags & 0xFFFFFFFF, MAX_BACKGROUND,
        MAX_BACKGROUND * 3 // 4, MAX_WRITE, 1, PAGES, 0, flags >> 32, int(bool(flags & PASSTHROUGH)), 0, 0,
    )  # fmt: skip
    return agreed, reply
