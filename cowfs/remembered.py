"""Results that are kept under idempotency keys: what a request is, and results <-> bytes.

A client that asks again with the key of a request that it got no answer to is given the first result; see
:mod:`cowfs.keys`. What is kept is the result of the verb as JSON, compressed.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Final, NamedTuple

from cowfs.errors import Corrupt
from cowfs.results import Checkpointed, Handle, Restored, Snapshot, Workspace

KEPT_NS: Final = 24 * 3600 * 10**9
"""How long a result is kept at least, unless there are more than :data:`RESULTS_MAX` newer ones."""

RESULTS_MAX: Final = 10_000
"""Results kept at most: beyond that, the oldest half goes."""

RESULT_BYTES_MAX: Final = 16 * 1024 * 1024
"""Bytes of all results kept at most, likewise."""

KEY_MAX: Final = 255
"""Characters of a key at most."""

_JSON_MAX = 64 * 1024 * 1024


class Request(NamedTuple):
    """What tells one request from another: the ``key`` its caller chose, and 32 bytes that depend on all it says."""

    key: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import made; ``problems``: lines about what could not be copied as it is."""

    workspace: Workspace
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Removed:
    """Something is gone."""


@dataclass(frozen=True, slots=True)
class Made:
    """What a Checkpoint marker says of its result: the snapshot's id."""

    snapshot: str


@dataclass(frozen=True, slots=True)
class WentBack:
    """What a Restore marker says of its result: ids of the target and of what takes it back, and inodes changed."""

    snapshot: str
    undo: str | None
    changed_inodes: int


Result = Workspace | tuple[Workspace, ...] | Snapshot | Checkpointed | Restored | Imported | Removed | Made | WentBack


def encode_result(result: Result) -> bytes:
    """The bytes that are kept."""
    if isinstance(result, tuple):
        value: Any = {"type": "Forked", "value": [asdict(each) for each in result]}
    else:
        value = {"type": type(result).__name__, "value": asdict(result)}
    return zlib.compress(json.dumps(value, separators=(",", ":")).encode(), 1)


def decode_result(data: bytes) -> Result:
    """The inverse of :func:`encode_result`. Raises Corrupt."""
    try:
        unpack = zlib.decompressobj()
        text = unpack.decompress(data, _JSON_MAX)
        if not unpack.eof or unpack.unused_data:
            raise ValueError("more than a result")
        value = json.loads(text)
        return _DECODERS[value["type"]](value["value"])
    except (zlib.error, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Corrupt(f"a kept result cannot be read: {error}") from error


def _snapshot(value: dict[str, Any]) -> Snapshot:
    return Snapshot(**value | {"labels": tuple(value["labels"])})


def _restored(value: dict[str, Any]) -> Restored:
    undo = value["undo"]
    return Restored(
        _snapshot(value["snapshot"]),
        None if undo is None else _snapshot(undo),
        value["changed_inodes"],
        tuple(Handle(**each) for each in value["handles"]),
    )


_DECODERS: dict[str, Callable[[Any], Result]] = {
    "Workspace": lambda value: Workspace(**value),
    "Forked": lambda value: tuple(Workspace(**each) for each in value),
    "Snapshot": _snapshot,
    "Checkpointed": lambda value: Checkpointed(_snapshot(value["snapshot"]), value["changed"]),
    "Restored": _restored,
    "Imported": lambda value: Imported(Workspace(**value["workspace"]), tuple(value["problems"])),
    "Removed": lambda value: Removed(**value),
    "Made": lambda value: Made(**value),
    "WentBack": lambda value: WentBack(**value),
}
