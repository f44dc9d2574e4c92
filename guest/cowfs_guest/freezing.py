"""Freezing filesystems for a moment, so that what is copied of their disk meanwhile is whole.

While they are frozen whoever writes to them waits, for ever if it must be. So nothing here touches a file between
freezing and thawing: the descriptors and the watchdog's thread are there before.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
from contextlib import suppress

from cowfs_guest import Refused

FIFREEZE = 0xC0045877
FITHAW = 0xC0045878

SECONDS = 10.0
SECONDS_MAX = 60.0


class Freezer:
    """Freezes and thaws the filesystems mounted at ``roots``, all or none. Thread-safe.

    ``_state`` guards what is frozen, and is never held while a filesystem is being frozen; ``_freezing`` lets one
    freeze in at a time. The watchdog thaws when a freeze has lasted too long, also one that is not done yet.
    """

    def __init__(self, roots: list[str]) -> None:
        self._roots = roots
        self._freezing = threading.Lock()
        self._state = threading.Condition()
        self._frozen: list[int] = []
        self._began = 0.0
        self._deadline: float | None = None
        self._automatic = False
        threading.Thread(target=self._watch, name="cowfs-thaw", daemon=True).start()

    @property
    def frozen(self) -> bool:
        """Whether a freeze is on, or under way."""
        return self._deadline is not None

    def freeze(self, seconds: float = SECONDS) -> dict[str, float]:
        """Freeze for ``seconds`` at most. Raises Refused: conflict when frozen already, invalid when it cannot be."""
        if not self._freezing.acquire(blocking=False):
            raise Refused("conflict", "the filesystems are being frozen already")
        try:
            with self._state:
                if self._deadline is not None:
                    raise Refused("conflict", "the filesystems are frozen already", "Thaw them first.")
                self._began = time.monotonic()
                self._deadline = self._began + seconds
                self._automatic = False
                self._state.notify_all()
            try:
                for root in self._roots:
                    self._freeze_one(root)
            except BaseException:
                with self._state:
                    self._release()
                raise
        finally:
            self._freezing.release()
        return {"thaw_after_seconds": seconds}

    def _freeze_one(self, root: str) -> None:
        try:
            fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise Refused("not_found", f"{root}: {error.strerror}") from None
        try:
            fcntl.ioctl(fd, FIFREEZE, 0)
        except OSError as error:
            os.close(fd)
            if error.errno == errno.EBUSY:
                raise Refused("conflict", f"{root} is frozen already, by another program") from None
            raise Refused("invalid", f"{root} cannot be frozen: {error.strerror}") from None
        with self._state:
            self._frozen.append(fd)
            if self._deadline is None:  # thawed meanwhile, by the watchdog or by request
                self._release()
                raise Refused("busy", "freezing took too long, or was taken back meanwhile", "Try again.")

    def thaw(self) -> dict[str, float]:
        """Let writers go on; for how long they waited. Raises Refused, conflict: nothing is frozen (any more)."""
        with self._state:
            if self._deadline is not None:
                self._release()
                return {"frozen_seconds": time.monotonic() - self._began}
            if self._automatic:
                self._automatic = False
                raise Refused(
                    "conflict",
                    "nothing is frozen any more: it was thawed when its time was over",
                    "What was copied meanwhile may be torn. Ask for more seconds.",
                )
            # A predecessor may have been killed while it held them.
            thawed = [_thaw(root) for root in self._roots]
            if not any(thawed):
                raise Refused("conflict", "nothing is frozen")
            return {"frozen_seconds": 0.0}

    def close(self) -> None:
        """Thaw what this froze, also what is just being frozen."""
        with self._state:
            self._release()
        with self._freezing:
            pass

    def _release(self) -> None:
        """Thaw what is frozen; ``_state`` is held."""
        self._deadline = None
        while self._frozen:
            fd = self._frozen.pop()
            with suppress(OSError):  # somebody else thawed it
                fcntl.ioctl(fd, FITHAW, 0)
            os.close(fd)

    def _watch(self) -> None:
        with self._state:
            while True:
                left = None if self._deadline is None else self._deadline - time.monotonic()
                if left is not None and left <= 0:
                    self._release()
                    self._automatic = True
                else:
                    self._state.wait(left)


def _thaw(root: str) -> bool:
    try:
        fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.ioctl(fd, FITHAW, 0)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True
