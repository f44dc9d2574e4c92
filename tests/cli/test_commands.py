"""Each command against a served engine in memory: output, JSON shapes, errors and exit codes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cowfs.client import place
from cowfs_cli.common import split_path
from cowfs_cli.main import COMMANDS, main
from tests.cli.conftest import Cowfs
from tests.support.servedstore import ServedStore

SNAPSHOT_KEYS = {
    "id", "workspace", "parent", "message", "labels", "creator", "created_at", "automatic", "state", "root", "settings",
}  # fmt: skip


def test_the_session_of_the_readme(cowfs: Cowfs, served: ServedStore, tmp_path: Path) -> None:
    (tmp_path / "some").mkdir()
    assert cowfs("import", str(tmp_path / "some"), "ws-1").code == 0
    assert cowfs("path", "ws-1").out == "/mounts/ws-1\n"
    made = cowfs("checkpoint", "ws-1", "-m", "before the edit", "--label", "good").out.strip()
    assert served.engine.snapshot(made).labels == ("good",)
    served.write("ws-1", b"new", b"x")
    assert "--undo" in cowfs("restore", "ws-1", "@good").out
    assert served.read("ws-1", b"new") is None
    assert cowfs("restore", "ws-1", "ws-1@good").code == 0
    assert cowfs("restore", "ws-1", "--undo").code == 0
    assert cowfs("fork", "ws-1", "ws-2").out == "ws-2\n"
    assert cowfs("fork", "ws-1@good", "try", "--count", "8").out.split() == [f"try-{i}" for i in range(1, 9)]
    served.write("ws-2", b"etc/hostname", b"two\n")
    assert json.loads(cowfs("diff", "ws-1@good", "ws-2", "--json").out) == [
        {"change": "added", "path": "etc"},
        {"change": "added", "path": "etc/hostname"},
        {"change": "added", "path": "new"},
    ]
    assert cowfs("mount", "ws-1@good").out.endswith("ws-1@good\n")
    assert cowfs("show", "ws-2:etc/hostname").out == "two\n"


def test_json_shapes(cowfs: Cowfs) -> None:
    cowfs("create", "ws")
    done = json.loads(cowfs("checkpoint", "ws", "--label", "a", "--json").out)
    assert done["changed"] is True
    log = json.loads(cowfs("log", "ws", "--json").out)
    assert [each["id"] for each in log] == [done["snapshot"]["id"]]
    assert set(log[0]) == SNAPSHOT_KEYS
    assert log[0]["created_at"].endswith("Z")
    (listed,) = json.loads(cowfs("list", "--json").out)
    assert (listed["name"], listed["mounted"], listed["path"], listed["head"]) == ("ws", False, None, log[0]["id"])
    stat = json.loads(cowfs("stat", "--json").out)
    assert stat["workspaces"] == [{"name": "ws", "exclusive_bytes": stat["workspaces"][0]["exclusive_bytes"]}]
    assert {"logical_bytes", "stored_bytes", "blocks"} <= set(stat)
    status = json.loads(cowfs("daemon", "status", "--json").out)
    assert set(status) == {"supervisor", "keeper", "workers", "settlers", "queues"}
    assert isinstance(status["supervisor"]["pid"], int)


def test_text_output(cowfs: Cowfs, served: ServedStore) -> None:
    cowfs("create", "ws")
    made = cowfs("checkpoint", "ws", "-m", "first\x1b[31m", "--label", "a").out.strip()
    assert "first\N{REPLACEMENT CHARACTER}[31m" in cowfs("log", "ws").out
    assert cowfs("list").out.splitlines()[1].startswith("ws ")
    cowfs("fork", "ws@a", "try", "--count", "2")
    assert cowfs("tree").out.splitlines() == [
        made + " @a  first\N{REPLACEMENT CHARACTER}[31m", "├─ [try-1]", "├─ [try-2]", "└─ [ws]",
    ]  # fmt: skip
    assert cowfs("tree", "try-1").out == "[try-1]\n"
    assert "stored " in cowfs("stat").out
    assert cowfs("set", "ws@a", "--label", "b").code == 0
    assert "labels: a, b" in cowfs("show", "ws@b").out
    assert cowfs("rename", "try-1", "winner").code == 0
    assert cowfs("rm", "winner", "try-2").out == "removed winner\nremoved try-2\n"
    assert [each.name for each in served.engine.list()] == ["ws"]
    assert cowfs("mount", "ws").out == "/mounts/ws\n"
    assert cowfs("mount").out.splitlines()[1].split() == ["ws", "rw", "/mounts/ws"]
    assert cowfs("umount", "ws").code == 0
    assert cowfs("mount").out == ""


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("log", "nothing"), 3),
        (("create", "a/b"), 2),
        (("create", "ws"), 4),
        (("umount", "ws"), 5),
        (("restore", "ws"), 2),
        (("restore", "ws", "@x", "--undo"), 2),
        (("fork", "ws", "new", "--count", "0"), 2),
        (("nonsense",), 2),
        (("log",), 2),
        (("show", ":x"), 2),
        (("show", "ws:none"), 3),
        (("import", "/vanished/source", "new"), 3),
        (("log", "../../etc"), 2),
        (("log", "\udcff"), 2),
        (("list", "--store", "/nonexistent/store"), 3),
    ],
)
def test_errors_are_one_line_or_json_with_their_exit_code(
    cowfs: Cowfs, served: ServedStore, words: tuple[str, ...], code: int
) -> None:
    cowfs("create", "ws")
    cowfs("mount", "ws")
    served.mounts.busy = True
    plain = cowfs(*words)
    assert plain.code == code
    assert plain.err.startswith("cowfs: ")
    assert plain.err.count("\n") == 1
    error = json.loads(cowfs(*words, "--json").err)["error"]
    assert set(error) == {"code", "message", "hint"}


def test_debug_shows_a_traceback(cowfs: Cowfs) -> None:
    assert "Traceback" not in cowfs("log", "nothing").err
    assert "Traceback" in cowfs("log", "nothing", "--debug").err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_teaches(cowfs: Cowfs, name: str) -> None:
    ran = cowfs(name, "--help")
    assert ran.code == 0
    assert "Example" in ran.out or name == "daemon"


def test_help_lists_every_command(cowfs: Cowfs) -> None:
    ran = cowfs("--help")
    assert all(f"  {name} " in ran.out for name in COMMANDS)
    assert main.get_command(None, "../x") is None  # type: ignore[arg-type]


def test_without_a_store(cowfs: Cowfs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COWFS_STORE")
    monkeypatch.setattr(place, "default_store", str)
    ran = cowfs("list")
    assert (ran.code, "--store" in ran.err) == (2, True)


@pytest.mark.parametrize(
    ("uid", "environment", "store"),
    [
        (0, {"HOME": "/root"}, "/var/lib/cowfs"),
        (1000, {"HOME": "/somebody"}, "/somebody/.local/share/cowfs"),
        (1000, {"HOME": "/somebody", "XDG_DATA_HOME": "/data"}, "/data/cowfs"),
        (1000, {"HOME": "/somebody", "XDG_DATA_HOME": "relative"}, "/somebody/.local/share/cowfs"),
        (1000, {}, ""),
    ],
)
def test_the_store_of_a_user(
    monkeypatch: pytest.MonkeyPatch, uid: int, environment: dict[str, str], store: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    for name in ("HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert place.default_store() == store


def test_status_and_stop_without_a_daemon(cowfs: Cowfs, tmp_path_factory: pytest.TempPathFactory) -> None:
    idle = tmp_path_factory.mktemp("idle")
    (idle / "superblock").touch()
    store = str(idle)
    assert cowfs("daemon", "status", "--store", store).code == 3
    assert cowfs("daemon", "stop", "--store", store).out == "no daemon is running\n"


def test_completion_offers_workspaces_and_labels(cowfs: Cowfs, monkeypatch: pytest.MonkeyPatch) -> None:
    cowfs("create", "ws-1")
    cowfs("checkpoint", "ws-1", "--label", "good")
    monkeypatch.setenv("_COWFS_COMPLETE", "bash_complete")
    for typed, offered in (("ws", ["ws-1"]), ("ws-1@g", ["ws-1@good"]), ("none@", [])):
        monkeypatch.setenv("COMP_WORDS", f"cowfs log {typed}")
        monkeypatch.setenv("COMP_CWORD", "2")
        assert [line.partition(",")[2] for line in cowfs().out.split()] == offered


@pytest.mark.parametrize("elsewhere", ["/nonexistent/store", ""])
def test_completion_looks_in_the_store_that_was_named(
    cowfs: Cowfs, served: ServedStore, monkeypatch: pytest.MonkeyPatch, elsewhere: str
) -> None:
    cowfs("create", "ws-1")
    monkeypatch.setenv("_COWFS_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_CWORD", "4")
    for store, default, offered in ((str(served.path), elsewhere, "plain,ws-1\n"), (elsewhere, str(served.path), "")):
        monkeypatch.setenv("COWFS_STORE", default)
        monkeypatch.setenv("COMP_WORDS", f"cowfs log --store '{store}' ws")
        assert cowfs().out.split() == offered.split()


def test_a_command_imports_no_framework() -> None:
    code = (
        "import sys; sys.argv = ['cowfs', 'checkpoint', 'x', '--store', '/nonexistent']\n"
        "from cowfs_cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'http.client', 'dataclasses', 'pydantic', 'trio', 'fastapi', 'subprocess', 'cowfs.results', 'lmdb'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    path = ":".join(each for each in sys.path if each)
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": path})
    assert ran.stdout == "[]\n", ran.stderr


def test_gc(cowfs: Cowfs, served: ServedStore) -> None:
    cowfs("create", "ws")
    served.write("ws", b"f", bytes(range(256)) * 100)
    cowfs("checkpoint", "ws")
    served.engine.settle()
    cowfs("rm", "ws", "--force")
    planned = json.loads(cowfs("gc", "--dry-run", "--json").out)
    assert planned["dry_run"]
    assert planned["blocks"] > 0
    assert "would remove" in cowfs("gc", "--dry-run").out
    done = json.loads(cowfs("gc", "--json").out)
    assert done | {"dry_run": True, "freed_bytes": 0} == planned
    assert cowfs("gc").out == "removed 0 blocks, 0 B; 0 B of files are gone\n"


@pytest.mark.parametrize(
    ("text", "split"),
    [
        ("ws", ("ws", None)),
        ("ws@good:etc/hostname", ("ws@good", "etc/hostname")),
        ("ws:/a:b", ("ws", "/a:b")),
        ("ws:", ("ws", "")),
        ("template", ("template", None)),
        ("template:py", ("template:py", None)),
        ("template:py:a:b", ("template:py", "a:b")),
        ("template:py:", ("template:py", "")),
    ],
)
def test_where_a_reference_ends_and_a_path_begins(text: str, split: tuple[str, str | None]) -> None:
    assert split_path(text) == split


HOSTILE = "one\x1b]0;title\x07\x9b2J\rtwo\u202e\nthree"


def unprintable(text: str) -> list[str]:
    return [char for line in text.split("\n") for char in line if not char.isprintable()]


@pytest.mark.parametrize("words", [("show", "ws@a"), ("log", "ws"), ("tree",), ("diff", "ws@a", "ws")])
def test_what_is_stored_does_not_drive_the_terminal(cowfs: Cowfs, served: ServedStore, words: tuple[str, ...]) -> None:
    served.engine.create("ws")
    served.engine.checkpoint("ws", HOSTILE, "a", creator=HOSTILE, allow_empty=True)
    served.write("ws", HOSTILE.encode(), b"")
    lines = cowfs(*words).out
    assert "one\N{REPLACEMENT CHARACTER}" in lines
    assert unprintable(lines) == []
    assert "\nthree" not in lines


def test_an_error_about_something_hostile_is_one_line(cowfs: Cowfs, tmp_path: Path) -> None:
    (tmp_path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    named = [{"annotations": {"org.opencontainers.image.ref.name": f"{HOSTILE}{number}"}} for number in range(2)]
    (tmp_path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": named}))
    refused = cowfs("import", f"oci:{tmp_path}", "ws")
    assert (refused.code, refused.err.count("\n"), unprintable(refused.err)) == (2, 1, [])
    assert "three1" in refused.err
    assert json.loads(cowfs("import", f"oci:{tmp_path}:{HOSTILE}", "ws", "--json").err)["error"]["code"] == "invalid"


def test_a_difference_is_cut_with_its_end_told(cowfs: Cowfs, served: ServedStore) -> None:
    served.engine.create("ws")
    served.engine.checkpoint("ws", "", "a", allow_empty=True)
    for name in (b"one", b"two"):
        served.write("ws", name, b"")
    assert cowfs("diff", "ws@a", "ws", "--limit", "1").out == "A one\nand more\n"
    assert cowfs("diff", "ws@a", "ws", "--limit", "2").out == "A one\nA two\n"
    cut = json.loads(cowfs("diff", "ws@a", "ws", "--limit", "1", "--json").out)
    assert cut == {"changes": [{"change": "added", "path": "one"}], "more": True}
