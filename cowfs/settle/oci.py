"""Images as files: an OCI image layout in a directory, or an archive of ``docker save``.

What a manifest says is checked against what is there: sizes, digests of what is stored and of what it unpacks to.
Sources: the OCI image specification 1.1; the Docker image specification 1.2.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import IO, Any, NoReturn, Protocol

from cowfs.errors import Invalid, NotFound
from cowfs.settle.tarread import Reader
from cowfs.settle.unpacking import MAGIC_BYTES, Hashed, is_packed

DOCUMENT_MAX = 1 << 20
"""Bytes of an index, a manifest or a config, at most."""

LAYERS_MAX = 1_000
_DIGEST = re.compile(r"(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})\Z")
_LAYER = re.compile(
    r"application/vnd\.(oci\.image\.layer\.(nondistributable\.)?v1\.tar(\+gzip|\+zstd)?"
    r"|docker\.image\.rootfs\.(foreign\.)?diff\.tar(\.gzip|\.zstd)?)\Z"
)
INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
_INDEXES = (INDEX, "application/vnd.docker.distribution.manifest.list.v2+json")
NAME = "org.opencontainers.image.ref.name"
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "ppc64le": "ppc64le", "s390x": "s390x"}


Scratch = Callable[[IO[bytes]], IO[bytes]]
"""Unpacks a compressed file to one of its own."""


def architecture() -> str:
    """This machine, as images name it."""
    machine = os.uname().machine
    return _MACHINES.get(machine, machine)


def digest_of(data: bytes) -> str:
    """What names these bytes."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def refuse(message: str) -> NoReturn:
    """The image cannot be taken. Raises Invalid."""
    raise Invalid(f"image: {message}")


@dataclass(frozen=True)
class Layer:
    """``name``: its file. ``digest``, ``size``: of the file ("" and -1: not known). ``diff_id``: digest of what it
    unpacks to."""

    name: str
    digest: str
    size: int
    diff_id: str


@dataclass(frozen=True)
class Image:
    """``config``: the bytes of its configuration; ``layers`` from below."""

    config: bytes
    layers: tuple[Layer, ...]


class File(Protocol):
    """An open file."""

    def read(self, size: int) -> bytes:
        """The next bytes; fewer only at the end."""

    def close(self) -> None:
        """Let go of it."""


class Files(Protocol):
    """Where the files of an image are."""

    def open(self, name: str) -> File:
        """One of them. Raises Invalid when there is none."""


class Directory:
    """An image layout."""

    def __init__(self, path: bytes) -> None:
        try:
            self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotFound(f"{os.fsdecode(path)}: {error.strerror}") from None
        except OSError as error:
            raise Invalid(f"{os.fsdecode(path)}: {error.strerror}") from None

    def open(self, name: str) -> File:
        """See Files; a symbolic link at the end is not followed."""
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self.fd)
        except OSError as error:
            refuse(f"{name}: {error.strerror}")
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            refuse(f"{name}: not a regular file")
        return os.fdopen(fd, "rb")

    def close(self) -> None:
        """Let go of it."""
        os.close(self.fd)


class Archive:
    """An archive with such files, compressed or not; its symbolic links are followed within it."""

    def __init__(self, path: bytes, scratch: Scratch) -> None:
        self._places: dict[str, tuple[int, int]] = {}
        self._links: dict[str, str] = {}
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise NotFound(f"{os.fsdecode(path)}: {error.strerror}") from None
        except OSError as error:
            raise Invalid(f"{os.fsdecode(path)}: {error.strerror}") from None
        self._file: IO[bytes] = os.fdopen(fd, "rb")
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise Invalid(f"{os.fsdecode(path)}: not a regular file")
            if is_packed(os.pread(fd, MAGIC_BYTES, 0)):
                with self._file as packed:
                    self._file = scratch(packed)
            self._look()
        except BaseException:
            self._file.close()
            raise

    def _look(self) -> None:
        """Where each file is."""
        file = self._file
        for entry in Reader(_Seeking(file)):
            name = os.path.normpath(os.fsdecode(entry.path))
            if entry.kind == stat.S_IFREG and entry.regions is None:
                self._places[name] = (file.tell(), entry.size)
            elif entry.kind == stat.S_IFLNK:
                self._links[name] = os.path.normpath(os.path.join(os.path.dirname(name), os.fsdecode(entry.target)))
            if len(self._places) + len(self._links) > 100_000:
                refuse("too many files in the archive")

    def open(self, name: str) -> File:
        """See Files."""
        name = os.path.normpath(name)
        place = self._places.get(self._links.get(name, name))
        if place is None:
            refuse(f"{name} is not in the archive")
        return _Part(self._file.fileno(), *place)

    def close(self) -> None:
        """Let go of it."""
        self._file.close()


class _Seeking:
    """Reads a file, and skips what is read a MiB at a time by seeking."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._size = os.fstat(file.fileno()).st_size

    def read(self, size: int) -> bytes:
        if size == 1 << 20 and self._file.tell() + size <= self._size:  # only contents are skipped in such pieces
            self._file.seek(size, os.SEEK_CUR)
            return bytes(size)
        return self._file.read(size)


class _Part:
    """Some bytes of an open file."""

    def __init__(self, fd: int, offset: int, size: int) -> None:
        self._fd = fd
        self._at, self._end = offset, offset + size

    def read(self, size: int) -> bytes:
        data = os.pread(self._fd, min(size, self._end - self._at), self._at)
        self._at += len(data)
        return data

    def close(self) -> None:
        """The archive stays open."""


@contextmanager
def opened(kind: str, path: bytes, scratch: Scratch) -> Iterator[Files]:
    """``oci``: the directory, ``docker-archive``: the archive at ``path``, which ``scratch`` unpacks if it is
    compressed. Raises NotFound, Invalid."""
    files: Directory | Archive = Directory(path) if kind == "oci" else Archive(path, scratch)
    try:
        yield files
    finally:
        files.close()


def read_image(kind: str, files: Files, tag: str) -> Image:
    """The image that ``tag`` names; "": the only one. Raises Invalid."""
    return _docker(files, tag) if kind == "docker-archive" else _oci(files, tag)


def _document(files: Files, name: str, digest: str = "", size: int = -1) -> tuple[Any, bytes]:
    with closing(files.open(name)) as file:
        hashed = Hashed(file, digest)
        data = hashed.read(DOCUMENT_MAX + 1)
    if len(data) > DOCUMENT_MAX:
        refuse(f"{name} has more than {DOCUMENT_MAX} bytes")
    if size not in (-1, len(data)):
        refuse(f"{name} has {len(data)} bytes, not {size}")
    hashed.check(name)
    try:
        return json.loads(data), data
    except (ValueError, RecursionError):
        refuse(f"{name} is no JSON")


def _field(value: Any, name: str, kind: type, where: str) -> Any:
    found = value.get(name) if isinstance(value, dict) else None
    if type(found) is not kind:
        refuse(f"{where} has no {name}, or one of another type")
    return found


def _blob(descriptor: Any, where: str) -> tuple[str, str, int]:
    """(file, digest, size) of a descriptor."""
    digest, size = _field(descriptor, "digest", str, where), _field(descriptor, "size", int, where)
    if not _DIGEST.match(digest) or size < 0:
        refuse(f"{where} has a digest or size that is none")
    algorithm, _, value = digest.partition(":")
    return f"blobs/{algorithm}/{value}", digest, size


def read_index(files: Files) -> dict[str, Any]:
    """The index of a layout; its "manifests" are objects. Raises Invalid."""
    layout, _ = _document(files, "oci-layout")
    if not str(_field(layout, "imageLayoutVersion", str, "oci-layout")).startswith("1."):
        refuse("a layout of an unknown version")
    index, _ = _document(files, "index.json")
    found = [each for each in _field(index, "manifests", list, "index.json") if isinstance(each, dict)]
    return {**index, "manifests": found}


def _oci(files: Files, tag: str) -> Image:
    found = read_index(files)["manifests"]
    names = [name_of(each) for each in found]
    wanted = _only([(each, [name]) for each, name in zip(found, names, strict=True)], tag)
    return _manifest(files, _for_this_machine(files, wanted))


def _only(found: list[tuple[Any, list[str]]], tag: str) -> Any:
    """The one that has the name ``tag``, or is alone. Raises Invalid."""
    named = [each for each, names in found if not tag or any(tag in (name, name.rpartition(":")[2]) for name in names)]
    if len(named) == 1:
        return named[0]
    known = sorted({name for _, names in found for name in names if name})[:20]
    message = f"image: {len(named)} are named {tag!r}" if tag else f"image: there are {len(found)}, not one"
    raise Invalid(message, hint=f"Say which: {', '.join(known)}" if known else "It names none.")


def name_of(descriptor: Mapping[str, Any]) -> str:
    """The tag in the descriptor of a manifest; "": none."""
    annotations = descriptor.get("annotations")
    return str(annotations.get(NAME, "")) if isinstance(annotations, dict) else ""


def _for_this_machine(files: Files, descriptor: Any) -> Any:
    """A manifest's descriptor: of an index, that for this machine."""
    for _ in range(4):
        if descriptor.get("mediaType") not in _INDEXES:
            return descriptor
        index, _ = _document(files, *_blob(descriptor, "an index"))
        wanted = {"os": "linux", "architecture": architecture()}
        for each in _field(index, "manifests", list, "an index"):
            platform = each.get("platform") if isinstance(each, dict) else None
            if isinstance(platform, dict) and wanted.items() <= platform.items():
                descriptor = each
                break
        else:
            refuse(f"there is none for linux on {architecture()}")
    refuse("an index in an index in an index")


def _manifest(files: Files, descriptor: Any) -> Image:
    manifest, _ = _document(files, *_blob(descriptor, "index.json"))
    config, raw = _document(files, *_blob(_field(manifest, "config", dict, "the manifest"), "the manifest"))
    layers = _field(manifest, "layers", list, "the manifest")
    diff_ids = _diff_ids(config, len(layers))
    made = []
    for each, diff_id in zip(layers, diff_ids, strict=True):
        kind = _field(each, "mediaType", str, "a layer")
        if not _LAYER.match(kind):
            refuse(f"a layer of type {kind[:80]!r}, which is unknown")
        name, digest, size = _blob(each, "a layer")
        made.append(Layer(name, digest, size, diff_id))
    return Image(raw, tuple(made))


def _diff_ids(config: Any, count: int) -> list[str]:
    found: list[str] = _field(_field(config, "rootfs", dict, "the config"), "diff_ids", list, "the config")
    if len(found) != count or not all(isinstance(each, str) and _DIGEST.match(each) for each in found):
        refuse("the config and the manifest differ in their layers")
    if count > LAYERS_MAX:
        refuse(f"more than {LAYERS_MAX} layers")
    return found


def _docker(files: Files, tag: str) -> Image:
    manifests, _ = _document(files, "manifest.json")
    found = [each for each in manifests if isinstance(each, dict)] if isinstance(manifests, list) else []
    wanted = _only([(each, [str(name) for name in each.get("RepoTags") or ()]) for each in found], tag)
    layers = _field(wanted, "Layers", list, "manifest.json")
    config, raw = _document(files, _field(wanted, "Config", str, "manifest.json"))
    diff_ids = _diff_ids(config, len(layers))
    if not all(isinstance(each, str) for each in layers):
        refuse("manifest.json has layers that are no names")
    return Image(raw, tuple(Layer(name, "", -1, diff) for name, diff in zip(layers, diff_ids, strict=True)))
