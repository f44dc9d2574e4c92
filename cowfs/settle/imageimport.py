"""Import of an image: each layer becomes a root of its own, laid over the one before."""

from __future__ import annotations

import json
import os
from contextlib import closing
from typing import NamedTuple

from cowfs.blocks.api import BlockSink
from cowfs.errors import Invalid
from cowfs.geometry import Geometry
from cowfs.settle import bulk, oci
from cowfs.settle.imagelayers import LayerTree, lay_over
from cowfs.settle.imagetree import ImageTree
from cowfs.settle.importer import Progress
from cowfs.settle.tarimport import TarLayer, Unpacked


class LayerRoot(NamedTuple):
    """What a layer became. ``digest``: of what it unpacks to, which names it wherever it is."""

    root: bytes
    next_ino: int
    logical_bytes: int
    files: int
    digest: str


class ImportedImage(NamedTuple):
    """``layers`` from below; ``config``: of the image, as it was; ``skipped``: see ImportResult."""

    layers: tuple[LayerRoot, ...]
    config: bytes
    skipped: tuple[tuple[bytes, str], ...]


def import_image(
    writer: BlockSink, kind: str, path: bytes, tag: str, geometry: Geometry, limit: int, progress: Progress
) -> ImportedImage:
    """Import the image ``tag`` ("": the only one) of an ``oci`` layout or ``docker-archive``; ``limit``: bytes of all
    layers, unpacked, at most. Raises NotFound, Invalid, NoSpace."""
    tree, roots, skipped = ImageTree(), [], []
    next_ino = 0
    with oci.opened(kind, path) as files:
        image = oci.read_image(kind, files, tag)
        if not image.layers:
            raise Invalid("image: it has no layers")
        for number, layer in enumerate(image.layers, 1):
            taken = LayerTree(tree)
            taking = TarLayer(writer, geometry, taken, progress)
            with closing(files.open(layer.name)) as file:
                stored = oci.Hashed(file, layer.digest)
                unpacked = Unpacked(stored, limit, layer.diff_id)
                taking.take(unpacked)
                unpacked.drain()
                while stored.read(1 << 20):
                    pass
            if layer.size not in (-1, stored.size):
                raise Invalid(f"image: layer {number} has {stored.size} bytes, not {layer.size}")
            stored.check(f"layer {number}")
            unpacked.check(f"layer {number}, unpacked,")
            limit -= unpacked.read_bytes
            lay_over(tree, taken)
            done = tree.store(writer, geometry, progress, next_ino)
            next_ino = done.next_ino = max(done.next_ino, next_ino)
            roots.append(LayerRoot(done.root, next_ino, done.logical_bytes, done.files, layer.diff_id))
            skipped += taking.skipped
    return ImportedImage(tuple(roots), image.config, tuple(skipped))


def encode(image: ImportedImage) -> bytes:
    """For the owner of the store."""
    layers = [[each.root.hex(), *each[1:]] for each in image.layers]
    report = bulk.encode_report(bulk.Report(list(image.skipped), []))
    return bulk.encode_blobs([json.dumps(layers).encode(), image.config, report])


def decode(data: bytes) -> ImportedImage:
    """The inverse of :func:`encode`."""
    layers, config, report = bulk.decode_blobs(data)
    roots = tuple(LayerRoot(bytes.fromhex(root), *rest) for root, *rest in json.loads(layers))
    return ImportedImage(roots, config, tuple(bulk.decode_report(report)[0]))


def split_tag(text: bytes) -> tuple[bytes, str]:
    """``PATH[:TAG]`` -> (path, tag). The longest path that exists; when there is none, it ends at the first colon of
    its last name."""
    above, slash, last = text.rpartition(b"/")
    parts = last.split(b":")
    for cut in (*range(len(parts), 0, -1), 1):
        path = above + slash + b":".join(parts[:cut])
        if os.path.lexists(path):
            break
    return path, os.fsdecode(b":".join(parts[cut:]))
