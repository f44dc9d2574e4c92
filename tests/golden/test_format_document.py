"""docs/format.md is exact: its byte tables have no gaps, and add up to the sizes that the encoders have."""

import re
from pathlib import Path

import pytest

from cowfs.formats import segment, superblock
from tests.golden.test_blocks import HERE, sample

LINES = (Path(__file__).parents[2] / "docs" / "format.md").read_text().splitlines()
WIDTHS = {"u8": 1, "u16": 2, "u32": 4, "u64": 8, "i64": 8}


def tables() -> dict[str, list[tuple[int, int, str]]]:
    """Heading, or the nearest line above that gives a size in bytes -> (offset, size, type) of the fixed fields."""
    found: dict[str, list[tuple[int, int, str]]] = {}
    heading = ""
    for line in LINES:
        if re.search(r"^#|\(\d+ bytes\)", line):
            heading = line
        row = re.match(r"\| (\d+) \| (\d+) \| (\w+) \|", line)
        if row:
            found.setdefault(heading, []).append((int(row[1]), int(row[2]), row[3]))
    return found


@pytest.mark.parametrize("heading", tables())
def test_fields_follow_each_other(heading: str) -> None:
    rows = tables()[heading]
    at = 0
    for offset, size, kind in rows:
        assert offset == at, f"{heading}: a gap before {offset}"
        assert WIDTHS.get(kind, size) == size
        at = offset + size
    said = re.search(r"\((\d+) bytes\)", heading)
    if said:
        assert at == int(said[1])


def sized(word: str) -> int:
    """The size that the document gives to what is called ``word``."""
    (found,) = {
        int(m[1] or m[2])
        for line in LINES
        for m in re.finditer(rf"(?:{word} \((\d+) bytes\))|(?:{word}[^()]*\((\d+) bytes\))", line)
    }
    return found


def test_sizes_are_those_of_the_code() -> None:
    assert sized("Superblock") == superblock.SUPERBLOCK_BYTES == len(sample(HERE / "superblock.hex"))
    assert sized("Header") == segment.HEADER_BYTES
    assert sized("A header") == segment.RECORD_BYTES
    assert sized("Entry") == segment.ENTRY_BYTES
    assert sized("Trailer") == segment.TRAILER_BYTES
    assert sized("reference") == len(sample(HERE / "pointer_leaf.hex"))
    assert 12 + 3 * sized("Child") == len(sample(HERE / "branch.hex"))


@pytest.mark.parametrize("magic", [b"cowfsupr", b"cowfsseg", b"cwR0", b"cwF0", b"cowfsend", b"cowfsrt0"])
def test_every_magic_is_named_and_used(magic: bytes) -> None:
    assert any(f"`{magic.decode()}`" in line for line in LINES)
    assert any(magic in sample(path) for path in HERE.glob("*.hex"))
