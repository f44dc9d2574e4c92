"""Scrubbing: every record of every segment is read and hashed again, slowly, while everything goes on.

The position and the last full pass are kept in ``STORE/scrub``, one JSON object (docs/format.md); losing it costs a
pass. Segments are scrubbed in the order of their ids; one that is collected meanwhile is passed over, one that is being
written to is scrubbed as far as it was when its turn came.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cowfs.blocks.segments import read_segment, segment_ids, segment_path
from cowfs.errors import Busy, Corrupt
from cowfs.results import Scrubbed

STATE_FILE = "scrub"
RATE_BYTES = 50 * 1024 * 1024
"""Bytes read in a second, by default."""

_DAMAGE_MAX = 1000  # lines remembered

Progress = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class ScrubState:
    """``segment``: scrubbed up to and including it in the pass under way, 0 between passes. Times in ns, 0: never.

    ``damage``: what the pass under way, or else the last one, has found.
    """

    segment: int = 0
    began_at: int = 0
    passed_at: int = 0
    blocks: int = 0
    bytes: int = 0
    damage: tuple[str, ...] = ()


class Scrubber:
    """One store's. ``clock`` in ns; ``pause(seconds)`` waits, and is false when the scrub is to end."""

    def __init__(self, store: Path, segments: Path, clock: Callable[[], int]) -> None:
        self._file = store / STATE_FILE
        self._segments = segments
        self._clock = clock
        self._one = threading.Lock()

    def state(self) -> ScrubState:
        """What is remembered; nothing when the file is lost or makes no sense."""
        try:
            fields = json.loads(self._file.read_bytes())
            numbers = {name: int(fields[name]) for name in ("segment", "began_at", "passed_at", "blocks", "bytes")}
            return ScrubState(**numbers, damage=tuple(str(each) for each in fields["damage"][:_DAMAGE_MAX]))
        except (OSError, ValueError, TypeError, KeyError):
            return ScrubState()

    def scrub(self, rate: int, pause: Callable[[float], bool], progress: Progress) -> Scrubbed:
        """Go on with a pass, or begin one, at ``rate`` bytes a second; ends with it, or when ``pause`` says so.

        Raises Busy when another one is under way, OSError when the state cannot be kept.
        """
        if not self._one.acquire(blocking=False):
            raise Busy("the store is being scrubbed already", hint="Wait for that to end.")
        try:
            state = self.state()
            if not state.segment:
                state = ScrubState(began_at=self._clock(), passed_at=state.passed_at)
            for segment in [each for each in segment_ids(self._segments) if each > state.segment]:
                if not pause(0):
                    return self._result(state, complete=False)
                size, found = self._segment(segment)
                damage = (*state.damage, *found[1])[:_DAMAGE_MAX]
                state = replace(
                    state, segment=segment, blocks=state.blocks + found[0], bytes=state.bytes + size, damage=damage
                )
                self._keep(state)
                progress({"segment": segment, "blocks": state.blocks, "bytes": state.bytes, "damage": len(damage)})
                if not pause(size / rate):
                    return self._result(state, complete=False)
            state = replace(state, segment=0, passed_at=self._clock())
            self._keep(state)
            return self._result(state, complete=True)
        finally:
            self._one.release()

    def _segment(self, segment: int) -> tuple[int, tuple[int, list[str]]]:
        path = segment_path(self._segments, segment)
        try:
            size = path.stat().st_size
            found = read_segment(path, deep=True, salvage=True)
        except FileNotFoundError:
            return 0, (0, [])
        except (OSError, Corrupt) as error:
            return 0, (0, [f"segment {segment:016x}: {error}"])
        return size, (len(found.records), [f"segment {segment:016x}: byte {at}: {what}" for at, what in found.damage])

    def _result(self, state: ScrubState, *, complete: bool) -> Scrubbed:
        return Scrubbed(state.blocks, state.bytes, state.damage, complete, state.began_at, state.passed_at)

    def _keep(self, state: ScrubState) -> None:
        scratch = self._file.with_name(STATE_FILE + ".new")
        scratch.write_text(json.dumps(asdict(state)), "ascii")
        os.rename(scratch, self._file)
