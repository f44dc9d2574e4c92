"""The Python client: ``cowfs.connect()``. Standard library only; names are loaded on first use."""

from typing import Any

_LAZY = {
    "connect": "cowfs.client.store",
    "Store": "cowfs.client.store",
    "WorkspaceHandle": "cowfs.client.store",
    "Wire": "cowfs.client.wire",
}
__all__ = ["Store", "Wire", "WorkspaceHandle", "connect"]


def __getattr__(name: str) -> Any:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module 'cowfs.client' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(module), name)
