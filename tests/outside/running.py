"""Runs a check in both places and says how each ended."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.outside.places import Place
from tests.outside.suites import SUITES, Check

_SHOWN = 3000
_PID = re.compile(r"\[\d+\] ")


@dataclass(frozen=True)
class Ended:
    """``code``: the exit code; negative: the signal; None: it did not end in time. ``output``: the end of it, of what
    failed. ``skips``: its lines that say so, also where it passed."""

    code: int | None
    seconds: float
    output: str
    skips: tuple[str, ...] = ()

    def __str__(self) -> str:
        how = {0: "passed", None: "did not end"}.get(self.code, f"failed ({self.code})")
        return f"{how} {self.seconds:.1f} s"


@dataclass(frozen=True)
class Compared:
    """A check, on ext4 and on cowfs."""

    name: str
    ext4: Ended
    cowfs: Ended

    @property
    def defect(self) -> bool:
        """Whether it passes on ext4 and not on cowfs."""
        return self.ext4.code == 0 != self.cowfs.code

    def __str__(self) -> str:
        lines = [f"{self.name}: ext4 {self.ext4}, cowfs {self.cowfs}"]
        lines += [f"  on cowfs alone: {line}" for line in self.cowfs.skips if line not in self.ext4.skips]
        lines += [f"  DEFECT\n{self.cowfs.output}"] if self.defect else []
        return "\n".join(lines)


@dataclass
class Report:
    """``missing``: what is not installed, with its package. ``faults``: see :class:`Place`."""

    transport: str
    compared: list[Compared] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether cowfs passes what ext4 passes, and nothing is damaged or dead."""
        return not self.faults and not any(each.defect for each in self.compared)

    def as_json(self) -> dict[str, Any]:
        """Everything, the output of what failed included."""
        return asdict(self) | {"passed": self.passed}

    def summary(self) -> str:
        """One line."""
        failed = [each.name for each in self.compared if each.ext4.code != 0]
        defects = [each.name for each in self.compared if each.defect]
        parts = [f"{len(self.compared)} checks on {self.transport}, {len(defects)} defects, {len(self.faults)} faults"]
        parts += [f"not passed by ext4 either: {', '.join(failed)}"] if failed else []
        return "; ".join(parts)


def run(check: Check, directory: Path) -> Ended:
    """Run it in ``directory``, which is made and taken away again."""
    directory.mkdir()
    environment = {"PATH": os.environ["PATH"], "HOME": str(directory), "TMPDIR": str(directory), "LC_ALL": "C.UTF-8"}
    begun = time.monotonic()
    process = subprocess.Popen(
        check.words, cwd=directory, env=environment, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
    )  # fmt: skip
    code: int | None
    try:
        output, _ = process.communicate(timeout=check.limit_s)
        code = process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        code = None
    seconds = round(time.monotonic() - begun, 1)
    shutil.rmtree(directory)
    skips = tuple(_PID.sub("", line) for line in output.splitlines() if "skipp" in line.lower())
    return Ended(code, seconds, "" if code == 0 else output[-_SHOWN:], skips)


def play(only: Sequence[str], ext4: Path, cowfs: Place, report: Report) -> Iterator[Compared | str]:
    """Run the suites and checks that ``only`` names, into ``report``: each check as it ends, and what is to be said."""
    for suite in SUITES:
        if not any(each.partition(":")[0] == suite.name for each in only):
            continue
        program = suite.program()
        if program is None:
            report.missing.append(f"{suite.name} is not installed: it comes with the package {suite.package}")
            yield report.missing[-1]
            continue
        for check in suite.checks(program):
            if suite.name in only or check.name in only:
                try:
                    # Short names, since the path of a socket may have 107 bytes.
                    report.compared.append(Compared(check.name, run(check, ext4 / "d"), run(check, cowfs.path / "d")))
                except OSError as error:
                    report.faults.append(f"{check.name}: {error} ({shutil.disk_usage(ext4).free >> 20} MiB are free)")
                    yield report.faults[-1]
                    break
                yield report.compared[-1]
        found = cowfs.faults()
        report.faults += found
        yield from found
