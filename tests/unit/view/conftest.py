"""A workspace whose set-up lies in the live layer, in a frozen one, or at rest; checked by replay and settling."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.single import Single

PLACES = ("live", "frozen", "settled")


class Bench(Single):
    """``put`` moves what was done so far to where this run of the test wants it."""

    place = "live"

    def put(self) -> None:
        """The set-up is done."""
        if self.place != "live":
            self.checkpoint()
        if self.place == "settled":
            self.settle()


@pytest.fixture(params=PLACES)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    """Live, replayed and settled, the state at the end must be the same."""
    made = Bench(tmp_path / "journals")
    made.place = request.param
    yield made
    made.check()
