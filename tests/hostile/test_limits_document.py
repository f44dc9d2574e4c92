"""The numbers of docs/limits.md and the exit codes of docs/cli.md are those of the code."""

import re

from cowfs.blocks.index import MAP_BYTES
from cowfs.catalog.names import NAME_MAX as WORKSPACE_NAME_MAX
from cowfs.errors import Busy, Conflict, Corrupt, CowfsError, Invalid, NoSpace, NotFound
from cowfs.formats.control_fields import TEXT_MAX
from cowfs.formats.inode import NAME_MAX, XATTRS_MAX
from cowfs.geometry import Geometry
from cowfs_daemon.api.bodies import Checkpoint, Fork
from cowfs_daemon.api.limits import MAX_BODY_BYTES
from tests.tidy.source import ROOT


def table(document: str, first: str) -> dict[str, list[str]]:
    """First cell -> the others, of the rows of a document's tables whose first cell matches ``first``."""
    rows = re.findall(r"^\| (.+) \|$", (ROOT / "docs" / document).read_text(), re.MULTILINE)
    cells = [row.split(" | ") for row in rows]
    return {row[0]: row[1:] for row in cells if re.fullmatch(first, row[0])}


def test_the_exit_codes() -> None:
    kinds = (CowfsError, Invalid, NotFound, Conflict, Busy, Corrupt, NoSpace)
    documented = {int(code): cells[0].strip("`") for code, cells in table("cli.md", r"\d+").items()}
    assert {kind.exit_code: kind.code for kind in kinds}.items() <= documented.items()
    assert set(documented) - {kind.exit_code for kind in kinds} == {0, 130}


def test_the_limits() -> None:
    rows = {name: cells[0] for name, cells in table("limits.md", ".+").items()}

    def says(row: str, number: int, unit: str) -> bool:
        return f"{number:,} {unit}" in rows[row]

    assert says("file name", NAME_MAX, "bytes")
    assert says("extended attributes of a file", XATTRS_MAX >> 10, "KiB")
    assert says("workspace name, label", WORKSPACE_NAME_MAX, "characters")
    assert says("message of a snapshot", TEXT_MAX, "bytes")
    assert says("body of an API request", MAX_BODY_BYTES >> 20, "MiB")
    assert says("block index", MAP_BYTES >> 30, "GiB")
    creator, count = Checkpoint.model_json_schema(), Fork.model_json_schema()
    assert says("creator of a snapshot", creator["properties"]["creator"]["maxLength"], "characters")
    assert f"{count['properties']['count']['anyOf'][0]['maximum']:,}" == rows["forks of one command"]
    assert f"{Geometry().key_bits} bits of BLAKE3" in (ROOT / "docs" / "limits.md").read_text()
