"""What `make wheel` needs of the source, so that a change that breaks it is told before anybody compiles."""

import ast
from pathlib import Path

from tests.tidy.source import ROOT, below, tree, where

C_WORDS = {"__asm", "__const", "__inline", "__restrict", "__signed", "__thread", "__typeof", "__volatile"}
"""What GCC keeps for itself of the names that begin as mypyc's of attributes do."""


def compiled() -> list[Path]:
    """The modules that `.ci/compile.py` names."""
    for node in tree(ROOT / ".ci" / "compile.py").body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "COMPILED":
            folders: dict[str, str] = ast.literal_eval(node.value)
            break
    inside = {"cowfs_daemon": ROOT / "daemon"}
    return [
        inside.get(folder.split("/")[0], ROOT) / folder / f"{name}.py"
        for folder, names in folders.items()
        for name in names.split()
    ]


def test_they_exist() -> None:
    found = compiled()
    assert len(found) > 30
    assert [path for path in found if not path.is_file()] == []


def test_no_class_of_python_inherits_from_a_compiled_one() -> None:
    """Making an instance would be a TypeError in the wheel alone."""
    known = compiled()
    classes = {node.name for path in known for node in ast.walk(tree(path)) if isinstance(node, ast.ClassDef)}
    others = [path for folder in ("cowfs", "daemon", "cli") for path in below(folder, ".py") if path not in known]
    assert [
        f"{where(path, node.lineno)} {node.name}({ast.unparse(base)})"
        for path in others
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ClassDef)
        for base in node.bases
        if ast.unparse(base).split(".")[-1] in classes
    ] == []


def test_no_attribute_is_a_word_of_c() -> None:
    """An attribute ``x`` is ``_x`` in C."""
    assert [
        f"{where(path, node.lineno)} {node.attr}"
        for path in compiled()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute) and f"_{node.attr}" in C_WORDS
    ] == []
