"""The hook that compiles the serving path into a wheel: `make wheel`.

mypyc makes machine code of the modules below from the types that mypy checks. It behaves like the source, which stays
beside it for tracebacks; a request takes 0.5 to 0.75 times as long (docs/performance.md). Off by default: it takes some
minutes of one processor and a C compiler, and the wheel is for one version of Python and one architecture.

Compiled code holds the interpreter lock where Python would let others have it. So what runs long beside requests
(replay, settling, comparing, checking) stays interpreted.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

COMPILED = {
    "cowfs": "owners",
    "cowfs/blocks": "cache codec reader segments",
    "cowfs/formats": "checksum inode journal node segment",
    "cowfs/layers": "answers journal layer",
    "cowfs/tree": "content names nodes radix",
    "cowfs/view": "acl apply descriptors directory file inode orphans reading room sharing state view",
    "cowfs_daemon/fuse": (
        "ahead attributes callers counts data dispatch handles ids names pacing protocol resent served session"
    ),
}


def modules() -> list[str]:
    return [f"{folder}/{name}.py" for folder, names in COMPILED.items() for name in names.split()]


class CompileHook(BuildHookInterface):
    """Adds an extension module for each module of :data:`COMPILED` to the wheel."""

    def initialize(self, version: str, build_data: dict) -> None:
        if version == "editable":
            return
        self.folder = Path(tempfile.mkdtemp(prefix="cowfs-compile-"))
        # Both packages in one folder: mypyc names a module by its path.
        for source in ("cowfs", "daemon/cowfs_daemon"):
            shutil.copytree(Path(self.root, source), self.folder / Path(source).name)
        try:
            subprocess.run([sys.executable, __file__], cwd=self.folder, check=True)
        except BaseException:
            shutil.rmtree(self.folder)  # `finalize` is not called then
            raise
        for built in self.folder.rglob("*.so"):
            build_data["force_include"][str(built)] = str(built.relative_to(self.folder))
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict, artifact_path: str) -> None:
        if version != "editable":
            shutil.rmtree(self.folder)


def compile_here() -> None:
    """Compile in the current folder, each extension beside its source."""
    from mypyc.build import mypycify
    from setuptools import setup

    # The settings of a checkout around it are not meant.
    extensions = mypycify(["--config-file=", "--ignore-missing-imports", *modules()])
    setup(name="cowfs-compiled", ext_modules=extensions, packages=[], script_args=["-q", "build_ext", "--inplace"])


if __name__ == "__main__":
    compile_here()
