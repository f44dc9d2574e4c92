"""Commands run in this process, with what they print."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from cowfs_cli.main import main
from tests.api.conftest import served
from tests.support.servedstore import ServedStore

__all__ = ["served"]


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


Cowfs = Callable[..., Ran]


@pytest.fixture
def cowfs(served: ServedStore, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Cowfs:
    """``cowfs("list", "--json")`` on the store of ``served``."""
    monkeypatch.setenv("COWFS_STORE", str(served.path))

    def run(*words: str) -> Ran:
        monkeypatch.setattr("sys.argv", ["cowfs", *words])
        capfdbinary.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capfdbinary.readouterr()
        return Ran(int(ended.value.code or 0), printed.out.decode(), printed.err.decode())

    return run
