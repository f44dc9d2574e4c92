"""The numbers of docs/limits.md and the exit codes of docs/cli.md are those of the code."""

import re

from cowfs.blocks.environment import READERS_MAX
from cowfs.blocks.index import MAP_BYTES
from cowfs.blocks.reader import CACHE_BYTES, OPEN_SEGMENTS
from cowfs.catalog.names import NAME_MAX as WORKSPACE_NAME_MAX
from cowfs.errors import Busy, Conflict, Corrupt, CowfsError, Invalid, NoSpace, NotFound
from cowfs.formats.control_fields import TEXT_MAX
from cowfs.formats.inode import NAME_MAX, XATTRS_MAX
from cowfs.geometry import PAGE, Geometry
from cowfs.host import KNOWN_LEAST, KNOWN_TOTAL
from cowfs.pressure import SLOW_FROM, Bounds
from cowfs.remembered import KEY_MAX, RESULT_BYTES_MAX, RESULTS_MAX
from cowfs.tree.names import DISCRIMINATORS
from cowfs.view.sharing import PIECES_MAX
from cowfs.view.state import KNOWN_LIMIT
from cowfs.view.view import FILE_MAX, LINK_MAX, PATH_MAX, XATTR_SIZE_MAX
from cowfs.workspace import LIVE_BYTES_MAX, LIVE_INODES_MAX, LIVE_RECORDS_MAX
from cowfs_daemon import logs
from cowfs_daemon.api.bodies import Checkpoint, Fork
from cowfs_daemon.api.limits import MAX_BODY_BYTES
from cowfs_daemon.api.verbs import MAX_IMPORTS, MAX_THREADS, MAX_UNREAD_EVENTS
from cowfs_daemon.channel import MAX_MESSAGE_BYTES
from cowfs_daemon.fuse.pacing import CACHED_MAX, WAITING_BYTES_MAX, WAITING_MAX
from cowfs_daemon.fuse.written_out import INLINE_MAX, LIMIT_BYTES
from tests.tidy.source import ROOT


def table(document: str, first: str) -> dict[str, list[str]]:
    """First cell -> the others, of the rows of a document's tables whose first cell matches ``first``."""
    rows = re.findall(r"^\| (.+) \|$", (ROOT / "docs" / document).read_text(), re.MULTILINE)
    cells = [[cell.strip() for cell in row.split("|")] for row in rows]
    return {row[0]: row[1:] for row in cells if re.fullmatch(first, row[0])}


def test_the_exit_codes() -> None:
    kinds = (CowfsError, Invalid, NotFound, Conflict, Busy, Corrupt, NoSpace)
    documented = {int(code): cells[0].strip("`") for code, cells in table("cli.md", r"\d+").items()}
    assert {kind.exit_code: kind.code for kind in kinds}.items() <= documented.items()
    assert set(documented) - {kind.exit_code for kind in kinds} == {0, 130}


def test_the_limits() -> None:
    rows = {name: cells[0] for name, cells in table("limits.md", ".+").items()}
    creator, count = Checkpoint.model_json_schema(), Fork.model_json_schema()
    expected = {
        "file name": f"{NAME_MAX} bytes",
        "file": f"{(FILE_MAX + PAGE) >> 40} TiB - {PAGE >> 10} KiB",
        "names of a file (hard links)": f"{LINK_MAX:,}",
        "target of a symbolic link": f"{PATH_MAX - 1:,} bytes",
        "name of an extended attribute": f"{NAME_MAX} bytes",
        "value of an extended attribute": f"{XATTR_SIZE_MAX >> 10} KiB",
        "extended attributes of a file": f"{XATTRS_MAX >> 10} KiB together",
        "workspace name, label": f"{WORKSPACE_NAME_MAX} characters",
        "message of a snapshot": f"{TEXT_MAX:,} bytes",
        "creator of a snapshot": f"{creator['properties']['creator']['maxLength']} characters",
        "idempotency key": f"{KEY_MAX} characters",
        "forks of one command": f"{count['properties']['count']['anyOf'][0]['maximum']:,}",
        "body of an API request": f"{MAX_BODY_BYTES >> 20} MiB",
        "block index": f"{MAP_BYTES >> 30} GiB",
        "readers of the block index": f"{READERS_MAX:,} processes",
        "raw blocks, tree nodes": f"{CACHE_BYTES >> 20} MiB each",
        "open segments": f"{OPEN_SEGMENTS} descriptors",
        "inodes resolved and unchanged": f"{KNOWN_LIMIT:,} of a workspace, {KNOWN_TOTAL:,} of a worker "
        f"(at least {KNOWN_LEAST:,} of each workspace)",
        "requests that wait": f"{WAITING_MAX:,} and {WAITING_BYTES_MAX >> 20} MiB of a mount, {CACHED_MAX} of them",
        "files written out for read-only mounts": f"{LIMIT_BYTES >> 30} GiB of the store's disk, "
        f"each at most {INLINE_MAX >> 20} MiB",
        "results kept for idempotency keys": f"{RESULTS_MAX:,} and {RESULT_BYTES_MAX >> 20} MiB",
        "events that a listener has not read": f"{MAX_UNREAD_EVENTS:,}",
        "verbs under way": f"{MAX_THREADS}, and {MAX_IMPORTS} imports",
        "a message between processes": f"{MAX_MESSAGE_BYTES >> 20} MiB",
        "the log": f"{logs.LIMIT_BYTES * (logs.KEPT + 1) >> 20} MiB",
    }
    assert {name: rows.get(name) for name, text in expected.items() if text not in rows.get(name, "")} == {}
    text = " ".join((ROOT / "docs" / "limits.md").read_text().split())
    assert f"{Geometry().key_bits} bits of BLAKE3" in text
    assert f"Up to {DISCRIMINATORS} names may share" in text
    assert f"one call makes at most {PIECES_MAX:,}" in text


def test_the_bounds_of_what_is_not_settled() -> None:
    """When the live layer is frozen, from when on writers are slowed down, when they are all but stopped."""
    bounds = Bounds()

    def counts(bound: int) -> list[str]:
        return [f"{bound * SLOW_FROM:,.0f}", f"{bound:,}"]

    expected = {
        "journal records": [f"{LIVE_RECORDS_MAX:,} (or {LIVE_INODES_MAX:,} inodes)", *counts(bounds.records)],
        "journal bytes": [
            f"{LIVE_BYTES_MAX >> 20} MiB",
            *(f"{int(size) >> 30} GiB" for size in (bounds.size_bytes * SLOW_FROM, bounds.size_bytes)),
        ],
        "unsettled layers": ["", *counts(bounds.layers)],
        "records in one worker": ["", *counts(bounds.records * bounds.process)],
    }
    rows = table("limits.md", ".+")
    assert {name: rows[name] for name in expected} == expected
