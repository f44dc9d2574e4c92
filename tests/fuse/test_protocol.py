"""The wire format: sizes of linux/fuse.h, INIT, and requests that are malformed."""

from __future__ import annotations

import random
import re
import struct
from dataclasses import dataclass
from pathlib import Path

import pytest

from cowfs.errors import Corrupt, CowfsError, Invalid
from cowfs_daemon.fuse import negotiate as n
from cowfs_daemon.fuse import protocol
from cowfs_daemon.fuse.dispatch import HANDLERS
from cowfs_daemon.fuse.mount import parse_mount_table
from cowfs_daemon.fuse.served import Served

from .conftest import new_workspace


@dataclass
class Anything:
    ino: int = 5
    mode: int = 0o100644
    uid: int = 1
    gid: int = 2
    nlink: int = 3
    rdev: int = 0
    size: int = 100
    blocks: int = 8
    atime: int = -1
    mtime: int = 1_500_000_000_123_456_789
    ctime: int = 0
    btime: int = 7


def request(opcode: int, body: bytes, nodeid: int = 1, unique: int = 2) -> bytes:
    return struct.pack("<IIQQIIIHH", 40 + len(body), opcode, unique, nodeid, 0, 0, 1, 0, 0) + body


def test_replies_have_the_sizes_of_the_kernels_structs() -> None:
    inode = Anything()
    sizes = {
        protocol.entry(1, inode, 9): 16 + 128,
        protocol.negative_entry(1, 9): 16 + 128,
        protocol.attributes(1, inode): 16 + 104,
        protocol.created(1, inode, 9, 2): 16 + 128 + 16,
        protocol.opened(1, 2): 16 + 16,
        protocol.statx(1, inode): 16 + 288,
        protocol.statfs(1, 4096, 1, 2, 3, 4): 16 + 80,
        protocol.counted(1, 5): 16 + 8,
        protocol.positioned(1, 5): 16 + 8,
        protocol.error(1, 5): 16,
        protocol.data(1, b"abc"): 16 + 3,
        protocol.invalidate_inode(5): 16 + 24,
        protocol.expire_entry(5, b"name"): 16 + 16 + 5,
        protocol.resend(): 16,
    }
    for reply, size in sizes.items():
        assert len(reply) == struct.unpack_from("<I", reply)[0] == size
    for length in range(1, 20):
        entry = protocol.dirent(5, 2, b"n" * length, 8)
        assert len(entry) == (24 + length + 7) // 8 * 8
        for each in (inode, None):
            plus = protocol.direntplus(each, 1, 0, 5, 2, b"n" * length, 8)
            assert len(plus) == 128 + len(entry)
            assert plus[128:] == entry


def test_times_before_1970_keep_their_nanoseconds() -> None:
    reply = protocol.attributes(1, Anything(atime=-1))
    seconds, ns = struct.unpack_from("<q", reply, 32 + 24)[0], struct.unpack_from("<I", reply, 32 + 48)[0]
    assert (seconds, ns) == (-1, 999_999_999)


def init(minor: int, low: int, high: int = 0, major: int = 7) -> bytes:
    return request(protocol.INIT, struct.pack("<IIIII44x", major, minor, 131072, low, high))


def test_init_takes_what_is_offered_and_never_the_writeback_cache() -> None:
    agreed, reply = n.negotiate(init(45, 0xFFFFFFFF, 0xFFFFFFFF))
    assert agreed.flags == n.WANTED
    assert not agreed.has(n.WRITEBACK_CACHE)
    assert len(reply) == 16 + 64
    major, minor, _, low = struct.unpack_from("<IIII", reply, 16)
    assert (major, minor) == (7, 45)
    assert not low & n.WRITEBACK_CACHE
    assert low & n.INIT_EXT


def test_init_with_older_and_newer_kernels() -> None:
    agreed, reply = n.negotiate(init(31, n.ATOMIC_O_TRUNC | n.MAX_PAGES, 0xFFFFFFFF))
    assert (agreed.minor, agreed.flags) == (31, n.ATOMIC_O_TRUNC | n.MAX_PAGES)
    assert struct.unpack_from("<I", reply, 16 + 32)[0] == 0
    assert n.negotiate(init(99, 0))[0].minor == protocol.MINOR
    for bad in (init(30, 0), init(0, 0, major=8), request(protocol.LOOKUP, bytes(64)), b"", init(45, 0)[:44]):
        with pytest.raises(Invalid):
            n.negotiate(bad)


def served() -> Served:
    return Served(
        1, n.Negotiated(45, n.WANTED, 1 << 20), complete=True, sync_later=lambda unique: None, refresh=lambda ino: None
    )


@pytest.mark.parametrize(
    ("opcode", "body"),
    [
        (protocol.LOOKUP, b""),
        (protocol.LOOKUP, b"unterminated"),
        (protocol.LOOKUP, b"two\0names\0"),
        (protocol.MKDIR, b"\0" * 7),
        (protocol.MKNOD, b"\0" * 16 + b"name"),
        (protocol.SYMLINK, b"one\0"),
        (protocol.RENAME2, b"\0" * 16 + b"one\0"),
        (protocol.WRITE, struct.pack("<QQIIQII", 0, 0, 100, 0, 0, 0, 0) + b"short"),
        (protocol.WRITE, b""),
        (protocol.SETATTR, b"\0" * 80),
        (protocol.SETXATTR, struct.pack("<IIII", 50, 0, 0, 0) + b"user.a\0value"),
        (protocol.BATCH_FORGET, struct.pack("<II", 0xFFFFFFFF, 0) + bytes(64)),
        (protocol.READ, bytes(8)),
        (protocol.COPY_FILE_RANGE, bytes(55)),
    ],
)
def test_malformed_requests(tmp_path: Path, opcode: int, body: bytes) -> None:
    raw = bytearray(request(opcode, body))
    size = len(raw)
    raw += bytes(1000)  # What is left of an earlier request must not be taken for a part of this one.
    view = new_workspace(tmp_path).view
    with pytest.raises(Corrupt):
        HANDLERS[opcode](served(), view, raw, size, 2, 1)


def test_header_must_claim_what_was_read() -> None:
    protocol.check_header(40, 40)
    for size, length in ((39, 39), (40, 41), (100, 40)):
        with pytest.raises(Corrupt):
            protocol.check_header(size, length)


def test_random_requests_raise_nothing_else(tmp_path: Path) -> None:
    r = random.Random(7)
    view = new_workspace(tmp_path).view
    state = served()
    for _ in range(20_000):
        opcode = r.randrange(protocol.OPCODES)
        body = r.choice((r.randbytes(r.randrange(120)), bytes(r.randrange(60)) + b"na\0me\0"[: r.randrange(7)]))
        raw = bytearray(request(opcode, body, nodeid=r.randrange(1, 4)))
        try:
            HANDLERS[opcode](state, view, raw, len(raw), 2, 1)
        except (OSError, CowfsError):
            continue


def test_mount_table_with_strange_paths() -> None:
    text = (
        b"36 35 98:0 /mnt1 /mnt\\040two\\134 rw,noatime master:1 - ext3 /dev/root rw\n"
        b"40 36 0:99 / /a\\012b rw - fuse.cowfs cowfs rw\n"
    )
    first, second = parse_mount_table(text)
    assert (first.mount_id, first.parent_id, first.root, first.path, first.kind) == (
        36,
        35,
        "/mnt1",
        "/mnt two\\",
        "ext3",
    )
    assert (second.path, second.kind, second.device) == ("/a\nb", "fuse.cowfs", 99)


def test_every_flag_that_is_taken_is_explained() -> None:
    sizes = ("MAX_WRITE", "MAX_BACKGROUND")
    flags = {name: each for name, each in vars(n).items() if name.isupper() and isinstance(each, int)}
    wanted = n.WANTED | n.PASSTHROUGH
    taken = {name for name, each in flags.items() if each.bit_count() == 1 and each & wanted and name not in sizes}
    assert len(taken) == wanted.bit_count()
    table = (
        (Path(__file__).parents[2] / "docs/fuse.md")
        .read_text()
        .partition("## What is negotiated")[2]
        .partition("\n## ")[0]
    )
    assert {name for name in taken if not re.search(rf"\b{name}\b", table)} == set()
