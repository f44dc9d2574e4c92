"""The verb ``set``: strict values, all or nothing, kept over restarts, inherited by forks, as documented."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cowfs import settings
from cowfs.errors import Conflict, CowfsError, Invalid, NotFound
from cowfs.results import Snapshot
from tests.support.lab import Lab

ROOT = Path(__file__).parents[3]
GOOD: dict[str, dict[str, Any]] = {
    "quota.bytes": {"10G": 10 << 30, "4096": 4096, "1m": 1 << 20, "2TiB": 2 << 40, "5KB": 5 << 10},
    "quota.inodes": {"1": 1, "1M": 1_000_000, "20k": 20_000},
    "retention.last": {"0": 0, "7": 7},
    "retention.within": {"90s": 90, "15m": 900, "12h": 43_200, "7d": 604_800, "4w": 2_419_200},
    "retention.automatic": {"0": 0, "20": 20},
    "ttl": {"1s": 1, "30d": 2_592_000},
    "disk": {"disk.img": "disk.img"},
    "pin": {"yes": True, "no": False, "true": True, "off": False},
    "template": {"py311": "py311"},
    "description": {"a b": "a b", "größer": "größer"},
    "managed": {"{}": "{}", "x" * 32_768: "x" * 32_768},
}
BAD = {
    "quota.bytes": ["-1", "1.5G", "10 G", "0", "4095", "G", "1X", "9223372036854775807", "1_000", "٣", " 5K"],
    "quota.inodes": ["0", "1G", "-5", "1e3", "m"],
    "retention.last": ["-1", "x"],
    "retention.within": ["0s", "7", "1d12h", "1y", "d", "-1d"],
    "retention.automatic": ["many"],
    "ttl": ["0d", "1"],
    "disk": ["a\nb", "x" * 5000],
    "pin": ["1", "maybe", "YES"],
    "template": ["a\nb", "x" * 5000],
    "description": ["a\nb", "\x1b[2J", "x" * 5000],
    "managed": ["a\nb", "x" * 32_769],
}


def held(lab: Lab, ref: str = "ws") -> dict[str, Any]:
    """What is set."""
    return {each.key: each.value for each in lab.engine.settings(ref) if each.value is not None}


@pytest.mark.parametrize("key", [each.key for each in settings.applicable(settings.WORKSPACE)])
def test_values(lab: Lab, key: str) -> None:
    for text, value in GOOD[key].items():
        lab.engine.set("ws", {key: text})
        assert held(lab) == {key: value}
        lab.do("kill")
        assert held(lab) == {key: value} == lab.engine.workspace("ws").settings
    for text in BAD[key]:
        with pytest.raises(Invalid) as caught:
            lab.engine.set("ws", {key: text})
        assert key in caught.value.message
        assert caught.value.hint
    lab.engine.set("ws", {key: ""})
    assert held(lab) == {}


def test_every_setting_is_tested() -> None:
    assert GOOD.keys() == BAD.keys() == {setting.key for setting in settings.TABLE}


@given(st.sampled_from(settings.TABLE), st.integers(0, 1 << 62))
def test_what_is_shown_means_the_same(setting: settings.Setting, value: int) -> None:
    if setting.kind in ("bytes", "count", "duration") and value >= setting.least:
        assert settings.parse(setting, settings.show(setting, value)) == value
        assert settings.decode(setting, settings.encode(value)) == value


@given(st.sampled_from(settings.TABLE), st.text(max_size=30) | st.from_regex(r"[0-9]{1,25}[a-zA-Z]{0,3}"))
def test_any_text_is_a_value_or_invalid(setting: settings.Setting, text: str) -> None:
    try:
        value = settings.parse(setting, text)
    except Invalid:
        return
    assert settings.decode(setting, settings.encode(value)) == value


def test_all_or_nothing(lab: Lab) -> None:
    lab.engine.set("ws", {"ttl": "1d"})
    for changes in ({"ttl": "2d", "pin": "perhaps"}, {"ttl": "2d", "nothing": "1"}, {"ttl": "2d", "label": "x"}):
        with pytest.raises(Invalid):
            lab.engine.set("ws", changes)
    assert held(lab) == {"ttl": 86_400}
    with pytest.raises(NotFound):
        lab.engine.set("nobody", {"ttl": "1d"})


def test_settings_of_snapshots(lab: Lab) -> None:
    one, two = (lab.engine.checkpoint("ws", "", allow_empty=True).snapshot.id for _ in range(2))
    lab.engine.set(one, {"label": "good", "pin": True, "description": "before"})
    with pytest.raises(Conflict):
        lab.engine.set(two, {"label": "good", "pin": True})
    assert held(lab, two) == {}
    with pytest.raises(Invalid, match="no setting 'ttl'"):
        lab.engine.set(one, {"ttl": "1d"})
    done = lab.engine.set("ws@good", {"pin": None})
    assert isinstance(done, Snapshot)
    assert (done.labels, done.settings) == (("good",), {"description": "before"})
    moved = lab.engine.set(two, {"label": "good"}, move=True)
    assert isinstance(moved, Snapshot)
    assert moved.labels == ("good",)
    assert lab.engine.log("ws")[0].settings == {}
    lab.engine.set(two, {"label": ""})
    assert lab.engine.snapshot(two).labels == ()


def test_forks_begin_with_quota_and_retention(lab: Lab) -> None:
    lab.engine.set("ws", {"quota.bytes": "1G", "retention.last": 3, "ttl": "1d", "pin": True, "description": "base"})
    forks = lab.engine.fork("ws", "fork", 2)
    lab.do("kill")
    for fork in forks:
        assert held(lab, fork.name) == {"quota.bytes": 1 << 30, "retention.last": 3}
    lab.engine.set("fork-1", {"quota.bytes": None})
    assert held(lab, "fork-2")["quota.bytes"] == 1 << 30


def test_a_number_is_seconds_where_a_duration_is_meant(lab: Lab) -> None:
    lab.engine.set("ws", {"ttl": 90, "quota.bytes": 1 << 20, "pin": False})
    assert held(lab) == {"ttl": 90, "quota.bytes": 1 << 20, "pin": False}
    with pytest.raises(CowfsError):
        lab.engine.set("ws", {"ttl": 1.5})


def test_documents_and_help_have_the_table() -> None:
    document = (ROOT / "docs" / "cli.md").read_text()
    rows = re.findall(r"^\| `([a-z.]+)` ?(\*?) \| ([a-z, ]+) \| (\w+) \| (\w+) \| (.+) \|$", document, re.MULTILINE)
    table = [
        (each.key, "*" if each.inherited else "", ", ".join(each.targets), each.kind,
         "none" if each.default is None else settings.show(each, each.default), each.help)
        for each in settings.TABLE
    ]  # fmt: skip
    assert rows == table
    from cowfs_cli.commands import set_

    assert list(set_.KEYS) == [each.key for each in settings.TABLE]
    text = set_.command.help or ""
    for each in settings.TABLE:
        assert re.search(rf"^ *{re.escape(each.key)}=\S+ +{re.escape(each.help)}$", text, re.MULTILINE), each.key
