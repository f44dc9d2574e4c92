"""What an adapter notes about a workspace that it manages: JSON in the setting ``managed``, under the adapter's name.

It is changed in one durable step with nothing else, and forks begin without one.
"""

from __future__ import annotations

import json
from typing import Any, Final

from cowfs.client.store import Store
from cowfs.errors import Conflict, Invalid
from cowfs.results import Workspace

SETTING: Final = "managed"
CHARACTERS: Final = 32_768
"""Of a record at most, as the table of settings says."""


def read(workspace: Workspace, program: str) -> dict[str, Any] | None:
    """What ``program`` noted; None: nothing. Raises Conflict when another program manages the workspace."""
    text = workspace.settings.get(SETTING)
    if text is None:
        return None
    try:
        value = json.loads(str(text))
    except (ValueError, RecursionError):
        value = None
    found = value.get(program) if isinstance(value, dict) else None
    if not isinstance(found, dict):
        raise Conflict(f"{workspace.name} is managed by another program", hint=f"see cowfs set {workspace.name}")
    return found


def write(store: Store, name: str, program: str, value: dict[str, Any] | None) -> None:
    """Note ``value`` for the workspace ``name``, or nothing any more. Raises Invalid for what is too long, NotFound."""
    text = None if value is None else json.dumps({program: value}, separators=(",", ":"))
    if text is not None and len(text) > CHARACTERS:
        raise Invalid(
            f"what {program} is to note about a workspace has {len(text)} characters", hint=f"at most {CHARACTERS}"
        )
    store.workspace(name).set({SETTING: text})
