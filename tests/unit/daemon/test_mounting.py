"""Mounting, where something comes in between."""

from __future__ import annotations

import errno
import os

import pytest

from cowfs.errors import Busy
from cowfs_daemon.fuse import mount


@pytest.mark.parametrize("number", [errno.ENODEV, errno.ECONNABORTED])
def test_what_is_unmounted_meanwhile_is_busy(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Another worker clears the place, for one that died there."""

    def gone(*_: object) -> bytes:
        raise OSError(number, os.strerror(number))

    ours, theirs = os.pipe()
    try:
        os.write(theirs, b"x")
        monkeypatch.setattr(os, "read", gone)
        with pytest.raises(Busy, match="unmounted"):
            mount._answer_init(ours, passthrough=False)
    finally:
        os.close(ours)
        os.close(theirs)
