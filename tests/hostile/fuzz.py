"""Fuzzing the decoders: ``python -m tests.hostile.fuzz RECORDS [SEED]`` prints what was found, and fails if anything.

For every changed record a decoder either gives a value, and then the same bytes come out of the encoder, or raises
its documented error with one line of text. Nothing else may happen.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from random import Random
from typing import NamedTuple

from tests.hostile.decoders import DECODERS, Decoder
from tests.hostile.mutate import mutate, mutate_json

KEPT = 5
"""Findings shown of each decoder."""


class Outcome(NamedTuple):
    """How often each thing happened; ``findings``: what must not, with the bytes that did it."""

    accepted: int
    refused: int
    findings: tuple[str, ...]


def fuzz(name: str, records: int, seed: int = 1) -> Outcome:
    """Give ``records`` changed records to a decoder."""
    decoder = DECODERS[name]
    random = Random(f"{name} {seed}")
    counts: Counter[str] = Counter()
    findings: list[str] = []
    for _ in range(records):
        sample = random.choice(decoder.samples)
        change = mutate_json if decoder.json and random.randrange(4) else mutate
        data = change(random, sample)
        if decoder.seal is not None and random.randrange(4):
            data = decoder.seal(data)
        try:
            counts[_try(decoder, data)] += 1
        except Exception as error:
            if len(findings) < KEPT:
                findings.append(f"{name}: {type(error).__name__}: {error} <- {data.hex()}")
    return Outcome(counts["accepted"], counts["refused"], tuple(findings))


def _try(decoder: Decoder, data: bytes) -> str:
    try:
        value = decoder.decode(data)
    except decoder.errors as error:
        message = getattr(error, "message", "one line")
        if not message or "\n" in message:
            raise AssertionError(f"not one line: {message!r}") from error
        return "refused"
    if decoder.encode is not None and decoder.encode(value) != data:
        raise AssertionError("accepted, but it encodes to other bytes")
    return "accepted"


def main(records: int, seed: int) -> int:
    """Fuzz every decoder with an equal share of ``records``; the exit code."""
    share = -(-records // len(DECODERS))
    found = 0
    for name in DECODERS:
        began = time.perf_counter()
        outcome = fuzz(name, share, seed)
        took = (time.perf_counter() - began) / share * 1e6
        print(f"{name:24} {outcome.refused:8} refused {outcome.accepted:8} accepted {took:6.1f} us each")
        for finding in outcome.findings:
            print("  " + finding[:2000])
        found += len(outcome.findings)
    print(f"{share * len(DECODERS)} records, {found} findings")
    return min(found, 1)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1))
