"""A program whose every step is a function of a seed and its number, and that knows what each must have left.

Run as ``python program.py DIRECTORY PROGRESS HISTORY``: HISTORY is a JSON list of ``[seed, steps]``; the last one is
gone on with, from where PROGRESS (8 bytes, the steps whose system call has returned) says. It verifies all it has made
first, now and then, and when its standard input ends it; then it prints a JSON report. Exit code 0: it was stopped;
7: the mount has gone away; 1: something is wrong. Standard library only.
"""

from __future__ import annotations

import errno
import json
import os
import select
import stat
import sys
import time
import traceback
from random import Random
from typing import Any, NamedTuple

GONE = (errno.ENOTCONN, errno.ECONNABORTED)
EXIT_GONE = 7
VERIFY_EVERY = 300
PAGE = 4096
NAMES_MAX = 40
BYTES_MAX = 200_000


class Node:
    """A file, directory or symlink that must exist. ``kind`` is ``file``, ``dir`` or ``link``."""

    def __init__(self, kind: str, mode: int, data: bytes = b"") -> None:
        self.kind = kind
        self.mode = mode
        self.data = bytearray(data)
        self.note: bytes | None = None


class Model:
    """What the directory holds after so many steps."""

    def __init__(self) -> None:
        self.names: dict[str, Node] = {}

    def replay(self, history: list[list[int]]) -> None:
        """Do all steps of ``history``, here only."""
        for seed, steps in history:
            for number in range(steps):
                self.apply(*self.choose(seed, number))

    def choose(self, seed: int, number: int) -> tuple[str, tuple[Any, ...]]:
        """The step ``number`` of the history that begins with ``seed``: (operation, arguments)."""
        random = Random(f"{seed} {number}")
        names = sorted(self.names)
        files = [name for name in names if self.names[name].kind == "file"]
        new = f"n{seed % 1000}-{number}"
        if len(names) < 4 or not files:
            return "create", (new, random.randbytes(1))
        name, file = random.choice(names), random.choice(files)
        size = len(self.names[file].data)
        # The kernel makes several requests of a write that begins within a page and goes beyond it.
        small = random.randbytes(random.choice((1, 100, 4096, 5000)))[: PAGE - size % PAGE]
        large = random.randbytes(1000) * random.randrange(1, 65)
        offset = random.randrange(size + 5000)
        if len(names) >= NAMES_MAX or size > BYTES_MAX:
            return "remove", (file if size > BYTES_MAX else name,)
        return random.choice(
            (
                ("create", (new,)),
                ("create", (new,)),
                ("mkdir", (new,)),
                ("symlink", (new, f"to/{number}")),
                ("append", (file, small)),
                ("pwrite", (file, offset // PAGE * PAGE, large)),
                ("pwrite", (file, offset, small[: PAGE - offset % PAGE])),
                ("truncate", (file, random.randrange(size + 1000))),
                ("rename", (name, new)),
                ("replace", (file, random.choice(files))),
                ("link", (file, new)),
                ("remove", (name,)),
                ("chmod", (file, random.choice((0o600, 0o644, 0o755)))),
                ("note", (file, random.randbytes(8))),
            )
        )

    def apply(self, operation: str, arguments: tuple[Any, ...]) -> None:
        """What the step leaves."""
        name = arguments[0]
        match operation:
            case "create":
                self.names[name] = Node("file", 0o644)
            case "mkdir":
                self.names[name] = Node("dir", 0o755)
            case "symlink":
                self.names[name] = Node("link", 0o777, arguments[1].encode())
            case "append":
                self.names[name].data += arguments[1]
            case "pwrite":
                data, (_, offset, new) = self.names[name].data, arguments
                data.extend(bytes(max(offset - len(data), 0)))
                data[offset : offset + len(new)] = new
            case "truncate":
                data = self.names[name].data
                del data[arguments[1] :]
                data.extend(bytes(arguments[1] - len(data)))
            case "rename":
                self.names[arguments[1]] = self.names.pop(name)
            case "replace":
                if self.names[name] is not self.names[arguments[1]]:
                    self.names[arguments[1]] = self.names.pop(name)
            case "link":
                self.names[arguments[1]] = self.names[name]
            case "remove":
                del self.names[name]
            case "chmod":
                self.names[name].mode = arguments[1]
            case "note":
                self.names[name].note = arguments[1]

    def seen(self) -> dict[str, Seen]:
        """What a look at each name must find."""
        nodes = list(self.names.values())
        links = {id(node): sum(1 for each in nodes if each is node) for node in nodes}
        return {
            name: Seen(node.kind, node.mode, links[id(node)], bytes(node.data), node.note)
            if node.kind == "file"
            else Seen(node.kind, node.mode, 0, bytes(node.data), None)
            for name, node in self.names.items()
        }

    def differences(self, directory: str) -> list[str]:
        """How a directory differs from this; each file is read."""
        return unlike(look(directory), self.seen())


class Seen(NamedTuple):
    """What a look at a name finds; ``links`` and ``note`` of files only, ``data`` of files and symlinks."""

    kind: str
    mode: int
    links: int
    data: bytes
    note: bytes | None


def look(directory: str) -> dict[str, Seen]:
    """Read everything in a directory. Raises AssertionError when stat and read contradict each other."""
    found = {}
    for name in os.listdir(directory):
        path = os.path.join(directory, name)
        seen = os.lstat(path)
        mode = stat.S_IMODE(seen.st_mode)
        if stat.S_ISREG(seen.st_mode):
            with open(path, "rb") as file:
                data = file.read()
            assert len(data) == seen.st_size, f"{name}: stat says {seen.st_size} bytes, read gives {len(data)}"
            note = os.getxattr(path, "user.note") if "user.note" in os.listxattr(path) else None
            found[name] = Seen("file", mode, seen.st_nlink, data, note)
        elif stat.S_ISLNK(seen.st_mode):
            found[name] = Seen("link", mode, 0, os.readlink(path).encode(), None)
        else:
            found[name] = Seen("dir", mode, 0, b"", None)
    return found


def unlike(found: dict[str, Seen], wanted: dict[str, Seen]) -> list[str]:
    """How two looks differ, a line for each name."""
    wrong = [f"{name}: missing" for name in sorted(wanted.keys() - found.keys())]
    wrong += [f"{name}: should not be there" for name in sorted(found.keys() - wanted.keys())]
    for name in sorted(found.keys() & wanted.keys()):
        if found[name] != wanted[name]:
            wrong.append(f"{name}: {_short(found[name])}, not {_short(wanted[name])}")
    return wrong


def _short(seen: Seen) -> str:
    return (
        f"{seen.kind} {seen.mode:o} {seen.links} links {len(seen.data)} bytes {hash(seen.data) % 10**8} {seen.note!r}"
    )


def perform(directory: str, operation: str, arguments: tuple[Any, ...]) -> None:
    """Do a step with one system call that changes anything. Raises OSError, AssertionError for a short write."""
    path = os.path.join(directory, arguments[0])
    match operation:
        case "create":
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
        case "mkdir":
            os.mkdir(path, 0o755)
        case "symlink":
            os.symlink(arguments[1], path)
        case "append" | "pwrite":
            fd = os.open(path, os.O_WRONLY | (os.O_APPEND if operation == "append" else 0))
            try:
                data = arguments[-1]
                done = os.write(fd, data) if operation == "append" else os.pwrite(fd, data, arguments[1])
                assert done == len(data), f"{operation} of {len(data)} bytes wrote {done}"
            finally:
                os.close(fd)
        case "truncate":
            os.truncate(path, arguments[1])
        case "rename" | "replace":
            os.rename(path, os.path.join(directory, arguments[1]))
        case "link":
            os.link(path, os.path.join(directory, arguments[1]))
        case "remove":
            if stat.S_ISDIR(os.lstat(path).st_mode):
                os.rmdir(path)
            else:
                os.unlink(path)
        case "chmod":
            os.chmod(path, arguments[1])
        case "note":
            os.setxattr(path, "user.note", arguments[1])


class Held:
    """A file without a name that stays open, and grows."""

    def __init__(self, directory: str) -> None:
        self._fd = os.open(directory, os.O_TMPFILE | os.O_RDWR, 0o600)
        self._data = b""

    def grow(self, number: int) -> None:
        """Append a line, and start over when it is long."""
        if len(self._data) > 50_000:
            os.ftruncate(self._fd, 0)
            self._data = b""
        line = b"%d\n" % number
        assert os.pwrite(self._fd, line, len(self._data)) == len(line)
        self._data += line

    def differences(self) -> list[str]:
        """How it differs from what was written."""
        found = os.pread(self._fd, len(self._data) + 1, 0)
        return [] if found == self._data else [f"a file without a name has {len(found)} bytes, not {len(self._data)}"]


def resumed(directory: str, history: list[list[int]], steps: int) -> tuple[Model, int, list[str]]:
    """(model, steps done, what is wrong): the call under way at the end may have been carried out or not."""
    model = Model()
    model.replay([*history[:-1], [history[-1][0], steps]])
    wrong = model.differences(directory)
    if wrong:
        model.apply(*model.choose(history[-1][0], steps))
        if not model.differences(directory):
            return model, steps + 1, []
    return model, steps, wrong


def run(directory: str, progress: str, history: list[list[int]]) -> tuple[int, dict[str, Any]]:
    """Go on until standard input has something; (exit code, report)."""
    seed = history[-1][0]
    counter = os.open(progress, os.O_RDWR)
    before = int.from_bytes(os.pread(counter, 8, 0), "little")
    done = before
    what: tuple[Any, ...] = ("resume",)
    try:
        model, done, wrong = resumed(directory, history, before)
        os.pwrite(counter, done.to_bytes(8, "little"), 0)
        held = Held(directory)
        while not wrong and not select.select([0], [], [], 0)[0]:
            what = model.choose(seed, done)
            perform(directory, *what)
            model.apply(*what)
            done += 1
            os.pwrite(counter, done.to_bytes(8, "little"), 0)
            held.grow(done)
            if done % VERIFY_EVERY == 0:
                what = ("verify",)
                wrong = model.differences(directory) + held.differences()
        what = ("verify",)
        wrong = wrong or model.differences(directory) + held.differences()
    except (OSError, AssertionError) as error:
        # Once the mount is gone, the path leads to what it covered, where nothing is.
        gone = isinstance(error, OSError) and (error.errno in GONE or not os.path.isdir(directory))
        where = traceback.extract_tb(error.__traceback__)[-1].line
        said = f"{time.time():.3f} {what!r:.60}: {error!r} {getattr(error, 'filename', '')} {where}"
        report = {"steps": done - before, "wrong": [] if gone else [said]}
        return EXIT_GONE if gone else 1, report
    return 1 if wrong else 0, {"steps": done - before, "wrong": wrong}


def main() -> int:
    """See the module."""
    directory, progress, history = sys.argv[1:]
    code, report = run(directory, progress, json.loads(history))
    print(json.dumps(report), flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
