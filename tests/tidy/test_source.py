"""Habits of the source that a reader relies on, each one a test over every file."""

import ast
import re

import pytest

from tests.tidy.source import ROOT, below, engine, imports, modules, texts, tree, where

MAX_LINES = 500

MACHINE_PATHS = re.compile(r"(?<![\w.])/(?:work|home|root|Users)/\w|/tmp/\w+/\w")
UNFINISHED = re.compile(r"\b(?:" + "|".join(("TO" + "DO", "FIX" + "ME", "X" * 3, "HA" + "CK")) + r")\b")


def test_no_module_is_too_long() -> None:
    long = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in modules()}
    assert {name: lines for name, lines in long.items() if lines > MAX_LINES} == {}


@pytest.mark.parametrize("pattern", [UNFINISHED, MACHINE_PATHS], ids=["unfinished", "machine-paths"])
def test_no_text_holds(pattern: re.Pattern[str]) -> None:
    found = [
        f"{where(path, number)}: {line.strip()}"
        for path in texts()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if pattern.search(line)
    ]
    assert found == []


def test_tests_never_sleep() -> None:
    found = [
        where(path, node.lineno)
        for path in below("tests", ".py")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "sleep"
    ]
    assert found == []


def test_no_star_imports() -> None:
    assert [where(path, line) for path in modules() for name, line in imports(path) if name.endswith(".*")] == []


def test_every_module_says_what_it_is() -> None:
    silent = [path for path in modules() if path.read_text().strip() and not ast.get_docstring(tree(path))]
    assert [str(path.relative_to(ROOT)) for path in silent] == []


def test_every_public_function_and_class_of_the_packages_says_what_it_does() -> None:
    public = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    silent = [
        f"{where(path, node.lineno)} {node.name}"
        for folder in ("cowfs", "daemon", "cli", "guest")
        for path in below(folder, ".py")
        for node in tree(path).body
        if isinstance(node, public) and not node.name.startswith("_") and not ast.get_docstring(node)
    ]
    assert silent == []


def test_the_engine_prints_nothing() -> None:
    found = [
        where(path, node.lineno)
        for path in engine()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"print", "input"}
    ]
    assert found == []
