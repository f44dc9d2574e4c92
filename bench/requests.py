"""CPU time of one request: in the loop that serves a mount without a kernel, and of a live worker.

``cpu_us``: reading and writing are replaced by memory, so that what is measured is the server's own work: the loop,
decoding, the view, the journal record (a real file), the answer; in microseconds of this thread's CPU time. ``live``:
with the system calls and all else that a worker does, see :mod:`bench.storms`. Each operation is repeated ``--count``
times, ``--turns`` times in turn, with the median of the turns; of the storms ``--storm`` times, ``--storms`` times.
``cpu_us_among_others``: as ``cpu_us``, when so many bytes of other memory were read between two requests, as programs
and the kernel do: what the server needs is in the processor's caches no more.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import statistics
import struct
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

from bench import common, storms
from cowfs_daemon.fuse import negotiate, protocol, session
from cowfs_daemon.fuse.mount import Connection
from cowfs_daemon.fuse.server import Reader, Server

_HEAD = struct.Struct("<IIQQIIIHH")
BETWEEN = (1 << 18, 1 << 20, 1 << 22)
"""Bytes of other memory, for ``cpu_us_among_others``."""

FILE = 2
"""The inode number of the first file that is created."""


def asking_s(times: int = 1_000) -> float:
    """The CPU time that asking twice for it takes, without what lies between the two answers."""
    between, first = 0.0, time.thread_time()
    for _ in range(times):
        began = time.thread_time()
        between += time.thread_time() - began
    return (time.thread_time() - first - between) / times


class Kernel:
    """Stands for ``os`` in the session: hands over prepared requests, and throws answers away.

    ``others``: bytes that are read before each; ``others_s``: the CPU time that this took.
    """

    def __init__(self, others: int) -> None:
        self.others = bytearray(others)
        self.others_s = 0.0
        self.asking_s = asking_s()
        self.requests: list[bytes] = []
        self.session: session.Session | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def readv(self, fd: int, buffers: list[bytearray]) -> int:
        """The next request; none left: the session ends."""
        if not self.requests:
            assert self.session is not None
            self.session._stopping = True
            raise InterruptedError(errno.EINTR, "no more")
        if self.others:
            began = time.thread_time()
            zlib.crc32(self.others)
            self.others_s += time.thread_time() - began + self.asking_s
        request = self.requests.pop()
        buffers[0][: len(request)] = request
        return len(request)

    def write(self, fd: int, data: bytes) -> int:
        """An answer."""
        return len(data)

    def writev(self, fd: int, parts: Any) -> int:
        """An answer in parts."""
        return 0


def request(opcode: int, nodeid: int, unique: int, body: bytes) -> bytes:
    """One request of root's."""
    return _HEAD.pack(40 + len(body), opcode, unique, nodeid, 0, 0, 1, 0, 0) + body


def creates(count: int, first: int) -> list[bytes]:
    """CREATE of new files in the root."""
    head = struct.pack("<IIII", os.O_WRONLY | os.O_CREAT, 0o100644, 0o022, 0)
    return [request(protocol.CREATE, 1, 2 * n + 2, head + b"f%d\0" % (first + n)) for n in range(count)]


def operations(count: int) -> dict[str, Callable[[int], list[bytes]]]:
    """Name -> the requests of turn n."""

    def repeated(opcode: int, body: bytes) -> Callable[[int], list[bytes]]:
        return lambda turn: [request(opcode, FILE, 2 * n + 2, body) for n in range(count)]

    def write(turn: int) -> list[bytes]:
        heads = (struct.pack("<QQIIQII", 0, 4096 * n, 4096, 0, 0, 1, 0) for n in range(count))
        return [request(protocol.WRITE, FILE, 2 * n + 2, head + bytes(4096)) for n, head in enumerate(heads)]

    def read(turn: int) -> list[bytes]:
        heads = (struct.pack("<QQIIQII", 0, 4096 * n, 4096, 0, 0, 0, 0) for n in range(count))
        return [request(protocol.READ, FILE, 2 * n + 2, head) for n, head in enumerate(heads)]

    times = protocol.FATTR_ATIME | protocol.FATTR_MTIME
    return {
        "create": lambda turn: creates(count, turn * count),
        "getattr": repeated(protocol.GETATTR, bytes(16)),
        "lookup": lambda turn: [request(protocol.LOOKUP, 1, 2 * n + 2, b"f%d\0" % n) for n in range(count)],
        "write_4k": write,
        "read_4k": read,
        "open": repeated(protocol.OPEN, struct.pack("<II", os.O_RDONLY, 0)),
        "release": repeated(protocol.RELEASE, struct.pack("<QIIQ", 0, os.O_RDONLY, 0, 0)),
        "setattr_times": repeated(protocol.SETATTR, struct.pack("<II80x", times, 0)),
        "getxattr_none": repeated(protocol.GETXATTR, struct.pack("<II", 0, 0) + b"security.capability\0"),
    }


@contextlib.contextmanager
def loop(workspace: Any, others: int = 0) -> Iterator[Callable[[list[bytes]], float]]:
    """Has the loop serve a workspace: requests -> microseconds of CPU for each."""
    server, kernel = Server(), Kernel(others)
    init = negotiate.Negotiated(protocol.MINOR, negotiate.WANTED, negotiate.MAX_WRITE)
    fd = os.open("/dev/null", os.O_RDWR)
    connection = cast(Any, Connection)(
        **{
            name: {"fd": fd, "init": init, "mountpoint": "/nowhere"}.get(name, 1)
            for name in Connection.__dataclass_fields__
        }
    )
    kernel.session = served = session.Session(server, connection, workspace, refresh=lambda ino: None)
    reader = Reader(server)

    def timed(requests: list[bytes]) -> float:
        kernel.requests = requests[::-1]
        served._stopping = False
        kernel.others_s, began = 0.0, time.thread_time()
        served.serve(reader)
        return (time.thread_time() - began - kernel.others_s) / len(requests) * 1e6

    cast(Any, session).os = kernel
    try:
        yield timed
    finally:
        cast(Any, session).os = os
        os.close(fd)
        os.close(reader.wake)
        server.close()


def measure(count: int, turns: int, others: int = 0) -> dict[str, float]:
    """Microseconds of CPU per request; ``_at_rest``: of files that nobody has looked at in the process that serves;
    ``_in_another_fork``: of files that somebody has looked at in another fork there, but not in this one."""
    taken: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="cowfs-bench-") as directory:
        engine = common.open_store(Path(directory) / "store")
        engine.create("ws")
        with loop(engine.host.workspace(engine.open_workspace("ws")), others) as timed:
            for turn in range(turns):
                for name, make in operations(count).items():
                    taken.setdefault(name, []).append(timed(make(turn)))
        base = engine.checkpoint("ws", "files").snapshot.id
        while engine.settle_next():
            pass
        for turn in range(turns):
            (fork,) = engine.fork(base, f"fork-{turn}")
            with loop(engine.host.workspace(engine.open_workspace(fork.name)), others) as timed:
                engine.host.env.blocks.nodes.clear()
                for name, opcode in (("lookup_at_rest", protocol.LOOKUP), ("unlink_at_rest", protocol.UNLINK)):
                    asked = [request(opcode, 1, 2 * n + 2, b"f%d\0" % n) for n in range(count)]
                    taken.setdefault(name, []).append(timed(asked))
            (fork,) = engine.fork(base, f"another-{turn}")
            with loop(engine.host.workspace(engine.open_workspace(fork.name)), others) as timed:
                asked = [request(protocol.LOOKUP, 1, 2 * n + 2, b"f%d\0" % n) for n in range(count)]
                taken.setdefault("lookup_in_another_fork", []).append(timed(asked))
        engine.close()
    return {name: round(statistics.median(each), 2) for name, each in taken.items()}


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=5_000)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--storm", type=int, default=10_000)
    parser.add_argument("--storms", type=int, default=5)
    options = parser.parse_args()
    results: dict[str, Any] = {"cpu_us": measure(options.count, options.turns)}
    results["cpu_us_among_others"] = {
        str(size): measure(options.count // 5, max(options.turns // 3, 1), size) for size in BETWEEN
    }
    with common.scratch() as directory:
        results["live"] = storms.measure(directory, options.storm, options.storms)
    common.report("requests", results)


if __name__ == "__main__":
    main()
