"""What a workspace asks of whatever serves it to a kernel."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from cowfs.compare import Changes
from cowfs.results import Handle
from cowfs.subtrees import Removed


class Transport(Protocol):
    """What serves a workspace to a kernel. Every method but ``begin_restore`` runs without the lock."""

    def flush_writable(self) -> None:
        """Return when pages dirtied through shared mappings have arrived here. Raises OSError."""

    def mount_points(self) -> list[tuple[str, int]]:
        """(path, inode) of everything mounted inside the workspace."""

    def restoring(self) -> AbstractContextManager[None]:
        """Around a whole restore, from before the flush: names and attributes are handed out uncached."""

    def begin_restore(self, changes: Changes) -> None:
        """Under the lock, at the swap: from now on page-cache writes to changed inodes are discarded."""

    def invalidate(self, changes: Changes) -> list[Handle]:
        """Make the kernel forget everything old; returns the descriptors that the restore affected."""

    def removed(self, gone: Sequence[Removed], directory: int) -> None:
        """These names, from below, are gone, by no request; what held the uppermost is ``directory``."""

    def made(self, parent: int, name: bytes) -> None:
        """By no request there is a name now which the kernel may know not to be there."""
