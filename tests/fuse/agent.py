"""A program in a mounted workspace: a process that runs Python code line by line, as told.

Kept apart from the server's process, because a page fault holds the interpreter's lock that the server needs.
"""

from __future__ import annotations

import ast
import select
import subprocess
import sys
from types import TracebackType
from typing import Any

_LOOP = """
import mmap, os, sys
names = {"mmap": mmap, "os": os}
for line in sys.stdin:
    code = eval(line)
    try:
        try:
            compiled = compile(code, "agent", "eval")
        except SyntaxError:
            exec(code, names)
            answer = None
        else:
            answer = eval(compiled, names)
    except OSError as error:
        answer = ("errno", error.errno)
    except BaseException as error:
        answer = ("error", repr(error))
    print(repr(answer), flush=True)
"""


class Agent:
    """``agent("code")`` evaluates or runs code; an OSError comes back as ``("errno", number)``."""

    def __init__(self, timeout_s: float = 30.0) -> None:
        self._timeout_s = timeout_s
        self._process = subprocess.Popen(
            [sys.executable, "-u", "-c", _LOOP], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def __enter__(self) -> Agent:
        return self

    def __call__(self, code: str) -> Any:
        """Run ``code``; the value of an expression, else None. Raises EOFError when the process died."""
        self.start(code)
        return self.result()

    def start(self, code: str) -> None:
        """Run ``code`` without waiting for it."""
        assert self._process.stdin is not None
        self._process.stdin.write(repr(code).encode() + b"\n")
        self._process.stdin.flush()

    def result(self) -> Any:
        """What the code that was started gave."""
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], self._timeout_s)[0]:
            raise TimeoutError("the agent hangs")
        line = self._process.stdout.readline()
        if not line:
            raise EOFError(f"the agent died: {self._process.wait()}")
        return ast.literal_eval(line.decode())

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()
