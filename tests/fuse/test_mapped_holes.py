"""SEEK_DATA and SEEK_HOLE see what was written through a mapping that is still there."""

from __future__ import annotations

import os
from pathlib import Path

from .conftest import Mounted, client

SEEKS = """if True:
    import errno, mmap, os, sys
    fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, 1 << 20)
    mapped = mmap.mmap(fd, 1 << 20)
    for page in (3, 100, 7):
        mapped[page * 4096 + 5] = 1
        assert os.lseek(fd, page * 4096, os.SEEK_DATA) == page * 4096, page
    assert os.lseek(fd, 0, os.SEEK_DATA) == 3 * 4096
    assert os.lseek(fd, 3 * 4096, os.SEEK_HOLE) == 4 * 4096
    assert os.lseek(fd, 4 * 4096, os.SEEK_DATA) == 7 * 4096
    try:
        os.lseek(fd, 101 * 4096, os.SEEK_DATA)
    except OSError as error:
        assert error.errno == errno.ENXIO
    else:
        sys.exit("data where there is none")
"""


def test_pages_of_a_live_mapping_are_data(mnt: Path) -> None:
    client(SEEKS, mnt / "f")


def test_two_thousand_seeks_between_writes(mounted: Mounted) -> None:
    """Each waits for a flush in another thread; the mount goes when the last has been answered."""
    code = """if True:
        import mmap, os, sys, threading
        def work(number):
            fd = os.open(f"{sys.argv[1]}/{number}", os.O_RDWR | os.O_CREAT)
            os.ftruncate(fd, 1 << 20)
            mapped = mmap.mmap(fd, 1 << 20)
            for turn in range(500):
                page = turn * 37 % 256
                mapped[page * 4096] = 1
                assert os.lseek(fd, page * 4096, os.SEEK_DATA) == page * 4096
            done.append(number)
        done = []
        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(done) == 4
    """
    client(code, mounted.path)
    assert sorted(os.listdir(mounted.path)) == ["0", "1", "2", "3"]
