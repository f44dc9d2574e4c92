"""A few seconds of random data operations; ``python -m tests.conformance.fsx`` is the long version."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.conformance.fsx import DATA, VERBS, Diverged, Exerciser, Hand
from tests.conformance.fsx_worlds import WORLDS


def exercised(directory: Path, seed: int, steps: int, transport: str) -> Counter[str]:
    """What a run that finds nothing has done."""
    exerciser = Exerciser(directory, seed, transport)
    try:
        exerciser.run(120.0, steps)
    except BaseException:
        print("\n".join(exerciser.history))
        raise
    return exerciser.counts


def test_data_is_as_on_the_native_filesystem(tmp_path: Path) -> None:
    done = exercised(tmp_path, 4, 450, "kernel")
    assert set(done) >= {kind for kind, _ in (*DATA, *VERBS)}
    assert done["by reference"] > (done["copy"] + done["copy over"]) // 4


def test_data_is_as_on_the_native_filesystem_through_pyfuse3(tmp_path: Path) -> None:
    pytest.importorskip("pyfuse3", reason="pyfuse3 is not installed")
    done = exercised(tmp_path, 7, 250, "pyfuse3")
    assert set(done) == {kind for kind, _ in (*DATA, *VERBS)} - WORLDS["pyfuse3"].lacks


def test_a_wrong_byte_is_told(tmp_path: Path) -> None:
    hand = Hand(tmp_path)
    try:
        hand.do("write", 0, 0, 5000, 0, 1)
        assert hand.do("check", 0) == {"size": 5000, "wrong": ""}
        with (tmp_path / "f").open("r+b") as file:
            file.seek(4321)
            flipped = file.read(1)[0] ^ 1
            file.seek(4321)
            file.write(bytes([flipped]))
        assert hand.do("check", 0)["wrong"] == "byte 4321 of 5000"
        with (tmp_path / "f").open("r+b") as file:
            file.truncate(10)
        assert hand.do("check", 0)["wrong"] == "10 bytes for 5000"
    finally:
        hand.close()


def test_a_process_that_dies_is_told(tmp_path: Path) -> None:
    hand = Hand(tmp_path)
    try:
        with pytest.raises(Diverged, match="died"):
            hand.do("no such step", 0)
    finally:
        hand.close()
