"""Images that share a base: what they take in a store, and how fast they are imported.

    python -m bench.images --base ROOT [--count 20]

``ROOT`` is the root of a Debian (``debootstrap --variant=minbase bookworm ROOT``). Each image is that as one layer and
one of :data:`ENVIRONMENTS` above it, installed by pip from PyPI, as the images of SWE-bench are made: one base, one
environment a project and version. The store takes them one after the other, from an OCI layout with gzip layers.

Beside the store: the images unpacked, each for itself; every distinct layer unpacked once, as overlay2 keeps them; and
``tar | zstd -3`` of each.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench import common, trees
from bench.common import Series
from cowfs.engine import Engine

ENVIRONMENTS = (
    ("django==3.2.25", "pytest==7.4.4"), ("django==4.1.13", "pytest==7.4.4"), ("django==4.2.16", "pytest==8.3.3"),
    ("django==5.0.9", "pytest==8.3.3"), ("django==5.1.1", "pytest==8.3.3"), ("sympy==1.11.1", "pytest==7.4.4"),
    ("sympy==1.12.1", "pytest==7.4.4"), ("sympy==1.13.2", "pytest==8.3.3"), ("sphinx==5.3.0", "pytest==7.4.4"),
    ("sphinx==6.2.1", "pytest==7.4.4"), ("sphinx==7.4.7", "pytest==8.3.3"), ("flask==2.2.5", "pytest==7.4.4"),
    ("flask==3.0.3", "pytest==8.3.3"), ("requests==2.28.2", "pytest==7.4.4"), ("requests==2.32.3", "pytest==8.3.3"),
    ("pylint==2.17.7", "pytest==7.4.4"), ("pylint==3.2.7", "pytest==8.3.3"), ("numpy==1.26.4", "pytest==7.4.4"),
    ("numpy==2.0.2", "pytest==8.3.3"), ("scrapy==2.11.2", "pytest==8.3.3"),
)  # fmt: skip
"""What pip installs into each image."""

WHERE = "usr/local/lib/python3.11/site-packages"
MB = 1e6
GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
TAR = ("tar", "--sort=name", "--numeric-owner", "--xattrs", "--format=pax", "-c")


def install(directory: Path, requirements: tuple[str, ...]) -> None:
    """One environment, as a layer has it."""
    target = directory / WHERE
    target.mkdir(parents=True)
    common.run(sys.executable, "-m", "pip", "install", "-q", "--no-compile", "--disable-pip-version-check",
               "--root-user-action=ignore", "--target", target, *requirements)  # fmt: skip


class Layout:
    """An OCI image layout."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "blobs/sha256").mkdir(parents=True)
        (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        self._images: list[dict[str, Any]] = []

    def blob(self, data: bytes, kind: str) -> dict[str, Any]:
        """Write a blob; its descriptor."""
        digest = hashlib.sha256(data).hexdigest()
        (self.path / "blobs/sha256" / digest).write_bytes(data)
        return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(data)}

    def layer(self, tree: Path) -> tuple[dict[str, Any], str]:
        """(descriptor, diff_id) of a directory as a layer."""
        archive = subprocess.run([*TAR, "-C", tree, "."], stdout=subprocess.PIPE, check=True).stdout
        packed = self.blob(gzip.compress(archive, 6, mtime=0), GZIP)
        return packed, "sha256:" + hashlib.sha256(archive).hexdigest()

    def image(self, tag: str, layers: list[tuple[dict[str, Any], str]]) -> None:
        """One more image."""
        diff_ids = [diff_id for _, diff_id in layers]
        config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}}
        kind = "application/vnd.oci.image.config.v1+json"
        described = self.blob(json.dumps(config).encode(), kind)
        manifest = {"schemaVersion": 2, "config": described, "layers": [layer for layer, _ in layers]}
        found = self.blob(json.dumps(manifest).encode(), "application/vnd.oci.image.manifest.v1+json")
        self._images.append({**found, "annotations": {"org.opencontainers.image.ref.name": tag}})
        index = {"schemaVersion": 2, "manifests": self._images}
        (self.path / "index.json").write_text(json.dumps(index))


def archive_bytes(base: Path, above: Path) -> int:
    """Size of ``tar | zstd -3`` of an image."""
    command: list[str | Path] = [*TAR, "-C", base, ".", "-C", above, "."]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as tar:
        done = subprocess.Popen(["zstd", "-3", "-q", "-c"], stdin=tar.stdout, stdout=subprocess.PIPE)
        assert done.stdout is not None
        size = sum(map(len, pieces(done)))
        if done.wait():
            raise subprocess.CalledProcessError(done.returncode, "zstd")
    return size


def pieces(program: subprocess.Popen[bytes]) -> Iterator[bytes]:
    """What a program prints."""
    assert program.stdout is not None
    while piece := program.stdout.read(1 << 20):
        yield piece


def take(engine: Engine, source: str, name: str) -> None:
    """Import an image."""
    engine.import_tree(os.fsencode(source), name, (), lambda _: None)


def speed(sizes: list[int], seconds: list[float]) -> float:
    """MB a second of what the images unpack to."""
    return round(sum(sizes) / MB / sum(seconds), 1)


def measure(directory: Path, base: Path, count: int) -> dict[str, Any]:
    """Make the images, then import them."""
    layout = Layout(directory / "layout")
    below = layout.layer(base)
    base_files, base_bytes = trees.tree_bytes(base)
    base_disk = common.disk_bytes(base)
    sizes, disks, archives, images = [], [], 0, []
    for number, requirements in enumerate(ENVIRONMENTS[:count]):
        tree = directory / f"environment{number}"
        install(tree, requirements)
        layout.image(f"i{number}", [below, layout.layer(tree)])
        files, size = trees.tree_bytes(tree)
        sizes.append(size)
        disks.append(common.disk_bytes(tree))
        archives += archive_bytes(base, tree)
        images.append({"requirements": requirements, "files": files, "bytes": size})
        shutil.rmtree(tree)
    series, stored = Series(), []
    whole = [base_bytes + size for size in sizes]
    with common.engine_at(directory / "store") as engine:
        for number in range(len(sizes)):
            name = "first" if not number else "shared_base"
            series.time(name, take, engine, f"oci:{layout.path}:i{number}", f"ws{number}")
            stored.append(engine.stat().stored_bytes)
        for number in range(len(sizes)):
            series.time("known", take, engine, f"oci:{layout.path}:i{number}", f"again{number}")
        began = time.perf_counter()
        engine.settler.import_image("oci", os.fsencode(layout.path), "i0", 100 << 30)
        read_again = time.perf_counter() - began
    return {
        "images": len(sizes), "base_files": base_files, "base_bytes": base_bytes, "environments": images,
        "stored_bytes": stored, "store_disk_bytes": common.disk_bytes(directory / "store"),
        "unpacked_bytes": sum(whole), "unpacked_disk_bytes": base_disk * len(sizes) + sum(disks),
        "layers_once_bytes": base_bytes + sum(sizes), "layers_once_disk_bytes": base_disk + sum(disks),
        "tar_zstd_bytes": archives,
        "layout_disk_bytes": common.disk_bytes(layout.path),
        **series.summaries(),
        "first_mb_a_second": speed(whole[:1], series.seconds["first"]),
        "shared_base_mb_a_second": speed(whole[1:], series.seconds.get("shared_base", [1.0])),
        "read_again_mb_a_second": speed(whole[:1], [read_again]),
        "known_mb_a_second": speed(whole, series.seconds["known"]),
    }  # fmt: skip


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True, help="the root of a Debian")
    parser.add_argument("--count", type=int, default=len(ENVIRONMENTS))
    options = parser.parse_args()
    with common.scratch() as directory:
        common.report("images", measure(directory, options.base, options.count))


if __name__ == "__main__":
    main()
