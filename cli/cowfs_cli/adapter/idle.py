"""Things that are in use for a moment longer: the kernel takes a container's mounts away a little after its end."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from cowfs.client.store import Store
from cowfs.errors import Busy, NotFound

SECONDS: Final = 2.0
_PAUSE_SECONDS: Final = 0.05


def patiently(do: Callable[[], None]) -> None:
    """Call ``do``, again for a while as long as it raises Busy. Raises what it raises."""
    until = time.monotonic() + SECONDS
    while True:
        try:
            return do()
        except Busy:
            if time.monotonic() > until:
                raise
            time.sleep(_PAUSE_SECONDS)


def umount(store: Store, ref: str) -> None:
    """Unmount ``ref``, if it is mounted. Raises Busy when it stays in use."""
    with suppress(NotFound):
        patiently(lambda: store.umount(ref))
