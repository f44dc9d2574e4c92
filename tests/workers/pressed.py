"""A worker whose writers have to wait early: ``python -m tests.workers.pressed`` is the real one with a small bound."""

from __future__ import annotations

import functools
import sys

from cowfs import pressure
from cowfs_daemon import worker

RECORDS = 600

if __name__ == "__main__":
    pressure.Bounds = functools.partial(pressure.Bounds, records=RECORDS)  # type: ignore[misc, assignment]
    sys.exit(worker.main())
