"""A listing that runs into damage: what lies before it is told, and nothing is counted that was not."""

from __future__ import annotations

import stat
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

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


@pytest.fixture(params=[(names.readdir, 0), (names.readdirplus, ATTRIBUTES)], ids=["READDIR", "READDIRPLUS"])
def listing(request: pytest.FixtureRequest) -> tuple[Listing, int]:
    found: tuple[Listing, int] = request.param
    return found


def test_names_before_the_damage_are_listed(tmp_path: Path, listing: tuple[Listing, int]) -> None:
    damaged = Damaged(tmp_path, 2)
    found = damaged.listed(*listing, 0)
    assert 2 < len(found) < FILES
    known = dict(damaged.served.lookups)
    for _ in range(3):
        with pytest.raises(Corrupt):
            damaged.listed(*listing, found[-1][1])
    assert damaged.served.lookups == known
    counted = {damaged.one.view.lookup(damaged.directory, name) for name, _ in found[2:]} if listing[1] else set()
    assert {inode.ino for inode in counted if inode} == known.keys() - {1}


def test_what_fails_from_the_start_counts_nothing(tmp_path: Path, listing: tuple[Listing, int]) -> None:
    damaged = Damaged(tmp_path, 0)
    dots = damaged.listed(*listing, 0)
    assert [name for name, _ in dots] == [b".", b".."]
    for _ in range(3):
        with pytest.raises(Corrupt):
            damaged.listed(*listing, dots[-1][1])
    assert damaged.served.lookups.keys() == {1}
