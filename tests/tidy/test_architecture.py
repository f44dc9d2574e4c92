"""Import rules that import-linter cannot say: who may import what, counted from an allowed list."""

import ast
import sys
from pathlib import Path

import pytest

from tests.tidy.source import below, engine, imports, tree, where

STANDARD = frozenset(sys.stdlib_module_names)
ENGINE_EXTERNALS = frozenset({"blake3", "lmdb", "xxhash", "zstandard"})
ENGINE_REFUSED = frozenset({"http", "urllib", "asyncio", "random", "secrets", "time", "uuid"})
"""Standard modules that would bring a protocol, a clock or chance into the engine."""

SHARED = ("cowfs.errors", "cowfs.results", "cowfs.__version__", "cowfs.CowfsError")
"""What the client's side may take from cowfs."""

CLOCKS_AND_CHANCE = (
    "datetime.datetime.now",
    "datetime.datetime.utcnow",
    "datetime.date.today",
    "os.environ",
    "os.urandom",
)


def starts(name: str, prefixes: tuple[str, ...]) -> bool:
    """Whether a dotted name is one of the prefixes or lies below one."""
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


def foreign(paths: list[Path], allowed: tuple[str, ...]) -> list[str]:
    """Imports that are neither of the standard library nor allowed."""
    return [
        f"{where(path, line)} imports {name}"
        for path in paths
        for name, line in imports(path)
        if name.split(".")[0] not in STANDARD and not starts(name, allowed)
    ]


@pytest.mark.parametrize(
    ("folder", "allowed"),
    [
        ("guest", ("cowfs_guest",)),
        ("cowfs/client", ("cowfs.client", *SHARED)),
        ("cli", ("cowfs_cli", "click", "cowfs.client", "cowfs.connect", "google.protobuf", "grpc", *SHARED)),
        ("cowfs/formats", ("cowfs.formats", "cowfs.errors", "cowfs.geometry", "blake3", "xxhash")),
    ],
)
def test_imports_only_what_is_allowed(folder: str, allowed: tuple[str, ...]) -> None:
    assert foreign(below(folder, ".py"), allowed) == []


def test_engine_imports_only_itself_and_its_four_packages() -> None:
    found = foreign(engine(), ("cowfs", *ENGINE_EXTERNALS))
    found += [
        f"{where(path, line)} imports {name}"
        for path in engine()
        for name, line in imports(path)
        if name.split(".")[0] in ENGINE_REFUSED or starts(name, ("cowfs.client", "cowfs.connect"))
    ]
    assert found == []


def test_engine_reads_no_clock_environment_or_chance() -> None:
    found = []
    for path in engine():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Attribute):
                text = ast.unparse(node)
                if text in {"os.environ", "os.environb", "os.getenv", "os.urandom", "os.getrandom"} or text.endswith(
                    (".now", ".utcnow", ".today")
                ):
                    found.append(f"{where(path, node.lineno)} uses {text}")
        found += [
            f"{where(path, line)} imports {name}"
            for path in engine()
            for name, line in imports(path)
            if name in CLOCKS_AND_CHANCE or name == "os.getenv"
        ]
    assert found == []
