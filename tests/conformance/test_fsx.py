"""A few seconds of random data operations; ``python -m tests.conformance.fsx`` is the long version."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance.fsx import DATA, Diverged, Exerciser, Hand


def test_data_is_as_on_the_native_filesystem(tmp_path: Path) -> None:
    exerciser = Exerciser(tmp_path, 7)
    try:
        exerciser.run(30.0, steps=400)
    except BaseException:
        print("\n".join(exerciser.history))
        raise
    assert set(exerciser.counts) >= {kind for kind, _ in DATA} | {"checkpoint", "restore", "fork", "settle"}


def test_a_wrong_byte_is_told(tmp_path: Path) -> None:
    hand = Hand(tmp_path)
    try:
        hand.do("write", 0, 5000, 0, 1)
        assert hand.do("check") == {"size": 5000, "wrong": ""}
        with (tmp_path / "f").open("r+b") as file:
            file.seek(4321)
            flipped = file.read(1)[0] ^ 1
            file.seek(4321)
            file.write(bytes([flipped]))
        assert hand.do("check")["wrong"] == "byte 4321 of 5000"
        with (tmp_path / "f").open("r+b") as file:
            file.truncate(10)
        assert hand.do("check")["wrong"] == "10 bytes for 5000"
    finally:
        hand.close()


def test_a_process_that_dies_is_told(tmp_path: Path) -> None:
    hand = Hand(tmp_path)
    try:
        with pytest.raises(Diverged, match="died"):
            hand.do("no such step")
    finally:
        hand.close()
