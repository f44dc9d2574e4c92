"""A short run of :mod:`tests.workers.listings`."""

from __future__ import annotations

import os

import pytest

from tests.workers.conftest import Owned
from tests.workers.listings import campaign

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="no /dev/fuse on this machine"),
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting directly needs root"),
]


def test_listings_under_checkpoints_restores_and_moves(owned: Owned) -> None:
    done = campaign(owned, seconds=4, seed=1)
    assert min(done.get(verb, 0) for verb in ("restore", "whole", "marked")) > 0
