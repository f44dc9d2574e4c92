"""A supervisor with an engine in memory, served on a real socket by a thread of this process."""

import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import trio
from cowfs_daemon.ports import Parts
from cowfs_daemon.start import listen, unlisten
from cowfs_daemon.supervisor import supervise

from cowfs.client.store import Store, connect
from cowfs.errors import NotFound
from tests.support.fakeengine import FakeEngine, FakeMounts


class Served:
    """A served store: ``engine`` and ``mounts`` are the real objects behind it."""

    def __init__(self, store: Path) -> None:
        self.path = store
        self.engine = FakeEngine()
        self.mounts = FakeMounts()
        self.thread = threading.Thread(target=self._run)
        self._ready = threading.Event()

    def _run(self) -> None:
        parts = Parts(
            self.engine,
            self.mounts,
            lambda: {"keeper": None, "workers": [], "settlers": [], "queues": {}},
            self.mounts.detach_all,
            lambda: unlisten(str(self.path)),
            lambda: None,
        )
        with listen(str(self.path)) as sock:
            trio.run(supervise, sock, parts, self._ready.set, False)

    def start(self) -> None:
        self.thread.start()
        assert self._ready.wait(20)

    def connect(self) -> Store:
        return connect(self.path, start=False)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    served = Served(tmp_path)
    served.start()
    yield served
    if served.thread.is_alive():
        with suppress(NotFound), served.connect() as client:  # a test may have stopped it itself
            client.stop_daemon(force=True)
        served.thread.join(20)
    assert not served.thread.is_alive()


@pytest.fixture
def client(served: Served) -> Iterator[Store]:
    with served.connect() as client:
        yield client
