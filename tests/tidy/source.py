"""What the tidy tests look at: the repository's own text files and the syntax trees of its modules."""

import ast
import functools
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CODE = ("cowfs", "daemon", "cli", "guest", "tests", "bench")
_SKIPPED = {".git", ".venv", "__pycache__", ".hypothesis", "dist", "build"}


def below(folder: str, suffix: str) -> list[Path]:
    """Files with ``suffix`` under ``ROOT/folder``, sorted, as absolute paths."""
    return sorted(p for p in (ROOT / folder).rglob(f"*{suffix}") if not _SKIPPED & set(p.relative_to(ROOT).parts))


def modules() -> list[Path]:
    """Every Python module of the repository."""
    return [path for folder in CODE for path in below(folder, ".py")]


def engine() -> list[Path]:
    """The modules of the engine: ``cowfs/`` without the client."""
    return [path for path in below("cowfs", ".py") if "client" not in path.relative_to(ROOT).parts]


def texts() -> list[Path]:
    """Everything that is written for people or run: modules, documents and configuration."""
    documents = [p for p in ROOT.iterdir() if p.is_file() and (p.suffix in {".md", ".toml"} or p.name == "Makefile")]
    rest = [p for folder in (*CODE, "docs") for p in below(folder, ".md")]
    return [*modules(), *documents, *rest, *(ROOT / ".ci").iterdir()]


@functools.cache
def tree(path: Path) -> ast.Module:
    """The syntax tree of one module, parsed once."""
    return ast.parse(path.read_bytes(), filename=str(path))


def imports(path: Path) -> list[tuple[str, int]]:
    """Absolute dotted names that a module imports, with line numbers; ``from a import b`` gives ``a.b``."""
    found: list[tuple[str, int]] = []
    package = path.relative_to(ROOT).parts
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join((*package[: -node.level], *([base] if base else [])))
            found += [(f"{base}.{alias.name}", node.lineno) for alias in node.names]
    return found


def where(path: Path, line: int) -> str:
    """``path:line`` relative to the repository, for messages."""
    return f"{path.relative_to(ROOT)}:{line}"
