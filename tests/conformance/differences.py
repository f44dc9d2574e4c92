"""What is known to differ from ext4, each with its reason; docs/posix.md and docs/pyfuse3.md list the same.

An entry that its witness does not show any more fails the suite.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import NamedTuple

TRANSPORTS = ("kernel", "pyfuse3")
KERNEL, PYFUSE3 = ("kernel",), ("pyfuse3",)


class Difference(NamedTuple):
    """``case`` is one or more patterns, with blanks between; ``step``, ``what`` (``result``, or ``PATH ATTRIBUTE``) and
    ``values`` (``EXT4 COWFS``) are one each; ``witness`` is a case that shows it, ``transports`` are those that it is
    true of, and ``most`` is how many differences it explains on each of them when every case is played.

    The first entry that covers a difference explains it.
    """

    name: str
    case: str
    step: str
    what: str
    witness: str
    reason: str
    most: tuple[int, ...]
    transports: tuple[str, ...] = TRANSPORTS
    values: str = "*"

    def most_on(self, transport: str) -> int:
        """How many differences it may explain on a transport that it is true of."""
        return self.most[self.transports.index(transport)]


KNOWN: tuple[Difference, ...] = (
    Difference(
        "no-birth-time",
        "*",
        "*",
        "* born",
        "open/fifo/rdwr/root",
        "pyfuse3 has no STATX: no birth time is shown",
        (264_302,),
        PYFUSE3,
    ),
    Difference(
        "no-fallocate",
        "fallocate* clear/allocate/* clear/punch/* inotify/allocate",
        "*",
        "*",
        "fallocate/file/punch/0+4096",
        "pyfuse3 has no FALLOCATE: EOPNOTSUPP, and nothing is changed",
        (1_187,),
        PYFUSE3,
    ),
    Difference(
        "writer-unknown",
        " ".join(f"clear/{how}/{mode}/*" for how in ("write", "pwritev", "copy", "sendfile") for mode in (2745, 6666)),
        "change",
        "./d/x mode",
        "clear/write/6666/False/other",
        "pyfuse3 does not say who writes, only who opened: if root, set-group-id without group execute stays",
        (16,),
        PYFUSE3,
        "'0o100* '0o102*",
    ),
    Difference(
        "no-seek-hole",
        "seek/*",
        "lseek [34] *",
        "result",
        "seek/sparse",
        "pyfuse3 has no LSEEK: to the kernel a file is one piece of data",
        (14,),
        PYFUSE3,
    ),
    Difference(
        "no-tmpfile",
        "*tmpfile*",
        "*",
        "*",
        "make/tmpfile/755/owner",
        "pyfuse3 has no TMPFILE: EOPNOTSUPP",
        (123,),
        PYFUSE3,
    ),
    Difference(
        "no-birth-time-asked",
        "statx/*",
        "[mb]*",
        "result",
        "statx/fifo",
        "likewise, as statx itself says it",
        (24,),
        PYFUSE3,
    ),
    Difference(
        "umask-with-default-acl",
        "acl-inherited/27/*",
        "*",
        "* [mx]*",
        "acl-inherited/27/minimal/other",
        "pyfuse3 lets the kernel apply the umask, also in a directory whose default ACL should replace it",
        (415,),
        PYFUSE3,
    ),
    Difference(
        "fifo-times",
        "open*/fifo/*",
        "write",
        "./d/x times",
        "open/fifo/rdwr/root",
        "the kernel tells nobody of what is written to a named pipe; ext4 moves the pipe's times",
        (26, 26),
    ),
    Difference(
        "symlink-blocks",
        "make*/symlink-long/*",
        "make",
        "./d/x blocks",
        "make-over/symlink-long/missing",
        "a long target lies with the inode and takes no block of its own",
        (27, 27),
    ),
    Difference(
        "xattr-blocks",
        "xattr*",
        "*",
        "* blocks",
        "xattr-size/1000",
        "extended attributes count towards no file; on ext4 those that do not fit the inode take a block",
        (93, 93),
    ),
    Difference(
        "xattr-size",
        "xattr-size/65536",
        "set",
        "*",
        "xattr-size/65536",
        "one attribute may have 64 KiB, all of a file 128 KiB; on ext4 all must fit one block",
        (3, 3),
    ),
    Difference(
        "allocate-reserves-nothing",
        "*/allocate*",
        "*",
        "* blocks",
        "fallocate/empty/allocate/0+4096",
        "a copy-on-write store cannot reserve the place of a later write: holes stay holes",
        (85,),
        KERNEL,
    ),
    Difference(
        "keep-size-reserves-nothing",
        "fallocate*/keep*",
        "*",
        "* blocks",
        "fallocate/empty/keep/0+4096",
        "likewise",
        (15,),
        KERNEL,
    ),
    Difference(
        "zero-range-is-a-hole",
        "fallocate*/zero*",
        "*",
        "* blocks",
        "fallocate/file/zero/0+4096",
        "zeroed pages are holes; ext4 keeps them allocated",
        (36,),
        KERNEL,
    ),
    Difference(
        "no-collapse",
        "fallocate*/collapse*",
        "fallocate",
        "*",
        "fallocate/file/collapse/0+4096",
        "FUSE has no FALLOC_FL_COLLAPSE_RANGE: EOPNOTSUPP",
        (46,),
        KERNEL,
    ),
    Difference(
        "no-insert",
        "fallocate*/insert*",
        "fallocate",
        "*",
        "fallocate/file/insert/0+4096",
        "FUSE has no FALLOC_FL_INSERT_RANGE: EOPNOTSUPP",
        (46,),
        KERNEL,
    ),
    Difference(
        "seek-limit",
        "seek-far/*",
        "lseek [012]",
        "result",
        "seek-far/file",
        "the kernel lets a FUSE file be sought to 2**63, whatever it may grow to; ext4 stops at 16 TiB",
        (9, 9),
        values="'EINVAL' [0-9]*",
    ),
    Difference(
        "direct-unaligned",
        "direct",
        "*, *",
        "result",
        "direct",
        "O_DIRECT asks for no alignment; ext4 refuses odd places and lengths",
        (2, 2),
        values="'EINVAL' [0-9]*",
    ),
    Difference(
        "rdonly-trunc-of-a-running-program",
        "exec/running/root",
        "trunc",
        "./d/x *",
        "exec/running/root",
        "O_RDONLY|O_TRUNC on a program that runs gives ETXTBSY, but the kernel has had the file emptied by then",
        (4, 4),
    ),
    Difference(
        "whiteout-that-fails",
        "rename/*/full/4 rename-odd/d:e/4",
        "rename",
        "* times",
        "rename/dir/full/4",
        "ext4 makes the whiteout before it finds that the target is not empty, and so moves the directory's times",
        (3, 3),
    ),
    Difference(
        "chown-to-nothing",
        "chown-setid/file/*/-1:-1/*",
        "chown",
        "*",
        "chown-setid/file/2745/-1:-1/other",
        "FUSE sends for chown(-1, -1) of a set-id file what it also sends ahead of a write: by a stranger it "
        "succeeds (EPERM on ext4), by root it leaves the bits",
        (37, 2),
    ),
    Difference(
        "far-times",
        "utimens-far/*",
        "utimens",
        "./d/x times",
        "utimens-far/file/2262",
        "times are kept from 1677 to 2262, to the nanosecond, and on ext4 from 1901 to 2446; others become the nearest",
        (12, 12),
    ),
    Difference(
        "no-inode-flags",
        "ioctl/*",
        "*flags",
        "*",
        "ioctl/file/owner",
        "FS_IOC_GETFLAGS and FS_IOC_SETFLAGS (lsattr, chattr) give ENOTTY: files have no such flags",
        (41, 41),
    ),
    Difference(
        "no-fiemap",
        "ioctl/*",
        "extents",
        "result",
        "ioctl/file/owner",
        "FUSE has no FIEMAP (filefrag): EOPNOTSUPP",
        (12, 12),
        values="* 'ENOTSUP'",
    ),
)


def known_of(transport: str) -> list[Difference]:
    """The entries for a transport."""
    return [known for known in KNOWN if transport in known.transports]


def matches(case: str, patterns: str) -> bool:
    """Whether one of the patterns, with blanks between, covers the name of a case."""
    return any(fnmatchcase(case, each) for each in patterns.split())


def explained(transport: str, case: str, step: str, what: str, values: str) -> Difference | None:
    """The entry that covers a difference."""
    for known in known_of(transport):
        parts = ((step, known.step), (what, known.what), (values, known.values))
        if matches(case, known.case) and all(fnmatchcase(*part) for part in parts):
            return known
    return None


def witnesses() -> frozenset[str]:
    """Cases that are always played."""
    return frozenset(known.witness for known in KNOWN)
