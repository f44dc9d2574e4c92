"""``python -m tests.property.campaign SECONDS [SEED]``: the state machine of the engine for long, with many more diffs.

The same seed looks at the same examples. A failure is shown as it was found, not made smaller, and ends the campaign
with exit code 1. Prints one JSON object.
"""

from __future__ import annotations

import json
import sys
import time

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test

from tests.property.operations import ranks
from tests.property.test_machine import EngineMachine

EXAMPLES = 60
SETTINGS = settings(
    max_examples=EXAMPLES, stateful_step_count=60, deadline=None, database=None, phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)  # fmt: skip


class DiffingMachine(EngineMachine):
    """Asks for what differs after a third of the steps."""

    @rule(w=ranks, a=ranks, b=ranks, live=st.booleans())
    def diff_again(self, w: int, a: int, b: int, live: bool) -> None:
        self.diff(w=w, a=a, b=b, live=live)

    @rule(w=ranks, a=ranks, b=ranks)
    def checkpoint_and_diff(self, w: int, a: int, b: int) -> None:
        self.checkpoint(w=w, allow_empty=False)
        self.diff(w=w, a=a, b=b, live=False)


def main() -> int:
    """See the module."""
    seconds, first = float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1
    until, rounds = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        run_state_machine_as_test(seed(first + rounds)(DiffingMachine), settings=SETTINGS)  # type: ignore[no-untyped-call]
        rounds += 1
    print(json.dumps({"seed": first, "rounds": rounds, "examples": rounds * EXAMPLES}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
