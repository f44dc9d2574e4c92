"""A few seconds of random events; ``python -m tests.mirror`` is the long version."""

from pathlib import Path

import pytest

from tests.mirror.campaign import Campaign
from tests.support.mounting import needs_mounts

pytestmark = needs_mounts


@pytest.mark.parametrize("kills", [False, True], ids=["alive", "killed"])
def test_workspaces_are_like_plain_copies(tmp_path: Path, kills: bool) -> None:
    campaign = Campaign(tmp_path, 7, kills=kills)
    try:
        campaign.run(60, 8.0)
    except BaseException:
        print("\n".join(campaign.events))
        raise
    finally:
        campaign.close()
    assert campaign.counts["changes"] > 0
