"""What the daemon does by itself: apply the rules of retention, and collect what they leave."""

from __future__ import annotations

import os

from cowfs_daemon.collecting import Collecting
from tests.support.mounting import needs_mounts
from tests.workers.conftest import Owned, eventually

pytestmark = needs_mounts


def test_the_daemon_applies_the_rules_and_collects(owned: Owned) -> None:
    engine, path = owned.engine, owned.make("ws")
    first = engine.checkpoint("ws", "empty", allow_empty=True).snapshot.id
    for number in range(6):
        (path / "f").write_bytes(os.urandom(100_000))
        engine.restore("ws", first)
        assert len(engine.log("ws")) == number + 2
    for name in ("idle", "mounted", "pinned"):
        engine.create(name)
        engine.set(name, {"ttl": "1s"})
    engine.set("pinned", {"pin": True})
    owned.path("mounted")
    engine.set("ws", {"retention.automatic": 2})
    engine.settle()
    before = sum(file.stat().st_size for file in engine.store.segments.iterdir())
    collecting = Collecting(engine.collector, engine.retention, engine.reserve, look_seconds=0.1, collect_seconds=0.3)
    collecting.start()
    try:
        eventually(lambda: len(engine.log("ws")) == 3, "two automatic snapshots are left, and the head")
        eventually(lambda: {each.name for each in engine.list()} == {"ws", "mounted", "pinned"}, "the idle one goes")
        eventually(lambda: engine.collector.removed_blocks >= 3, "their blocks go")
    finally:
        collecting.stop()
    assert sum(file.stat().st_size for file in engine.store.segments.iterdir()) <= before
    assert (path / "f").exists() is False
