"""A small root filesystem out of this machine's own programs."""

from __future__ import annotations

import os
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


def add_python(root: Path) -> bool:
    """Put this machine's own Python into the root filesystem ``root``; False where it has none in /usr/bin."""
    python = shutil.which("python3", path="/usr/bin")
    if python is None:
        return False
    script = "import sys; print('%d.%d' % sys.version_info[:2])"
    version = subprocess.run([python, "-Ic", script], capture_output=True, text=True, check=True).stdout.strip()
    files = [os.path.realpath(python), f"/usr/lib/python{version}"]
    linked = subprocess.run(["ldd", files[0]], capture_output=True, text=True, check=True).stdout.split()
    files += [word for word in linked if word.startswith("/")]
    for file in files:
        subprocess.run(["cp", "-aL", "--parents", file, root], check=True, cwd="/")
    if not (root / "usr/bin/python3").exists():
        (root / "usr/bin/python3").symlink_to(files[0])
    shutil.copy("/usr/bin/env", root / "usr/bin/env")
    return True
