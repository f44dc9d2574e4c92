"""Workloads of :mod:`bench.workloads` that are programs over many files: trees, pip, git, a C build, storms.

The temporary files of every program (TMPDIR) lie on the system under test, as they do in a sandbox.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from bench import common, trees
from bench.systems import System
from bench.workload import PROGRAM_SECONDS, Sizes, Workload, seconds

PROJECT = "httpie"
"""What pip installs: a command and what it needs, 16 wheels of all sizes."""

IMPORTED = "import httpie.core, httpie.output.formatters.colors, requests, rich.console"
REPEATS = 3
"""Of steps that take a few milliseconds and change nothing."""


def shell(script: str, where: Path) -> None:
    """A shell script in ``where``, with temporary files beside it."""
    scratch = where / ".tmp"
    scratch.mkdir(exist_ok=True)
    common.shell(script, where, PROGRAM_SECONDS, TMPDIR=str(scratch))


def archive(target: Path, files: int, seed: int = 0) -> None:
    """A tar file of a directory ``tree`` with small files."""
    source = target.with_suffix("")
    trees.small_files(source / "tree", files, seed)
    common.run("tar", "-C", source, "-cf", target, "tree")
    shutil.rmtree(source)


def prepare_tree(inputs: Path, sizes: Sizes) -> None:
    """As much as a large node_modules."""
    archive(inputs / "tree.tar", sizes.tree_files)


def tree(system: System, inputs: Path, sizes: Sizes) -> dict[str, float]:
    """untar, find, grep -r cold and warm, rm -rf."""
    root, search = system.root, "grep -r -c no_such_word tree >/dev/null || test $? = 1"
    taken = {"untar": seconds(shell, f"tar -xf {inputs}/tree.tar", root)}
    taken["find"] = seconds(shell, "find tree -size +1000000c", root)
    system.make_cold()
    taken["grep_cold"] = seconds(shell, search, root)
    taken["grep_warm"] = seconds(shell, search, root)
    taken["rm"] = seconds(shell, "rm -rf tree", root)
    return taken


def prepare_pip(inputs: Path, sizes: Sizes) -> None:
    """Fetch the wheels. Raises CalledProcessError without a network."""
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "download")
    common.run(*pip, "--only-binary=:all:", "--dest", inputs, PROJECT, timeout=PROGRAM_SECONDS)


def pip(system: System, inputs: Path, sizes: Sizes) -> dict[str, float]:
    """pip install from wheels, byte code compiled; then a program that imports it, cold and warm."""
    options = f"--disable-pip-version-check --no-cache-dir --no-index --find-links {inputs} --quiet --target site"
    begin = f"PYTHONPATH=site {sys.executable} -c '{IMPORTED}'"
    install = f"{sys.executable} -m pip install {options} --root-user-action=ignore {PROJECT}"
    taken = {"pip_install": seconds(shell, install, system.root)}
    system.make_cold()
    taken["import_cold"] = seconds(shell, begin, system.root)
    taken["import_warm"] = seconds(shell, begin, system.root, times=REPEATS)
    return taken


def prepare_git(inputs: Path, sizes: Sizes) -> None:
    """A packed repository, and files to add to it."""
    archive(inputs / "first.tar", sizes.git_files)
    archive(inputs / "more.tar", sizes.git_files, seed=1)
    shell("git init -q origin && tar -C origin -xf first.tar && cd origin && git add -A && git commit -q -m 1", inputs)
    shell("cd origin && git repack -adq", inputs)


def git(system: System, inputs: Path, sizes: Sizes) -> dict[str, float]:
    """Clone, add and commit as many files again, status after a remount and once more."""
    root, status = system.root, "git -C clone status --porcelain"
    shell("true", root)
    taken = {"git_clone": seconds(shell, f"git clone -q --no-hardlinks {inputs}/origin clone", root)}
    shell(f"mkdir clone/more && tar -C clone/more -xf {inputs}/more.tar", root)
    taken["git_add"] = seconds(shell, "git -C clone add -A", root)
    taken["git_commit"] = seconds(shell, "git -C clone -c gc.auto=0 commit -q -m more", root)
    system.make_cold()
    taken["git_status_first"] = seconds(shell, status, root)
    taken["git_status_warm"] = seconds(shell, status, root, times=REPEATS)
    return taken


def prepare_build(inputs: Path, sizes: Sizes) -> None:
    """A C project: sources of some functions each that include a common header, a main program, a Makefile."""
    project = inputs / "project"
    project.mkdir()
    names = [f"part{number:03d}" for number in range(sizes.sources)]
    functions = 20
    header = ["#include <stdio.h>", "#include <stdlib.h>", "#include <string.h>", "#include <math.h>"]
    for name in names:
        header += [f"int {name}_f{at}(const char *text, int times);" for at in range(functions)]
        source = ['#include "project.h"']
        source += [
            f"int {name}_f{at}(const char *text, int times) {{\n"
            f"    char copy[256];\n    int sum = {at};\n"
            f'    for (int i = 0; i < times; i++) {{\n        snprintf(copy, sizeof copy, "%s %d", text, i);\n'
            f"        sum += (int)strlen(copy) * {at + 1};\n    }}\n    return sum;\n}}"
            for at in range(functions)
        ]
        (project / f"{name}.c").write_text("\n".join(source) + "\n")
    (project / "project.h").write_text("\n".join(header) + "\n")
    calls = " + ".join(f'{name}_f0("x", 3)' for name in names)
    (project / "main.c").write_text(f'#include "project.h"\nint main(void) {{ return ({calls}) == 0; }}\n')
    objects = " ".join(f"{name}.o" for name in ["main", *names])
    makefile = f"CFLAGS = -O1\nprogram: {objects}\n\t$(CC) -o $@ $^\n%.o: %.c project.h\n\t$(CC) $(CFLAGS) -c $<\n"
    (project / "Makefile").write_text(makefile)


def build(system: System, inputs: Path, sizes: Sizes) -> dict[str, float]:
    """make -j2, and make with nothing left to do."""
    shell(f"cp -r {inputs}/project .", system.root)
    taken = {"make": seconds(shell, "make -s -j2 -C project && project/program", system.root)}
    taken["make_nothing"] = seconds(shell, "make -s -C project", system.root, times=REPEATS)
    return taken


def storm(system: System, inputs: Path, sizes: Sizes) -> dict[str, float]:
    """One process makes empty files in one directory, looks at each, looks at each after a remount, removes them."""
    directory = system.root / "storm"
    directory.mkdir()
    paths = [str(directory / f"file-{number:06d}") for number in range(sizes.storm_files)]

    def create() -> None:
        for path in paths:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))

    def look() -> None:
        for path in paths:
            os.stat(path)

    def unlink() -> None:
        for path in paths:
            os.unlink(path)

    taken = {"storm_create": seconds(create), "storm_stat": seconds(look)}
    system.make_cold()
    taken["storm_stat_cold"] = seconds(look)
    taken["storm_unlink"] = seconds(unlink)
    return taken


WORKLOADS = {
    "tree": Workload(tree, prepare_tree, ("tar", "find", "grep")),
    "pip": Workload(pip, prepare_pip),
    "git": Workload(git, prepare_git, ("git", "tar")),
    "build": Workload(build, prepare_build, ("gcc", "make")),
    "storm": Workload(storm),
}
