"""A listing that runs into damage: what lies before it is told, and nothing is counted that was not."""

from __future__ import annotations

import errno
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import trio

from cowfs.errors import Corrupt
from cowfs.formats.node import Branch, decode_pointer
from cowfs.geometry import Geometry
from cowfs.tree.nodes import load
from cowfs.view.directory import StoredDirectory
from cowfs.view.inode import Caller
from cowfs_daemon.fuse import names, protocol
from cowfs_daemon.fuse.negotiate import Negotiated
from cowfs_daemon.fuse.served import Served
from tests.support.single import Single

FILES = 400
ROOM = 1 << 20
WHO = Caller()
HEAD, DIRENT, ATTRIBUTES = 16, 24, 128

Listing = Callable[..., bytes]


class Damaged:
    """A directory at rest of several leaves, one of which is damaged."""

    def __init__(self, folder: Path, which: int) -> None:
        self.one = one = Single(folder / "journals", Geometry(inline_limit=512, leaf_limit=4096))
        self.directory = one.view.mkdir(1, b"d", 0o755, WHO).ino
        for number in range(FILES):
            one.view.mknod(self.directory, b"name-%04d" % number, stat.S_IFREG | 0o644, 0, WHO)
        data = one.settled().state.inode(self.directory).data
        assert isinstance(data, StoredDirectory)
        top = decode_pointer(data.pointer)
        assert top is not None
        branch = load(one.blocks, top.id)
        assert isinstance(branch, Branch)
        leaves = [child.ref.id for child in branch.children]
        assert len(leaves) > 3
        one.blocks.blocks[leaves[which]] = b"damaged"
        one.blocks.nodes.clear()
        one.view.state._shrink()
        self.served = Served(
            1, Negotiated(45, 0, ROOM), complete=True, sync_later=lambda unique: None, refresh=lambda ino: None
        )
        one.view.state.pinned = self.served.lookups

    def listed(self, listing: Listing, plus: int, cookie: int) -> list[tuple[bytes, int]]:
        """(name, cookie) of what one request is answered with."""
        opcode = protocol.READDIRPLUS if plus else protocol.READDIR
        body = struct.pack("<QQI20x", 0, cookie, ROOM)
        request = bytearray(struct.pack("<IIQQ16x", 40 + len(body), opcode, 7, self.directory) + body)
        reply = listing(self.served, self.one.view, request, len(request), 7, self.directory)
        found, at = [], HEAD
        while at < len(reply):
            _, entry, length, _ = struct.unpack_from("<QQII", reply, at + plus)
            name = reply[at + plus + DIRENT : at + plus + DIRENT + length]
            found.append((name, entry))
            at += -(-(plus + DIRENT + length) // 8) * 8
        return found


def by_foreground(damaged: Damaged, cookie: int) -> list[tuple[bytes, int]]:
    """The same, by the transport of pyfuse3."""
    pyfuse3 = pytest.importorskip("pyfuse3")
    from cowfs_daemon.foreground.operations import Operations

    operations = Operations.__new__(Operations)
    operations._workspace, operations._served = damaged.one.workspace, damaged.served
    operations._attributes = lambda inode: inode  # type: ignore[method-assign, assignment, return-value]
    found: list[tuple[bytes, int]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pyfuse3, "readdir_reply", lambda token, name, attr, at: found.append((name, at)) or True)
        try:
            trio.run(operations.readdir, damaged.directory, cookie, cast(Any, None))
        except pyfuse3.FUSEError as error:
            if error.errno != errno.EIO:
                raise
            raise Corrupt("as pyfuse3 says it") from error
    return found


def by_readdir(damaged: Damaged, cookie: int) -> list[tuple[bytes, int]]:
    """By READDIR."""
    return damaged.listed(names.readdir, 0, cookie)


def by_readdirplus(damaged: Damaged, cookie: int) -> list[tuple[bytes, int]]:
    """By READDIRPLUS."""
    return damaged.listed(names.readdirplus, ATTRIBUTES, cookie)


Listed = Callable[[Damaged, int], list[tuple[bytes, int]]]
WAYS = pytest.mark.parametrize("listed", [by_readdir, by_readdirplus, by_foreground])


@WAYS
def test_names_before_the_damage_are_listed(tmp_path: Path, listed: Listed) -> None:
    damaged = Damaged(tmp_path, 2)
    found = listed(damaged, 0)
    assert 2 < len(found) < FILES
    known = dict(damaged.served.lookups)
    for _ in range(3):
        with pytest.raises(Corrupt):
            listed(damaged, found[-1][1])
    assert damaged.served.lookups == known
    inodes = [damaged.one.view.lookup(damaged.directory, name) for name, _ in found[2:]]
    assert known.keys() - {1} == ({inode.ino for inode in inodes if inode} if listed is not by_readdir else set())


@WAYS
def test_what_fails_from_the_start_counts_nothing(tmp_path: Path, listed: Listed) -> None:
    damaged = Damaged(tmp_path, 0)
    dots = listed(damaged, 0)
    assert [name for name, _ in dots] == [b".", b".."]
    for _ in range(3):
        with pytest.raises(Corrupt):
            listed(damaged, dots[-1][1])
    assert damaged.served.lookups.keys() == {1}
