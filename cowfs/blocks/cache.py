"""A least-recently-used cache bounded in bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Generic, TypeVar

V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class CacheStatistics:
    """``size_bytes`` is the sum of the costs of what is cached, ``limit_bytes`` its bound."""

    entries: int
    size_bytes: int
    limit_bytes: int
    hits: int
    misses: int


class LruCache(Generic[V]):
    """Block id -> value. Thread-safe.

    Reads take no lock: each dictionary operation is atomic, and a key that another thread evicts
    between the two steps of a read has been read already. Inserting holds ``_lock``. The hit
    counters may lose a count under contention.
    """

    __slots__ = ("_hits", "_items", "_limit", "_lock", "_misses", "_size")

    def __init__(self, limit_bytes: int) -> None:
        self._items: OrderedDict[bytes, tuple[V, int]] = OrderedDict()
        self._limit = limit_bytes
        self._lock = threading.Lock()
        self._size = 0
        self._hits = 0
        self._misses = 0

    def get(self, key: bytes) -> V | None:
        """The cached value, or None."""
        items = self._items
        try:
            value = items[key][0]
        except KeyError:
            self._misses += 1
            return None
        self._hits += 1
        try:
            items.move_to_end(key)
        except KeyError:
            return value  # evicted by another thread meanwhile
        return value

    def put(self, key: bytes, value: V, cost_bytes: int) -> None:
        """Cache a value; the least recently used ones go until all fit. One above the limit is not kept."""
        if cost_bytes > self._limit:
            return
        with self._lock:
            old = self._items.pop(key, None)
            if old is not None:
                self._size -= old[1]
            self._items[key] = (value, cost_bytes)
            self._size += cost_bytes
            self._fit()

    def grow(self, key: bytes, value: V, more_bytes: int) -> None:
        """``value``, if it still is what is cached under ``key``, costs more from now on, and has been used. It goes if
        that is above the limit."""
        with self._lock:
            item = self._items.get(key)
            if item is None or item[0] is not value:
                return
            self._items[key] = (value, item[1] + more_bytes)
            self._items.move_to_end(key, last=item[1] + more_bytes <= self._limit)
            self._size += more_bytes
            self._fit()

    def _fit(self) -> None:
        while self._size > self._limit:
            self._size -= self._items.popitem(last=False)[1][1]

    def discard(self, key: bytes) -> None:
        """Forget one key."""
        with self._lock:
            old = self._items.pop(key, None)
            if old is not None:
                self._size -= old[1]

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._items.clear()
            self._size = 0

    def statistics(self) -> CacheStatistics:
        """Figures of now."""
        return CacheStatistics(len(self._items), self._size, self._limit, self._hits, self._misses)
