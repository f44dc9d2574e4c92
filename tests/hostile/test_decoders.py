"""Every decoder against changed records: the documented error or the same bytes back, and nothing else.

This is a sample; ``python -m tests.hostile.fuzz 1000000`` is the whole of it.
"""

import pytest

from tests.hostile.decoders import DECODERS
from tests.hostile.fuzz import fuzz

RECORDS = 20_000


@pytest.mark.parametrize("name", DECODERS)
def test_changed_records_are_refused_or_mean_what_they_say(name: str) -> None:
    outcome = fuzz(name, -(-RECORDS // len(DECODERS)))
    assert outcome.findings == ()
    assert outcome.refused or name == "journal search"


@pytest.mark.parametrize("name", DECODERS)
def test_behind_the_checksums_too(name: str) -> None:
    decoder = DECODERS[name]
    if decoder.seal is not None:
        for sample in decoder.samples[:1]:
            assert decoder.decode(decoder.seal(sample)) is not None
