"""Import of an image: each layer becomes a root of its own, laid over the one before."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any, NamedTuple

from cowfs.blocks.api import BlockSink, BlockSource
from cowfs.errors import Invalid
from cowfs.geometry import Geometry
from cowfs.settle import bulk, oci
from cowfs.settle.imageconfig import chain_ids
from cowfs.settle.imagelayers import LayerTree, lay_over
from cowfs.settle.imagetree import ImageTree
from cowfs.settle.importer import Progress
from cowfs.settle.knowntree import known_tree
from cowfs.settle.tarimport import TarLayer
from cowfs.settle.unpacking import Ahead, Hashed, Unpacked, unpack


class LayerRoot(NamedTuple):
    """What a layer became. ``digest``: of what it unpacks to, which names it wherever it is."""

    root: bytes
    next_ino: int
    logical_bytes: int
    files: int
    digest: str


class Source(NamedTuple):
    """Where an image is: the ``oci`` layout or ``docker-archive`` at ``path``; ``tag`` ("": the only one).
    ``scratch``: a directory for what is unpacked on the way."""

    kind: str
    path: bytes
    tag: str
    scratch: str


class ImportedImage(NamedTuple):
    """``layers`` from below; ``config``: of the image, as it was; ``skipped``: see ImportResult."""

    layers: tuple[LayerRoot, ...]
    config: bytes
    skipped: tuple[tuple[bytes, str], ...]


Known = Callable[[Sequence[str]], Sequence[LayerRoot]]
"""ChainIDs of the layers from below -> what as many of the first as the store has became."""


def import_image(
    writer: BlockSink, blocks: BlockSource, source: Source, geometry: Geometry, limit: int, progress: Progress,
    known: Known,
) -> ImportedImage:  # fmt: skip
    """Import an image; ``limit``: bytes of all layers that are read, unpacked, at most.

    Layers that the store has are not read. Raises NotFound, Invalid, NoSpace.
    """
    skipped: list[tuple[bytes, str]] = []
    with oci.opened(source.kind, source.path, lambda file: unpack(file, source.scratch, limit, progress)) as files:
        image = oci.read_image(source.kind, files, source.tag)
        if not image.layers:
            raise Invalid("image: it has no layers")
        roots = list(known(chain_ids([layer.diff_id for layer in image.layers])))[: len(image.layers)]
        roots = [each._replace(digest=layer.diff_id) for each, layer in zip(roots, image.layers, strict=False)]
        new = image.layers[len(roots) :]
        tree = known_tree(blocks, roots[-1].root) if roots and new else ImageTree()
        for number, layer in enumerate(new, len(roots) + 1):
            taken = LayerTree(tree)
            taking = TarLayer(writer, geometry, taken, progress)
            limit -= _read(files, layer, f"layer {number}", limit, taking)
            lay_over(tree, taken, progress)
            next_ino = roots[-1].next_ino if roots else 0
            done = tree.store(writer, geometry, progress, next_ino)
            next_ino = max(done.next_ino, next_ino)
            roots.append(LayerRoot(done.root, next_ino, done.logical_bytes, done.files, layer.diff_id))
            skipped += taking.skipped
    return ImportedImage(tuple(roots), image.config, tuple(skipped))


def _read(files: oci.Files, layer: oci.Layer, what: str, limit: int, taking: TarLayer) -> int:
    """Take in a layer's entries, and check what it is; how many bytes it unpacks to. Raises Invalid."""
    with closing(files.open(layer.name)) as file:
        stored = Hashed(file, layer.digest)
        unpacked = Unpacked(stored, limit, layer.diff_id)
        with Ahead(unpacked) as ahead:
            taking.take(ahead)
        unpacked.drain()
        while stored.read(1 << 20):
            pass
    if layer.size not in (-1, stored.size):
        raise Invalid(f"image: {what} has {stored.size} bytes, not {layer.size}")
    stored.check(what)
    unpacked.check(f"{what}, unpacked,")
    return unpacked.read_bytes


def encode(image: ImportedImage) -> bytes:
    """For the owner of the store."""
    layers = plain(image.layers)
    report = bulk.encode_report(bulk.Report(list(image.skipped), []))
    return bulk.encode_blobs([json.dumps(layers).encode(), image.config, report])


def decode(data: bytes) -> ImportedImage:
    """The inverse of :func:`encode`."""
    layers, config, report = bulk.decode_blobs(data)
    return ImportedImage(tuple(from_plain(json.loads(layers))), config, tuple(bulk.decode_report(report)[0]))


def plain(layers: Sequence[LayerRoot]) -> list[list[Any]]:
    """As JSON has them."""
    return [[each.root.hex(), *each[1:]] for each in layers]


def from_plain(layers: Sequence[Sequence[Any]]) -> list[LayerRoot]:
    """The inverse of :func:`plain`."""
    return [LayerRoot(bytes.fromhex(root), *rest) for root, *rest in layers]


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
