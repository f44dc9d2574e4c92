"""Blocks that a job has handed in and no published root refers to yet: garbage collection leaves them alone."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager

from cowfs.blocks.api import Location

Commit = Callable[[Sequence[tuple[bytes, Location]], Sequence[bytes]], list[bytes]]
Marked = list[tuple[bytes, Location]]
Act = Callable[[list[bytes]], Marked]


class Leases:
    """``commit`` is ``BlockIndex.commit``. Thread-safe: what is committed is leased in the same step."""

    def __init__(self, commit: Commit) -> None:
        self._commit = commit
        self._lock = threading.Lock()
        self._tickets = itertools.count()
        self._jobs: set[int] = set()
        self._leased: dict[int, Collection[bytes]] = {}

    @contextmanager
    def publishing(self) -> Iterator[None]:
        """Around a job that hands blocks in, until a root that refers to them is published."""
        with self._lock:
            ticket = next(self._tickets)
            self._jobs.add(ticket)
        try:
            yield
        finally:
            with self._lock:
                self._jobs.discard(ticket)
                oldest = min(self._jobs, default=None)
                # What was handed in before every running job began is published, or never will be.
                self._leased = {at: ids for at, ids in self._leased.items() if oldest is not None and at > oldest}

    def commit(self, records: Sequence[tuple[bytes, Location]], relied_on: Sequence[bytes]) -> list[bytes]:
        """See ``BlockIndex.commit``."""
        with self._lock:
            if self._jobs:
                self._leased[next(self._tickets)] = frozenset((*(id_ for id_, _ in records), *relied_on))
            return self._commit(records, relied_on)

    def free(self, ids: Iterable[bytes], act: Act) -> Marked:
        """``act`` on those of ``ids`` that are not leased, while nothing can be handed in."""
        with self._lock:
            leased = list(self._leased.values())
            return act([id_ for id_ in ids if not any(id_ in each for each in leased)])
