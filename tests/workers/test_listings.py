"""A short run of :mod:`tests.workers.listings`."""

from __future__ import annotations

from tests.support.mounting import needs_mounts
from tests.workers.conftest import Owned
from tests.workers.listings import campaign

pytestmark = needs_mounts


def test_listings_under_checkpoints_restores_and_moves(owned: Owned) -> None:
    done = campaign(owned, seconds=4, seed=1)
    assert min(done.get(verb, 0) for verb in ("restore", "whole", "marked")) > 0
