"""The table: which suites there are, what they need, and what is run of each."""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

STRESS_S = 2


@dataclass(frozen=True)
class Check:
    """One command, run in an empty directory that is also its TMPDIR. It passes when it ends with 0 in time.

    ``name``: the suite and what is run of it.
    """

    name: str
    words: tuple[str, ...]
    limit_s: int = 120


@dataclass(frozen=True)
class Suite:
    """``package``: what brings it on Debian. ``program``: where it is here, or None. ``checks``: what is run of it."""

    name: str
    package: str
    program: Callable[[], str | None]
    checks: Callable[[str], list[Check]]


def _on_path(name: str) -> Callable[[], str | None]:
    return lambda: shutil.which(name)


PYTHON_MODULES = (
    "test_os", "test_posix", "test_posixpath", "test_genericpath", "test_stat", "test_shutil", "test_pathlib",
    "test_glob", "test_fnmatch", "test_tempfile", "test_mmap", "test_fcntl", "test_file", "test_fileio",
    "test_file_eintr", "test_io", "test_bufio", "test_largefile", "test_fileinput", "test_filecmp",
    "test_linecache", "test_unicode_file", "test_unicode_file_functions", "test_dbm", "test_dbm_dumb",
    "test_shelve", "test_sqlite3", "test_mailbox", "test_zipfile", "test_tarfile", "test_gzip", "test_bz2",
    "test_lzma", "test_zipimport", "test_import", "test_pkg", "test_runpy", "test_compileall", "test_py_compile",
    "test_cmd_line_script", "test_subprocess", "test_venv", "test_logging", "test_ioctl", "test_httpservers",
)  # fmt: skip
"""Those of Python's own tests that touch files."""


@functools.cache
def _python() -> str | None:
    """A Python that has its test suite with it: Debian's have it in a package of their own."""
    for name in (sys.executable, "python3", "python3.13", "python3.12", "python3.11"):
        found = shutil.which(name)
        code = "import test.test_os, test.test_tarfile, test.test_sqlite3"
        if found and not subprocess.run([found, "-c", code], capture_output=True, check=False).returncode:
            return found
    return None


def _python_checks(program: str) -> list[Check]:
    return [
        Check(f"python:{module}", (program, "-m", "test", "--timeout", "240", "--tempdir", ".", module), 300)
        for module in PYTHON_MODULES
    ]


STRESSORS = (
    "access", "chattr", "chdir", "chmod", "chown", "copy-file", "dir", "dirdeep", "dirmany", "dnotify", "dup",
    "fallocate", "fcntl", "fiemap", "file-ioctl", "filename", "flock", "fpunch", "fsize", "fstat", "getdent", "handle",
    "hdd", "inode-flags", "inotify", "lease", "link", "locka", "lockf", "lockofd", "rename", "symlink", "sync-file",
    "utime", "xattr", "aio", "aiol", "readahead", "revio", "seek", "msync", "mmap", "sendfile", "splice",
)  # fmt: skip
"""The classes filesystem and io, and what maps or copies files of the others. Left out is what touches more than the
directory that it is given: mounts (bind-mount, binderfs, fanotify), devices (rawdev), /proc (procfs), and what writes
out every filesystem of the machine with sync(2), over and over (dentry, io, iomix, mknod, open, touch, verity)."""

_STRESS_OPTIONS = {
    "mmap": ("--mmap-file", "--mmap-bytes", "16m"),
    "hdd": ("--hdd-bytes", "16m", "--hdd-opts", "direct,fsync,rd-rnd,wr-rnd"),
    "fallocate": ("--fallocate-bytes", "16m"),
    "seek": ("--seek-size", "16m"),
    "readahead": ("--readahead-bytes", "16m"),
    "revio": ("--revio-bytes", "16m"),
    "dirdeep": ("--dirdeep-inodes", "2000"),
}


def _stress_checks(program: str) -> list[Check]:
    common = ("--verify", "--timeout", str(STRESS_S), "--temp-path", ".")
    return [
        Check(f"stress-ng:{name}", (program, f"--{name}", "2", *common, *_STRESS_OPTIONS.get(name, ())))
        for name in STRESSORS
    ]


_FIO = {
    "psync": "--ioengine=psync --rw=randwrite --bsrange=512-64k --bs_unaligned",
    "psync-mixed": "--ioengine=psync --rw=randrw --bs=4k --fsync=32",
    "vectors": "--ioengine=pvsync2 --rw=randwrite --bs=16k --fdatasync=16",
    "direct": "--ioengine=psync --direct=1 --rw=randwrite --bs=4k",
    "libaio": "--ioengine=libaio --iodepth=16 --direct=1 --rw=randwrite --bs=4k",
    "posixaio": "--ioengine=posixaio --iodepth=8 --rw=randwrite --bs=8k",
    "mmap": "--ioengine=mmap --rw=randwrite --bs=4k",
    "mmap-sync": "--ioengine=mmap --rw=randrw --bs=4k --fsync=64",
    "jobs": "--ioengine=psync --rw=randwrite --bs=4k --numjobs=4 --thread",
    "append": "--ioengine=psync --rw=write --bs=7k --file_append=1 --fallocate=none",
    "small-files": "--ioengine=psync --rw=write --bs=4k --nrfiles=512 --openfiles=64",
    "splice": "--ioengine=splice --rw=write --bs=64k",
}


def _fio_checks(program: str) -> list[Check]:
    common = "--name=job --directory=. --size=16m --verify=crc32c --verify_fatal=1 --do_verify=1 --randseed=7"
    return [Check(f"fio:{name}", (program, *common.split(), *words.split())) for name, words in _FIO.items()]


def _dbench_checks(program: str) -> list[Check]:
    load = ("-c", "/usr/share/dbench/client.txt", "-D", ".", "-t", str(STRESS_S))
    return [Check(f"dbench:{clients}-clients", (program, *load, str(clients))) for clients in (1, 4)]


def _postmark_checks(program: str) -> list[Check]:
    """It ends with 0 whatever it meets, but says so."""
    orders = "set location .\\nset number 300\\nset transactions 1000\\nset subdirectories 10\\nrun\\nquit\\n"
    script = f"printf '{orders}' | \"$0\" >said 2>&1; cat said; ! grep -q Error said"
    return [Check("postmark:mail", ("sh", "-euc", script, program))]


def _fs_mark_checks(program: str) -> list[Check]:
    sizes = ("-d", "one", "-d", "two", "-D", "10", "-n", "300", "-s", "8192")
    methods = {"no-sync": "0", "fsync-each": "1"}
    return [Check(f"fs_mark:{name}", (program, *sizes, "-S", method)) for name, method in methods.items()]


SUITES = (
    Suite("postmark", "postmark", _on_path("postmark"), _postmark_checks),
    Suite("fs_mark", "fsmark", _on_path("fs_mark"), _fs_mark_checks),
    Suite("stress-ng", "stress-ng", _on_path("stress-ng"), _stress_checks),
    Suite("fio", "fio", _on_path("fio"), _fio_checks),
    Suite("dbench", "dbench", _on_path("dbench"), _dbench_checks),
    Suite("python", "libpython3.11-testsuite (on Debian 12)", _python, _python_checks),
)
