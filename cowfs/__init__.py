"""cowfs: root filesystems that are forked, checkpointed and restored instantly.

Importing this package stays light: names are loaded on first use.
"""

from typing import Any

__version__ = "0.1.0"

_LAZY = {"connect": "cowfs.client", "CowfsError": "cowfs.errors"}
__all__ = ["CowfsError", "__version__", "connect"]


def __getattr__(name: str) -> Any:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module 'cowfs' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(module), name)
