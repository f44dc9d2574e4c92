"""The demo: import real files, fork them, wreck them, restore them, and prove each step bit for bit.

With root and /dev/fuse it runs through the command line on a live mount; else, or with ``--engine``, in the engine
alone. The proof is ``tests/support/treehash.py``, which knows nothing of cowfs: paths, types, modes, owners, sizes,
times, hard links, extended attributes and content. Where "with identity" is said, inode numbers, ctime, birth times
and link counts are in the hash too. Exit status 0 means that every line of the table held.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
for folder in ("guest", "cli", "daemon", ""):
    sys.path.insert(0, str(ROOT / folder))

from bench.demo_surfaces import EngineSurface, LiveSurface, Surface, wreck  # noqa: E402
from tests.support.treehash import TreeHash, differences, hash_directory  # noqa: E402

REAL_FILES = ("/usr/lib/python3", "/etc")
TRIES = 3
DEBOOTSTRAP_S = 300


class Line(NamedTuple):
    """One line of the proof."""

    claim: str
    total: str
    holds: bool


class Demo:
    """Runs the steps, prints them, collects the proof."""

    def __init__(self, surface: Surface) -> None:
        self.surface = surface
        self.proof: list[Line] = []

    def step(self, text: str, action: Callable[[], Any]) -> Any:
        """Say what is done, do it, say how long it took."""
        print(f"  {text:<66}", end="", flush=True)
        start = time.perf_counter()
        result = action()
        print(f"{(time.perf_counter() - start) * 1000:>9.1f} ms", flush=True)
        return result

    def claim(self, text: str, holds: bool, total: str = "") -> None:
        """Note something that must hold."""
        self.proof.append(Line(text, total[:16], holds))

    def same(self, text: str, expected: TreeHash, workspace: str, identity: bool = False) -> None:
        """Note that a workspace is exactly this tree."""
        found = self.surface.hash(workspace, identity)
        self.claim(text, found.total == expected.total, found.total)
        for line in differences(expected, found, limit=5):
            print(f"      differs: {line}")


def stage(tree: Path, sources: list[str]) -> None:
    """Copy the real files side by side: what is imported must hold still, and be there to compare with."""
    for source in sources:
        target = tree / source.strip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        # A user who is not root cannot read all of it; what was copied is what the demo is about.
        subprocess.run(["cp", "-a", source, str(target)], check=False, stderr=subprocess.DEVNULL)


def run(demo: Demo, tree: Path) -> None:
    """The story."""
    surface = demo.surface
    real = hash_directory(tree)
    size = sum(facts.size for facts in real.facts.values())
    print(f"{len(real.digests):,} real files and directories, {size / 1e6:.1f} MB\n")

    demo.step("import them as the workspace ws-1", lambda: surface.import_tree(tree, "ws-1"))
    demo.same("imported: equal to the real files", real, "ws-1")
    stored = surface.stored_bytes()
    demo.step("import them once more as ws-again", lambda: surface.import_tree(tree, "ws-again"))
    demo.claim("importing an equal tree again stores nothing", surface.stored_bytes() == stored)

    demo.step("checkpoint, labelled good", lambda: surface.checkpoint("ws-1", "good"))
    good = surface.hash("ws-1", True)
    demo.step(f"fork it {TRIES} times", lambda: surface.fork("ws-1@good", "try", TRIES))

    demo.step("wreck ws-1: delete, overwrite, rename, chmod, truncate, relink", lambda: wreck(surface.files("ws-1")))
    wrecked = surface.hash("ws-1", True)
    harm = len(differences(good, wrecked, limit=1_000_000))
    demo.claim(f"the wreck is real: {harm:,} paths differ", harm > 100, wrecked.total)
    for number in range(1, TRIES + 1):
        demo.same(f"fork try-{number} saw none of it", real, f"try-{number}")

    demo.step("restore ws-1 to @good", lambda: surface.restore("ws-1", "@good"))
    demo.same("restored: as at the checkpoint, with identity", good, "ws-1", identity=True)
    demo.step("take the restore back", lambda: surface.restore("ws-1", None))
    demo.same("undone: wrecked exactly as before, with identity", wrecked, "ws-1", identity=True)
    demo.step("restore again", lambda: surface.restore("ws-1", "@good"))

    demo.step("wreck the fork try-1", lambda: wreck(surface.files("try-1")))
    demo.same("ws-1 saw none of it, with identity", good, "ws-1", identity=True)
    demo.step("stop everything, start again", surface.restart)
    demo.same("after the restart: as at the checkpoint, with identity", good, "ws-1", identity=True)
    demo.same("after the restart: try-2 is equal to the real files", real, "try-2")
    demo.claim("fsck finds nothing wrong", demo.step("fsck", surface.fsck))


def debootstrap(tree: Path) -> bool:
    """Put a minimal Debian into ``tree``, when that can be had: root, debootstrap installed, a mirror in reach."""
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        return False
    print("making a minimal Debian with debootstrap (about a minute)", flush=True)
    command = ["debootstrap", "--variant=minbase", "stable", str(tree)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=DEBOOTSTRAP_S, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        done = False
    if not done:
        print(f"that failed; {' and '.join(REAL_FILES)} serve instead", flush=True)
        shutil.rmtree(tree)
        tree.mkdir(mode=0o755)
    return done


def main() -> None:
    """Run the demo, print the proof, exit 1 when a line does not hold."""
    parser = argparse.ArgumentParser(description="Import, fork, wreck and restore real files, with proof.")
    parser.add_argument("--engine", action="store_true", help="in the engine alone, without mounts")
    parser.add_argument(
        "--tree", action="append", help=f"what to import (default: a minimal Debian, else {' and '.join(REAL_FILES)})"
    )
    arguments = parser.parse_args()
    live = not arguments.engine and os.geteuid() == 0 and os.path.exists("/dev/fuse")
    with tempfile.TemporaryDirectory(prefix="cowfs-demo-") as scratch:
        tree, store = Path(scratch, "tree"), Path(scratch, "store")
        tree.mkdir(mode=0o755)
        if arguments.tree or not debootstrap(tree):
            stage(tree, arguments.tree or list(REAL_FILES))
        surface: Surface = LiveSurface(ROOT, store) if live else EngineSurface(store)
        print(f"cowfs demo, {surface.place}")
        demo = Demo(surface)
        try:
            run(demo, tree)
        finally:
            surface.close()
    print("\nproof (SHA-256 of content and metadata, computed without cowfs)")
    for line in demo.proof:
        print(f"  {'ok    ' if line.holds else 'FAILED'} {line.claim:<58} {line.total}")
    failed = sum(not line.holds for line in demo.proof)
    print(f"\n{len(demo.proof) - failed} of {len(demo.proof)} hold")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
