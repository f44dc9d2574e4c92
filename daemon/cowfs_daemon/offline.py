"""What is done to a store that no daemon has: making it, checking it, mending it."""

import secrets
import time
from pathlib import Path
from typing import Any

from cowfs.engine import Engine
from cowfs.repair import repair_store as repair


def new_id(prefix: str) -> str:
    """``PREFIX-`` and 16 random hexadecimal digits."""
    return f"{prefix}-{secrets.token_hex(8)}"


def create_store(store: str) -> dict[str, Any]:
    """Make an empty store; raises what Engine.create_store does."""
    Engine.create_store(Path(store), time.time_ns, secrets.token_bytes(16))
    return {"store": store}


def check_store(store: str, deep: bool) -> dict[str, Any]:
    """Check a store that no daemon has; the shape of ``/v1/store/check``."""
    engine = Engine.open(Path(store), time.time_ns, new_id)
    try:
        findings = [each.shape() for each in engine.fsck(deep)]
    finally:
        engine.close()
    return {"clean": not findings, "findings": findings}


def repair_store(store: str) -> dict[str, Any]:
    """Mend a store that no daemon has, then check it; the shape of ``/v1/store/check``, with what was done.

    Raises Busy while a daemon has it, Corrupt when it cannot be mended at all.
    """
    repaired = [each.shape() for each in repair(Path(store))]
    return {"repaired": repaired, **check_store(store, deep=True)}
