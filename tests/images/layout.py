"""Image layouts made by hand, so that they can be wrong in every way."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

TAR = "application/vnd.oci.image.layer.v1.tar"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def entry(name: str, content: bytes | None = None, kind: bytes = tarfile.REGTYPE, target: str = "") -> Any:
    """(header, content) of a file; without content a directory, or what ``kind`` says."""
    made = tarfile.TarInfo(name)
    made.type = tarfile.DIRTYPE if content is None and kind == tarfile.REGTYPE else kind
    made.linkname, made.size = target, len(content or b"")
    made.mode = 0o755 if made.isdir() else 0o644
    return made, content


def link(name: str, target: str) -> Any:
    """A symbolic link."""
    return entry(name, None, tarfile.SYMTYPE, target)


def hard(name: str, target: str) -> Any:
    """A hard link."""
    return entry(name, None, tarfile.LNKTYPE, target)


def layer(*entries: Any) -> bytes:
    """A layer's archive."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for header, content in entries:
            tar.addfile(header, None if content is None else io.BytesIO(content))
    return out.getvalue()


def digest(data: bytes) -> str:
    """As in a descriptor."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Layout:
    """An image layout in ``path``; everything that is written into it may be changed before :meth:`finish`."""

    def __init__(self, path: Path, *layers: bytes, packed: bool = True) -> None:
        self.path = path
        (path / "blobs/sha256").mkdir(parents=True)
        self.config: dict[str, Any] = {
            "architecture": "amd64", "os": "linux", "config": {"Cmd": ["sh"]},
            "rootfs": {"type": "layers", "diff_ids": [digest(each) for each in layers]},
        }  # fmt: skip
        stored = [gzip.compress(each, mtime=0) if packed else each for each in layers]
        kind = TAR + ("+gzip" if packed else "")
        self.manifest: dict[str, Any] = {"schemaVersion": 2, "layers": [self.blob(each, kind) for each in stored]}
        self.index: dict[str, Any] = {"schemaVersion": 2, "manifests": []}
        self.layout: Any = {"imageLayoutVersion": "1.0.0"}

    def blob(self, data: bytes, kind: str) -> dict[str, Any]:
        """Write a blob; its descriptor."""
        name = digest(data)
        (self.path / "blobs" / name.replace(":", "/")).write_bytes(data)
        return {"mediaType": kind, "digest": name, "size": len(data)}

    def finish(self, tag: str = "one") -> Path:
        """Write the rest; the layout's path."""
        if "config" not in self.manifest:
            config = json.dumps(self.config).encode()
            self.manifest["config"] = self.blob(config, "application/vnd.oci.image.config.v1+json")
        if not self.index["manifests"]:
            found = self.blob(json.dumps(self.manifest).encode(), MANIFEST)
            self.index["manifests"] = [{**found, "annotations": {"org.opencontainers.image.ref.name": tag}}]
        (self.path / "index.json").write_text(json.dumps(self.index))
        (self.path / "oci-layout").write_text(json.dumps(self.layout))
        return self.path
