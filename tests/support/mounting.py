"""What tests need of the machine, as marks: ``pytestmark = needs_mounts``."""

from __future__ import annotations

import os
import shutil
from typing import Final

import pytest


def _obstacle() -> str:
    if not os.path.exists("/dev/fuse"):
        return "no /dev/fuse on this machine"
    if os.geteuid() == 0:
        return ""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "this user may not open /dev/fuse"
    return "" if shutil.which("fusermount3") else "mounting needs root or fusermount3"


OBSTACLE: Final = _obstacle()
"""Why nothing can be mounted here; empty: it can."""

ROOT: Final = os.geteuid() == 0

needs_mounts: Final = [pytest.mark.fuse, pytest.mark.skipif(bool(OBSTACLE), reason=OBSTACLE)]


def needs_root(reason: str) -> pytest.MarkDecorator:
    """The mark of a test that makes, with root's rights, what ``reason`` says."""
    return pytest.mark.skipif(not ROOT, reason=f"needs root: {reason}")


as_others: Final = needs_root("acts as several users")
mounts_inside: Final = needs_root("mounts something inside of a workspace")
by_handle: Final = needs_root("opens files by their inode numbers")
