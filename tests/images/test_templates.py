"""Templates: snapshots with a name, from which workspaces begin."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.live import Live


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    made = Live(tmp_path / "s")
    made.cowfs("init")
    made.cowfs("create", "base")
    yield made
    assert made.cowfs("fsck") == "clean"
    made.end()


def test_workspaces_from_templates(live: Live) -> None:
    top = Path(live.cowfs("path", "base"))
    (top / "version").write_text("1")
    live.cowfs("checkpoint", "base", "-m", "one", "--label", "one")
    (top / "version").write_text("2")
    live.cowfs("checkpoint", "base", "-m", "two", "--label", "two")
    live.cowfs("set", "base@one", "template=py", "description=the first")
    assert [(each["name"], each["description"]) for each in live.json("templates")] == [("py", "the first")]
    assert live.json("create", "task", "--template", "py")["name"] == "task"
    assert live.cowfs("show", "task:version") == "1"
    taken = live.run("set", "base@two", "template=py")
    assert (taken.code, "--move" in taken.err) == (4, True), taken
    live.cowfs("set", "base@two", "template=py", "--move")
    live.cowfs("fork", "template:py", "try", "--count", "2")
    assert live.cowfs("show", "try-2:version") == "2"
    assert [each["snapshot"] for each in live.json("templates")] == [live.json("show", "base@two")["id"]]
    live.cowfs("set", "base@two", "template=")
    unknown = live.run("create", "none", "--template", "py")
    assert (unknown.code, unknown.err.count("\n")) == (3, 1), unknown
    bad = live.run("set", "base@two", "template=a b")
    assert (bad.code, bad.err.count("\n")) == (2, 1), bad
    assert live.run("set", "base", "template=x").code == 2, "a live workspace is no template"


def test_no_rule_removes_a_template(live: Live) -> None:
    for number in range(4):
        live.cowfs("checkpoint", "base", "-m", str(number), "--allow-empty")
    oldest = live.json("log", "base")[-1]["id"]
    live.cowfs("set", oldest, "template=kept")
    live.cowfs("set", "base", "retention.last=1")
    live.cowfs("gc", "--prune")
    assert oldest in [each["id"] for each in live.json("log", "base")]
    assert len(live.json("log", "base")) == 2
    live.cowfs("rm", oldest)
    assert live.json("templates") == []
