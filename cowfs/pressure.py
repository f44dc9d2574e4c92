"""Back-pressure: what writers of a workspace have to wait for, when settling falls behind them.

A frozen layer keeps its changes in memory until it is settled, and a successor has to replay it. So the backlog of a
workspace (its live layer and the unsettled ones below, those it shares with relatives included) is bounded: from half
a bound on its changes are spaced out, at first by microseconds, by a thousand times as much at the bound. The pause
doubles with every twentieth of the bound, so that the rate of writing meets that of settling somewhere in between,
however fast either is; nothing has to be measured. The process as a whole has a bound too; there, those that hold at
least half of an even share are slowed down.

Where settling does not go on at all (a damaged layer below, a full disk, no layer settled for minutes), waiting would
not help: writers go on at full speed up to twice the bound, then what makes a store grow is refused with ENOSPC.
Memory stays bounded, nobody hangs, and reading, removing and fsync go on.

Thread-safe: figures are read without a lock, and may be those of a moment ago; ``_lock`` guards the table.
"""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

from cowfs.layers.journal import Journal
from cowfs.layers.layer import Layer
from cowfs.view.state import State

SLOW_FROM = 0.5
"""Share of a bound from which on writers are slowed down."""

REFUSE_FROM = 2.0
"""Share of a bound from which on nothing is added any more."""

PAUSE_FIRST_S, PAUSE_MAX_S, DOUBLINGS = 50e-6, 1.0, 10
"""Seconds between two changes at SLOW_FROM, and at most; how often that doubles from there to the bound."""

PIECE_BYTES = 128 * 1024
"""Bytes that cost one pause where bytes are what is too many."""

STALLED_NS = 120 * 10**9
"""Settling counts as standing still when no layer was settled for so long, while some wait."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The backlog of one workspace at which writing all but stops; ``process``: so many times that for a process."""

    records: int = 600_000
    size_bytes: int = 2 << 30
    layers: int = 500
    process: int = 3


class Backlog(NamedTuple):
    """What waits: unsettled layers, their journal records (and extents that clones made) and bytes, the live layer's
    included."""

    layers: int
    records: int
    size_bytes: int
    stalled: bool


class Pressed(NamedTuple):
    """What a change costs: seconds each, and seconds a byte. ``refuse``: nothing may be added."""

    request_s: float
    byte_s: float
    refuse: bool


class Lag:
    """The unsettled layers that a process holds, and what that asks of writers."""

    def __init__(self, bounds: Bounds | None = None) -> None:
        self.bounds = bounds or Bounds()
        self._lock = threading.Lock()
        self._waiting: dict[str, Layer] = {}
        self._holders: Counter[str] = Counter()
        self._stalled: frozenset[str] = frozenset()
        self._progress_ns = 0
        self.records = 0
        """Of all layers that wait."""

    def froze(self, layer: Layer, now_ns: int) -> None:
        """A layer waits to be settled."""
        with self._lock:
            if layer.id in self._waiting or layer.delta is None:
                return
            if not self._waiting:
                self._progress_ns = now_ns
            self._waiting[layer.id] = layer
            self._holders[layer.workspace] += 1
            self.records += layer.records

    def progressed(self, now_ns: int) -> None:
        """Some layer of the store was settled, here or elsewhere."""
        self._progress_ns = now_ns

    def gone(self, layer_id: str) -> None:
        """A layer waits no more: it has a root, or nothing needs it."""
        with self._lock:
            layer = self._waiting.pop(layer_id, None)
            if layer is not None:
                self.records -= layer.records
                self._holders[layer.workspace] -= 1
                if not self._holders[layer.workspace]:
                    del self._holders[layer.workspace]

    def stall(self, layer_ids: frozenset[str]) -> None:
        """These layers cannot be settled; any other can."""
        self._stalled = layer_ids

    def waiting(self) -> int:
        """How many layers wait."""
        return len(self._waiting)

    def pressed(self, state: State, journal: Journal, now_ns: int) -> Pressed | None:
        """What a change costs in the workspace of ``state`` and ``journal``; None: nothing."""
        mine, bounds = backlog(state, journal, self._stalled), self.bounds
        share = max(mine.records / bounds.records, mine.layers / bounds.layers)
        if mine.records * 2 * len(self._holders) >= self.records:
            share = max(share, self.records / (bounds.records * bounds.process))
        share_bytes = mine.size_bytes / bounds.size_bytes
        most = max(share, share_bytes)
        if most < SLOW_FROM:
            return None
        refuse = most >= REFUSE_FROM
        if mine.stalled or (self._waiting and now_ns - self._progress_ns > STALLED_NS):
            return Pressed(0.0, 0.0, True) if refuse else None
        return Pressed(_pause_s(share), _pause_s(share_bytes) / PIECE_BYTES, refuse)


def backlog(state: State, journal: Journal, stalled: frozenset[str] = frozenset()) -> Backlog:
    """What waits of one workspace; ``stalled``: layers that cannot be settled."""
    layers, records, size, stuck = 0, journal.layer_records() + state.cloned, journal.layer_bytes(), False
    layer: Layer | None = state.parent
    while layer is not None:
        below, delta = layer.below
        if delta is None:
            break
        layers += 1
        records += layer.records
        size += layer.size_bytes
        stuck = stuck or layer.id in stalled
        layer = below
    return Backlog(layers, records, size, stuck)


def _pause_s(share: float) -> float:
    if share < SLOW_FROM:
        return 0.0
    doublings = min((share - SLOW_FROM) / (1 - SLOW_FROM) * DOUBLINGS, 2 * DOUBLINGS)
    return float(min(PAUSE_FIRST_S * 2**doublings, PAUSE_MAX_S))
