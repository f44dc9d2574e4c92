"""Two hundred restores while programs read, write, create, rename and map: no hang, no old data, no divergence."""

from __future__ import annotations

import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cowfs.view.view import View

from .agent import Agent
from .conftest import Mounted, wait_until

RESTORES = 200
FILES = 20

_LOAD = """if True:
    import errno, mmap, os, random, shutil, sys, threading
    os.chdir(sys.argv[1])
    files = int(sys.argv[2])
    allowed = (errno.ESTALE, errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY)

    def read(turn, r):
        with open(f"f{r.randrange(files)}", "rb") as file:
            file.read()
        os.listdir("d")

    def write(turn, r):
        with open(f"f{r.randrange(files)}", "r+b") as file:
            file.seek(r.randrange(30_000))
            file.write(b"w" * r.randrange(1, 9000))
        with open(f"f{r.randrange(files)}", "ab") as file:
            file.write(b"a" * r.randrange(1, 100))

    def create(turn, r):
        name = f"d/n{r.randrange(50)}"
        with open(name, "wb") as file:
            file.write(b"c" * r.randrange(20_000))
        os.rename(name, f"d/m{r.randrange(50)}")
        os.unlink(f"d/m{r.randrange(50)}")
        os.mkdir("d/e")
        os.rmdir("d/e")

    def map(turn, r):
        with open(f"f{r.randrange(files)}", "r+b") as file:
            with mmap.mmap(file.fileno(), 30_000) as mapped:
                for at in range(0, 30_000, 4096):
                    mapped[at + 1] = r.randrange(256)

    def stat(turn, r):
        for i in range(files):
            os.stat(f"f{i}")
        os.path.exists("d/nothing")

    def rename(turn, r):
        os.rename("here", "there")
        with open("there/inside/g") as file:
            assert file.read() in ("g", "h"), "neither of what was ever written"
        with open("there/inside/h", "w") as file:
            file.write("h")
        os.rename("there/inside/h", "there/inside/g")
        os.rename("there", "here")

    def wreck(turn, r):
        shutil.rmtree("tree")

    def walk(turn, r):
        try:
            for folder, _, names in os.walk("tree"):
                for name in names:
                    with open(os.path.join(folder, name)) as file:
                        assert file.read() == name, "a file with the content of another"
        except OSError as error:
            if error.errno != errno.EIO:  # of a directory that was removed, came back, and is used meanwhile
                raise

    def loop(work):
        r = random.Random(work.__name__)
        turn = 0
        while True:
            turn += 1
            try:
                work(turn, r)
            except OSError as error:
                if error.errno not in allowed:
                    print(work.__name__, error, flush=True)
                    os._exit(1)
            except BaseException as error:
                print(work.__name__, repr(error), flush=True)
                os._exit(1)

    for work in (read, write, create, stat, rename, wreck, walk):
        threading.Thread(target=loop, args=(work,)).start()
    print("ready", flush=True)
    loop(map)
"""


@contextmanager
def load(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Programs that use ``path`` all the time."""
    process = subprocess.Popen([sys.executable, "-c", _LOAD, str(path), str(FILES)], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process
        assert process.poll() is None, process.stdout.read()
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=30)


def tree_of(view: View, ino: int, prefix: bytes) -> Iterator[tuple[bytes, int, int, int, int, bytes]]:
    """(path, inode, mode, size, mtime in ns, content) of everything below a directory, as the engine has it."""
    for cookie, name, child, _ in list(view.readdir(ino, 2)):
        assert cookie > 2
        inode = view.inode(child)
        path = prefix + name
        content = b"" if inode.is_dir else view.read(child, 0, inode.size)
        yield path, child, inode.mode, inode.size, inode.mtime, content
        if inode.is_dir:
            yield from tree_of(view, child, path + b"/")


TREE = """
def tree(top, prefix=b""):
    for entry in os.scandir(top):
        status = entry.stat(follow_symlinks=False)
        content = b"" if entry.is_dir() else open(entry.path, "rb").read()
        yield prefix + entry.name, status.st_ino, status.st_mode, status.st_size, status.st_mtime_ns, content
        if entry.is_dir():
            yield from tree(entry.path, prefix + entry.name + b"/")
"""


def assert_no_divergence(mounted: Mounted, agent: Agent) -> None:
    """What a program sees through the kernel's caches is what the engine holds."""
    seen = agent(f"sorted(tree({os.fsencode(mounted.path)!r}))")
    with mounted.workspace.lock:
        held = sorted(tree_of(mounted.workspace.view, 1, b""))
    assert [entry[:5] for entry in seen] == [entry[:5] for entry in held]
    assert seen == held


def test_two_hundred_restores_under_load(mounted: Mounted) -> None:
    root, r = mounted.path, random.Random(1)
    (root / "d").mkdir()
    (root / "here" / "inside").mkdir(parents=True)
    (root / "here" / "inside" / "g").write_text("g")
    for place in ("tree", "tree/a", "tree/a/b", "tree/c"):
        (root / place).mkdir()
        for name in ("x", "y"):
            (root / place / name).write_text(name)
    for i in range(FILES):
        (root / f"f{i}").write_bytes(bytes([i]) * 40_000)
    (root / "watched").write_bytes(b"restored" * 1000)
    snapshot = mounted.checkpoint()
    took: list[float] = []
    with Agent() as agent, load(root):
        agent(TREE)
        agent(f"os.chdir({str(root)!r}); f = open('watched', 'r+b'); a = os.open('watched', os.O_RDWR | os.O_APPEND)")
        agent("m = mmap.mmap(f.fileno(), 8000)")
        for turn in range(RESTORES):
            agent(f"m[{r.randrange(8000)}] = {r.randrange(255)}")
            agent(f"os.pwrite(a, b'{turn}' * {r.randrange(3000)}, 0)")
            agent(f"open('new', 'w').write('{turn}')")
            began = time.perf_counter()
            mounted.restore(snapshot)
            took.append(time.perf_counter() - began)
            assert agent("m[:] == b'restored' * 1000"), turn
            assert agent("(os.fstat(a).st_size, os.path.exists('new'), os.path.getsize('watched'))") == (
                8000, False, 8000,
            )  # fmt: skip
            assert agent("(os.write(a, b'end'), os.pread(a, 9000, 0) == b'restored' * 1000 + b'end')") == (3, True)
    with Agent() as agent:
        agent(TREE)
        assert_no_divergence(mounted, agent)
        mounted.restore(snapshot)
        assert_no_divergence(mounted, agent)
    assert (root / "f3").read_bytes() == b"\3" * 40_000
    assert os.listdir(root / "d") == []
    assert sum(len(names) for _, _, names in os.walk(root / "tree")) == 8
    assert (root / "here" / "inside" / "g").read_text() == "g"
    print(f"restores under load: median {statistics.median(took) * 1e3:.1f} ms, most {max(took) * 1e3:.1f} ms")
    wait_until(lambda: mounted.transport.statistics().opens == 0)
