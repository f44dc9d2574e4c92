"""Every wrong command: one line that says why, the exit code of its kind, the same in JSON, and nothing changed."""

import json
import os
from pathlib import Path

import pytest

from tests.cli.conftest import Cowfs, Ran
from tests.hostile.store import fingerprint
from tests.support.servedstore import ServedStore

INVALID, NOT_FOUND, CONFLICT, BUSY = 2, 3, 4, 5
LONG = "n" * 256
CODES = {INVALID: "invalid", NOT_FOUND: "not_found", CONFLICT: "conflict", BUSY: "busy"}

NAMES = ["a/b", "/", "..", ".", "", LONG, "snap-1", "a b", "a\nb", "ü", "a\udcff", "@x", "\x1b[31m", "-x", "a\u202eb"]
"""No workspace may have these names."""

REFERENCES = {
    "nothing": NOT_FOUND, "ws@nothing": NOT_FOUND, "ws@-99": NOT_FOUND, "snap-abcdef01": NOT_FOUND,
    "a/b": INVALID, "..": INVALID, "": INVALID, "a\udcff": INVALID, "@": INVALID, "@good": INVALID, "ws@": INVALID,
    "ws@-0": INVALID, "ws@--1": INVALID, "ws@-" + "9" * 30: INVALID, "ws@a@b": INVALID, "ws@../x": INVALID,
    "snap-": INVALID, "snap-zz": INVALID, "snap-../..": INVALID, "ws@" + LONG: INVALID, "x" * 2000: INVALID,
}  # fmt: skip
"""What no snapshot is called."""

COMMANDS: list[tuple[tuple[str, ...], int]] = [
    *((("create", "--", name), INVALID) for name in NAMES),
    *((("rename", "ws", "--", name), INVALID) for name in NAMES),
    *((("fork", "ws@good", "--", name), INVALID) for name in NAMES),
    *((("import", "SOURCE", "--", name), INVALID) for name in NAMES),
    *((("show", "--", f"{ref}:file"), code) for ref, code in REFERENCES.items()),
    *((("fork", "--", ref, "new"), code) for ref, code in REFERENCES.items()),
    *((("diff", "--", "ws", ref), code) for ref, code in REFERENCES.items()),
    *((("rm", "--", ref), code) for ref, code in REFERENCES.items()),
    *((("set", "--label", "x", "--", ref), code) for ref, code in REFERENCES.items()),
    (("log", "nothing"), NOT_FOUND),
    (("log", "a/b"), INVALID),
    (
        (
            "log",
            "..",
        ),
        INVALID,
    ),
    (("tree", "nothing"), NOT_FOUND),
    (("create", "ws"), CONFLICT),
    (("rename", "ws", "other"), CONFLICT),
    (("fork", "ws", "other"), CONFLICT),
    (("rename", "nothing", "new"), NOT_FOUND),
    (("import", "SOURCE", "ws"), CONFLICT),
    (("checkpoint", "nothing"), NOT_FOUND),
    *(
        (("checkpoint", "ws", f"--label={label}"), INVALID)
        for label in ("a/b", "latest", "-x", "", LONG, "ü", "a\udcff")
    ),
    (("checkpoint", "ws", "-m", "m" * 70_000), INVALID),
    (("checkpoint", "ws", "-m", "ü" * 40_000), INVALID),
    (("checkpoint", "ws", "-m", "\udcff"), INVALID),
    (("checkpoint", "ws", "--creator", "c" * 300), INVALID),
    (("set", "other@latest", "--label", "taken"), NOT_FOUND),
    (("set", "ws@-1", "--label", "good"), CONFLICT),
    (("restore", "ws", "foreign@theirs"), CONFLICT),
    (("restore", "ws"), INVALID),
    (("restore", "ws", "ws"), INVALID),
    (("restore", "ws", "@good", "--undo"), INVALID),
    (("restore", "nothing", "@good"), NOT_FOUND),
    (("restore", "ws", "--undo"), NOT_FOUND),
    (("fork", "ws@good", "n", "--count", "0"), INVALID),
    (("fork", "ws@good", "n", "--count", "100000000"), INVALID),
    (("fork", "ws@good", "n" * 255, "--count", "9"), INVALID),
    (("show", "ws@good:nothing"), NOT_FOUND),
    (("show", "ws@good:../../etc/passwd"), NOT_FOUND),
    (("show", "ws@good:"), INVALID),
    (("show", "ws@good:" + "x" * 3000), NOT_FOUND),
    (("show", "ws:a\udcff"), NOT_FOUND),
    (("umount", "ws"), NOT_FOUND),
    (("import", "VANISHED", "new"), NOT_FOUND),
    (("import", "FILE", "new"), INVALID),
    (("import", "STORE", "new"), INVALID),
    (("import", "", "new"), INVALID),
    (("import", "/dev/null", "new"), NOT_FOUND),
    (("import", "SOURCE", "new", "--exclude", ""), INVALID),
    (("init",), CONFLICT),
    (("init", "--store", "/dev/null"), INVALID),
    (("init", "--store", "/proc/store"), INVALID),
    (("list", "--store", "SOURCE"), NOT_FOUND),
    (("list", "--store", "/dev/null"), NOT_FOUND),
    (("list", "--store", ""), INVALID),
    (("list", "--store", "\0"), INVALID),
    (("daemon", "start", "--store", "SOURCE"), NOT_FOUND),
    (("daemon", "stop", "--store", "SOURCE"), NOT_FOUND),
    (("nonsense",), INVALID),
    (("log",), INVALID),
    (("log", "a", "b"), INVALID),
    (("log", "ws", "--nonsense"), INVALID),
    (("daemon", "nonsense"), INVALID),
]


@pytest.fixture
def places(tmp_path: Path, served: ServedStore, cowfs: Cowfs) -> dict[str, str]:
    """Words of the table that stand for paths; the store has the workspaces that the table speaks of."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_text("x")
    for words in (
        ("create", "ws"), ("checkpoint", "ws", "--label", "good"), ("checkpoint", "ws", "--allow-empty"),
        ("create", "other"), ("create", "foreign"), ("checkpoint", "foreign", "--label", "theirs"),
    ):  # fmt: skip
        assert cowfs(*words).code == 0
    return {
        "SOURCE": str(source),
        "FILE": str(source / "file"),
        "VANISHED": str(source / "vanished"),
        "STORE": str(served.path),
    }


def test_every_wrong_command(cowfs: Cowfs, served: ServedStore, places: dict[str, str]) -> None:
    before, source = fingerprint(served.path), sorted(os.listdir(places["SOURCE"]))
    wrong = []
    for template, code in COMMANDS:
        words = [places.get(word, word) for word in template]
        at = words.index("--") if "--" in words else len(words)
        plain, said = cowfs(*words), cowfs(*words[:at], "--json", *words[at:])
        if not is_clear(plain, code) or not is_clear_json(said, code):
            wrong.append(([word[:60] for word in words], plain, said))
    assert wrong == []
    assert fingerprint(served.path) == before
    assert sorted(os.listdir(places["SOURCE"])) == source


def is_clear(ran: Ran, code: int) -> bool:
    """Nothing printed but one line on standard error, which no terminal can mistake for an order."""
    line = ran.err.removesuffix("\n")
    return (ran.code, ran.out) == (code, "") and line.startswith("cowfs: ") and line.isprintable() and line != ran.err


def is_clear_json(ran: Ran, code: int) -> bool:
    """Nothing printed but the documented object on standard error."""
    error = json.loads(ran.err)["error"]
    shape = set(error) == {"code", "message", "hint"} and bool(error["message"])
    return (ran.code, ran.out, error["code"]) == (code, "", CODES[code]) and shape and ran.err.count("\n") == 1


def test_what_is_right_works_afterwards(cowfs: Cowfs, places: dict[str, str]) -> None:
    cowfs("checkpoint", "ws", "-m", "ü" * 40_000)
    assert cowfs("checkpoint", "ws", "-m", "ü" * 30_000, "--allow-empty").code == 0
    assert cowfs("import", places["SOURCE"], "new").code == 0
    assert cowfs("fork", "ws@good", "n" * 253, "--count", "9").code == 0
    assert cowfs("fsck").out == "clean\n"
