"""Templates: snapshots with a name, from which workspaces begin."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cowfs.engine import Engine
from cowfs.formats.control import Renamed
from cowfs_daemon.offline import new_id
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


def test_a_template_is_a_reference_wherever_a_path_may_follow(live: Live) -> None:
    top = Path(live.cowfs("path", "base"))
    (top / "py").mkdir()
    (top / "py" / "version").write_text("3.11")
    made = live.json("checkpoint", "base", "--label", "one")["snapshot"]["id"]
    live.cowfs("set", made, "template=py")
    assert live.json("show", "template:py")["id"] == made
    assert live.cowfs("show", "template:py:py/version") == "3.11"
    for words in (("rm", "template:py:py"), ("clone", "template:py:py", "other")):
        refused = live.run(*words)
        assert (refused.code, refused.err.count("\n")) == (3, 1), refused
    live.cowfs("rm", "template:py")
    assert live.json("templates") == []
    assert [each["id"] for each in live.json("log", "base")] == []
    assert (top / "py" / "version").exists()
    for words in (("create", "template"), ("fork", "base", "template"), ("import", str(top), "template")):
        assert live.run(*words).code == 2, words
    live.cowfs("umount", "base")
    assert live.run("rename", "base", "template").code == 2


def test_a_workspace_named_template_of_an_older_store(live: Live) -> None:
    """It is not taken for a template, nor a template for it; another name makes all of it usable again."""
    place = Path(live.cowfs("path", "base"))
    (place / "py").mkdir()
    made = live.json("checkpoint", "base")["snapshot"]["id"]
    live.cowfs("daemon", "stop")
    lab = Engine.open(live.store, time.time_ns, new_id)
    try:
        lab.catalog.commit(Renamed(lab.workspace("base").id, "template"), sync=True)
    finally:
        lab.close()
    live.cowfs("set", made, "template=py")
    live.cowfs("fork", "template", "fork")
    live.cowfs("rm", "template:py")
    assert live.json("templates") == []
    live.cowfs("rename", "template", "base")
    assert live.run("show", "base:py").code == 2, "it is still there, a directory"
