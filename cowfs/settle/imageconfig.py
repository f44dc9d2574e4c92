"""The configuration of an image: what names its layers, and what an exported image says of itself.

Sources: the OCI image specification 1.1, "Image Configuration" ("Layer ChainID", "Properties").
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from cowfs.settle import oci

CREATOR = "cowfs export"


def chain_ids(diff_ids: Sequence[str]) -> list[str]:
    """The ChainID of each layer, from below: it names the layer and everything underneath."""
    found: list[str] = []
    for diff_id in diff_ids:
        found.append(oci.digest_of(f"{found[-1]} {diff_id}".encode()) if found else diff_id)
    return found


def diff_ids_of(config: bytes) -> list[str]:
    """The digests of the layers of an image that was imported, so that its configuration has them."""
    return [str(each) for each in json.loads(config)["rootfs"]["diff_ids"]]


def exported(config: bytes | None, origins: Sequence[int], diff_ids: Sequence[str], created: int) -> bytes:
    """The configuration of an exported image, the same bytes for the same arguments.

    ``config``: of the image that was imported, or None. ``origins``: for each layer from below the number (from 1) of
    the imported layer it is, and 0 for one that is not. ``diff_ids`` of the layers. ``created``: ns, of the snapshot.
    """
    value: dict[str, Any] = {} if config is None else json.loads(config)
    time = rfc3339(created)
    value.setdefault("architecture", oci.architecture())
    value.setdefault("os", "linux")
    if config is None or 0 in origins:
        value["created"] = time
    value["rootfs"] = {"type": "layers", "diff_ids": list(diff_ids)}
    kept = _kept_history(value.get("history"), [each for each in origins if each])
    value.pop("history", None)
    if kept is not None:
        added = [{"created": time, "created_by": CREATOR} for each in origins if not each]
        value["history"] = kept + added
    return document(value)


def _kept_history(history: Any, origins: Sequence[int]) -> list[dict[str, Any]] | None:
    """What is known of imported layers, one entry with a layer for each of ``origins``; None: it makes no sense.

    A layer that is not kept by itself is part of the next one that is: its entry has no layer of its own any more.
    """
    if not origins:
        return []
    if not isinstance(history, list) or not all(isinstance(each, dict) for each in history):
        return None
    found: list[dict[str, Any]] = []
    number = 0
    for each in history:
        if each.get("empty_layer") is not True:
            number += 1
            if number > origins[-1]:
                return found
            each = each if number in origins else {**each, "empty_layer": True}
        found.append(each)
    return found if number >= origins[-1] else None


def rfc3339(ns: int) -> str:
    """A time as documents have it: in UTC, to the nanosecond."""
    seconds, rest = divmod(ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


def document(value: Any) -> bytes:
    """JSON, the same bytes for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")
