"""What a format version froze stays: samples byte for byte, and the layout of every kind of record.

A test that fails here means that stores which exist would be read wrongly. Give what is to change a new kind number,
raise the version (docs/format.md, "Versions and upgrades"), and list it with ``python -m tests.golden.freeze``.
"""

from __future__ import annotations

import dataclasses

import pytest

from cowfs.errors import Corrupt
from cowfs.formats import control_file, journal, superblock
from cowfs.formats.checksum import xxh3
from tests.golden import freeze
from tests.golden.test_blocks import SUPER

VERSIONS = range(1, freeze.VERSION + 1)


def test_the_versions_go_together() -> None:
    assert superblock.FORMAT_VERSION == journal.VERSION == control_file.VERSION


@pytest.mark.parametrize("version", VERSIONS)
def test_what_a_version_froze_is_unchanged(version: int) -> None:
    present = {*freeze.stored(), *freeze.layouts()}
    changed = [line for line in freeze.frozen(version) if line not in present]
    assert not changed, f"frozen by version {version}"


def test_everything_is_listed() -> None:
    listed = [line for version in VERSIONS for line in freeze.frozen(version)]
    assert sorted(listed) == sorted({*freeze.stored(), *freeze.layouts()})


def test_samples_are_what_is_written_today() -> None:
    written = {f"{name}": data.hex() for name, data in freeze.encoded()}
    assert written == {name: "".join((freeze.HERE / name).read_text().split()) for name in written}


def with_version(version: int, reader_version: int, appended: bytes = b"") -> bytes:
    """A superblock of another version, with fields that this one does not know."""
    block = dataclasses.replace(SUPER, version=version, reader_version=reader_version)
    data = superblock.encode_superblock(block)[:-8] + appended
    return data + xxh3(data).to_bytes(8, "little")


def test_a_newer_store_that_may_be_read_is_read() -> None:
    newer = freeze.VERSION + 1
    for appended in (b"", b"a field of tomorrow"):
        read = superblock.decode_superblock(with_version(newer, freeze.VERSION, appended))
        assert (read.version, read.geometry, read.store_id) == (newer, SUPER.geometry, SUPER.store_id)
    with pytest.raises(Corrupt, match="wrong length"):
        superblock.decode_superblock(with_version(freeze.VERSION, freeze.VERSION, b"a field that cannot be"))


def test_other_versions_are_refused() -> None:
    newer = freeze.VERSION + 1
    with pytest.raises(Corrupt, match=f"needs format version {newer}") as caught:
        superblock.decode_superblock(with_version(newer, newer))
    assert "upgrade" in caught.value.hint
    with pytest.raises(Corrupt, match="before the formats were frozen"):
        superblock.decode_superblock(with_version(0, 0))
    with pytest.raises(Corrupt, match="impossible version"):
        superblock.decode_superblock(with_version(freeze.VERSION, 0))
