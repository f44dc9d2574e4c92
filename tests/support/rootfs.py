"""A small root filesystem out of this machine's own programs."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

PROGRAMS = ("sh", "cat", "ls", "id", "mkdir", "rm", "sleep", "touch", "hostname", "stat", "chown")


def make_rootfs(root: Path, programs: tuple[str, ...] = PROGRAMS) -> None:
    """Programs and the libraries they are linked with, below ``root``, and an empty /etc."""
    (root / "etc").mkdir(parents=True)
    (root / "tmp").mkdir()
    (root / "tmp").chmod(0o1777)
    for name in programs:
        found = shutil.which(name)
        assert found is not None, name
        _copy(Path(found), root / "bin" / name)
        linked = subprocess.run(["ldd", found], capture_output=True, text=True, check=True).stdout
        for library in re.findall(r"(/\S+) \(0x", linked):
            _copy(Path(library), root / library.lstrip("/"))


def _copy(source: Path, target: Path) -> None:
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source.resolve(), target)
        target.chmod(0o755)
