"""What is known to differ from ext4, each with its reason; docs/posix.md lists the same.

An entry that its witness does not show any more fails the suite.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import NamedTuple


class Difference(NamedTuple):
    """``case``, ``step`` and ``what`` (``result``, or ``PATH ATTRIBUTE``) are patterns; ``witness`` a case with it."""

    name: str
    case: str
    step: str
    what: str
    witness: str
    reason: str


KNOWN: tuple[Difference, ...] = (
    Difference(
        "fifo-times",
        "open*/fifo/*",
        "write",
        "./d/x times",
        "open/fifo/rdwr/root",
        "the kernel tells nobody of what is written to a named pipe; ext4 moves the pipe's times",
    ),
    Difference(
        "symlink-blocks",
        "make*/symlink-long/*",
        "make",
        "./d/x blocks",
        "make-over/symlink-long/missing",
        "a long target lies with the inode and takes no block of its own",
    ),
    Difference(
        "xattr-blocks",
        "xattr*",
        "*",
        "* blocks",
        "xattr-size/1000",
        "extended attributes count towards no file; on ext4 those that do not fit the inode take a block",
    ),
    Difference(
        "xattr-size",
        "xattr-size/65536",
        "set",
        "*",
        "xattr-size/65536",
        "one attribute may have 64 KiB, all of a file 128 KiB; on ext4 all must fit one block",
    ),
    Difference(
        "allocate-reserves-nothing",
        "*/allocate*",
        "*",
        "* blocks",
        "fallocate/empty/allocate/0+4096",
        "a copy-on-write store cannot reserve the place of a later write: holes stay holes",
    ),
    Difference(
        "keep-size-reserves-nothing",
        "fallocate*/keep*",
        "*",
        "* blocks",
        "fallocate/empty/keep/0+4096",
        "likewise",
    ),
    Difference(
        "zero-range-is-a-hole",
        "fallocate*/zero*",
        "*",
        "* blocks",
        "fallocate/file/zero/0+4096",
        "zeroed pages are holes; ext4 keeps them allocated",
    ),
    Difference(
        "no-collapse",
        "fallocate*/collapse*",
        "fallocate",
        "*",
        "fallocate/file/collapse/0+4096",
        "FUSE has no FALLOC_FL_COLLAPSE_RANGE: EOPNOTSUPP",
    ),
    Difference(
        "no-insert",
        "fallocate*/insert*",
        "fallocate",
        "*",
        "fallocate/file/insert/0+4096",
        "FUSE has no FALLOC_FL_INSERT_RANGE: EOPNOTSUPP",
    ),
    Difference(
        "seek-limit",
        "seek-far/*",
        "lseek *",
        "result",
        "seek-far/file",
        "the kernel lets a FUSE file be sought to 2**63, whatever it may grow to; ext4 stops at 16 TiB",
    ),
    Difference(
        "direct-unaligned",
        "direct",
        "*",
        "result",
        "direct",
        "O_DIRECT asks for no alignment; ext4 refuses odd places and lengths",
    ),
    Difference(
        "rdonly-trunc-of-a-running-program",
        "exec/running/root",
        "*",
        "./d/x *",
        "exec/running/root",
        "O_RDONLY|O_TRUNC on a program that runs gives ETXTBSY, but the kernel has had the file emptied by then",
    ),
    Difference(
        "whiteout-that-fails",
        "rename*",
        "rename",
        "* times",
        "rename/dir/full/4",
        "ext4 makes the whiteout before it finds that the target is not empty, and so moves the directory's times",
    ),
    Difference(
        "chown-to-nothing",
        "chown-setid/file/*/-1:-1/*",
        "chown",
        "*",
        "chown-setid/file/4755/-1:-1/other",
        "FUSE sends for chown(-1, -1) of a set-id file what it also sends ahead of a write: by a stranger it "
        "succeeds (EPERM on ext4), by root it leaves the bits",
    ),
)


def explained(case: str, step: str, what: str) -> Difference | None:
    """The entry that covers a difference."""
    for known in KNOWN:
        if fnmatchcase(case, known.case) and fnmatchcase(step, known.step) and fnmatchcase(what, known.what):
            return known
    return None


def witnesses() -> frozenset[str]:
    """Cases that are always played."""
    return frozenset(known.witness for known in KNOWN)
