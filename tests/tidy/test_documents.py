"""Documents are tested: the commands, files and links that they name exist."""

import importlib
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tidy.source import ROOT, below

DOCUMENTS = [*sorted(ROOT.glob("*.md")), *below("docs", ".md"), *below("tests", ".md"), *below("bench", ".md")]
QUOTED = re.compile(r"`([^`\n]+)`|^(?: {4,}|\$ )(.+)$", re.MULTILINE)


def quoted(document: Path) -> list[str]:
    """What a document sets as code: backticked words and indented lines."""
    return [a or b for a, b in QUOTED.findall(document.read_text())]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_make_targets_exist(document: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {m for code in quoted(document) for m in re.findall(r"\bmake ([a-z][\w-]*)", code)}
    assert named <= targets


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_exist(document: Path) -> None:
    named = {m for code in quoted(document) for m in re.findall(r"(?:^|[;(&|]\s*)cowfs ([a-z][\w-]*)", code)}
    assert named <= commands()


def commands() -> set[str]:
    """The subcommands of the command line; none before there is one."""
    if importlib.util.find_spec("cowfs_cli.main") is None:
        return set()
    import click

    main = importlib.import_module("cowfs_cli.main").main
    return set(main.list_commands(click.Context(main)))


def test_every_command_is_explained() -> None:
    import click

    def leaves(group: click.Group, name: str) -> Iterator[str]:
        context = click.Context(group)
        for word in group.list_commands(context):
            found = group.get_command(context, word)
            if isinstance(found, click.Group):
                yield from leaves(found, f"{name} {word}")
            else:
                yield f"{name} {word}"

    main = importlib.import_module("cowfs_cli.main").main
    codes = quoted(ROOT / "docs" / "cli.md")  # the verbs of `guest` are in one line
    explained = " ".join(codes).replace("guest SOCKET", "guest") + "".join(f" cowfs guest {code}" for code in codes)
    names = list(leaves(main, "cowfs"))
    assert "cowfs daemon start" in names
    assert [name for name in names if not re.search(rf"{name}\b", explained)] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", document.read_text())
    assert [link for link in links if not (document.parent / link).exists()] == []


def test_every_event_is_listed() -> None:
    calls = re.compile(r"\bemit[(,] ?\"(\w+)\"")
    emitted = {m for path in below("daemon", ".py") for m in calls.findall(path.read_text())}
    section = (ROOT / "docs" / "api.md").read_text().split("\n## Events\n")[1].split("\n## ")[0]
    assert emitted | {"listening"} == set(re.findall(r"`(\w+)`", section))


def test_every_make_target_is_explained() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony = set(re.search(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)[1].split())  # type: ignore[index]
    explained = set(re.findall(r"@echo 'make (\w+)", makefile))
    assert phony - explained <= {"help", "lint", "clean"}
    assert explained <= phony
