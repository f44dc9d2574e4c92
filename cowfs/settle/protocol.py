"""Messages between the owner of a store and its settler, over two pipes: length-prefixed JSON.

A frame is a u32 (little-endian) length of 1 to :data:`FRAME_MAX` bytes and as many bytes of a JSON object in ASCII.
``type`` names the message, and :data:`FIELDS` all its other fields with their types; nothing is optional. Paths are
strings as ``os.fsdecode`` makes them, ids are hex.

========================  ==================================================================================
owner -> settler
``job``                   do this: ``kind`` is one of :data:`JOBS`, ``params`` its own fields
``segment``               answers ``need_segment``: write to this one
``layers``                answers ``need_layers``: what the first of them became, as many as are there
``committed``             answers ``batch``: whether ids are gone, which are then in the file ``gone``
settler -> owner
``ready``                 started, once
``started``               the job was accepted; before it, nothing of the job was done
``progress``              inodes and bytes so far
``need_segment``          a segment to write to, please; ``refused`` is one that cannot be continued (0: none)
``need_layers``           which of an image's layers, named by their ChainIDs from below, are in the store?
``batch``                 everything is written and synced; the records are in the file ``path``
``done``                  the result; bulky parts in the file ``path`` (empty: none)
``failed``                the job ended with an error; the settler is ready for another
========================  ==================================================================================
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from typing import Any

from cowfs.errors import Corrupt

FRAME_MAX = 1 << 20
"""Bytes of JSON in one frame at most."""

_LENGTH = struct.Struct("<I")

FIELDS: dict[str, dict[str, type]] = {
    "job": {"kind": str, "params": dict},
    "segment": {"id": int, "path": str},
    "layers": {"known": list},
    "committed": {"gone": str},
    "ready": {"pid": int},
    "started": {},
    "progress": {"files": int, "bytes": int},
    "need_segment": {"refused": int},
    "need_layers": {"chains": list},
    "batch": {"path": str},
    "done": {"root": str, "numbers": dict, "path": str},
    "failed": {"code": str, "message": str, "hint": str},
}
"""Message type -> its fields."""

JOBS: dict[str, dict[str, type]] = {
    "mkroot": {"mode": int, "uid": int, "gid": int, "time": int},
    "import": {"source": str, "exclude": list, "forbidden": list, "numbering": str, "owners": list},
    "import_tar": {"source": str, "limit": int},
    "import_image": {"format": str, "source": str, "tag": str, "limit": int},
    "export": {"format": str, "root": str, "target": str},
    "export_image": {"format": str, "target": str, "tag": str, "layers": list, "config": str, "created": int},
    "settle": {"parent_root": str, "spans": list},
    "mark": {"start": str, "marks": str, "everything": bool},
    "compact": {"sources": list},
}
"""Job kind -> its parameters, besides :data:`COMMON`."""

COMMON: dict[str, type] = {"index": str, "segments": str, "tmp": str, "job": int, "geometry": dict}
"""Parameters of every job: where the store keeps its index, segments and temporary files; job number; geometry."""

Message = dict[str, Any]


def encode_frame(type_: str, **fields: Any) -> bytes:
    """One frame. Raises ValueError when it would be too long."""
    body = json.dumps(checked({"type": type_, **fields}), separators=(",", ":")).encode("ascii")
    if len(body) > FRAME_MAX:
        raise ValueError(f"a {type_} message of {len(body)} bytes")
    return _LENGTH.pack(len(body)) + body


def decode_body(body: bytes) -> Message:
    """The message of one frame. Raises :class:`Corrupt`."""
    try:
        message = json.loads(body.decode("ascii"))
    except (ValueError, RecursionError):
        raise Corrupt("settler message: not JSON") from None
    return checked(message)


def checked(message: object) -> Message:
    """``message``, if it has a known type and exactly its fields. Raises :class:`Corrupt`."""
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise Corrupt("settler message: not an object with a type")
    fields = FIELDS.get(message["type"])
    if fields is None:
        raise Corrupt("settler message: unknown type")
    rest = {name: value for name, value in message.items() if name != "type"}
    check_fields(rest, fields)
    if message["type"] == "job":
        job = JOBS.get(rest["kind"])
        if job is None:
            raise Corrupt("settler message: unknown job")
        check_fields(rest["params"], COMMON | job)
    return message


def check_fields(values: Mapping[str, object], fields: Mapping[str, type]) -> None:
    """Whether ``values`` has exactly these fields, of these types (a bool is no int). Raises :class:`Corrupt`."""
    if values.keys() != fields.keys() or not all(type(values[name]) is kind for name, kind in fields.items()):
        raise Corrupt("settler message: wrong fields")


class Channel:
    """Whole frames over a pair of pipe descriptors, blocking. Owns both descriptors."""

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self._read_fd = read_fd
        self._write_fd = write_fd

    def send(self, type_: str, **fields: Any) -> None:
        """Write one frame. Raises BrokenPipeError when the other side is gone."""
        data = memoryview(encode_frame(type_, **fields))
        while data:
            data = data[os.write(self._write_fd, data) :]

    def receive(self) -> Message | None:
        """The next message; None when the other side is gone. Raises :class:`Corrupt`."""
        head = self._exactly(_LENGTH.size)
        if head is None:
            return None
        (length,) = _LENGTH.unpack(head)
        if not 0 < length <= FRAME_MAX:
            raise Corrupt("settler message: impossible length")
        body = self._exactly(length)
        return None if body is None else decode_body(body)

    def fileno(self) -> int:
        """The descriptor that messages come from, to wait on."""
        return self._read_fd

    def close(self) -> None:
        """Close both descriptors."""
        for fd in (self._read_fd, self._write_fd):
            if fd >= 0:
                os.close(fd)
        self._read_fd = self._write_fd = -1

    def _exactly(self, count: int) -> bytes | None:
        data = b""
        while len(data) < count:
            more = os.read(self._read_fd, count - len(data))
            if not more:
                return None
            data += more
        return data
