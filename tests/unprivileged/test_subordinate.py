"""Subordinate ids: what root of a user namespace gives to others, and how its calls compare with ext4."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cowfs_daemon.fuse import fusermount
from cowfs_daemon.identity import owners
from tests.cli.live import Live, living
from tests.support.mounting import needs_mounts
from tests.support.subordinate import obstacle, run_inside

pytestmark = [*needs_mounts, pytest.mark.skipif(bool(obstacle()), reason=obstacle())]

ONE_IN = 40
PLAY_SECONDS = 240
PLAY = """
import json, sys
from pathlib import Path
from tests.conformance.suite import native_directory, play

mounted, place = map(Path, sys.argv[1:3])
with native_directory(place / "native") as native:
    report = play(native, mounted, int(sys.argv[3]), place)
print(json.dumps([report.cases, report.checks, report.unknown]))
"""


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with living(tmp_path_factory.mktemp("subordinate") / "store") as made:
        made.cowfs("create", "ws")
        yield made


def inside(*words: str | Path) -> str:
    """What a command prints that succeeds as root of a user namespace."""
    done = run_inside([str(word) for word in words], PLAY_SECONDS)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_file_given_to_another_is_shown_as_a_granted_id_and_exported_as_stored(live: Live, tmp_path: Path) -> None:
    mine = owners()
    assert mine is not None
    (_, (first_user, _)), (_, (first_group, _)) = mine.users.ranges, mine.groups.ranges
    path = Path(live.cowfs("path", "ws")) / "f"
    assert inside("sh", "-ec", 'touch "$0"; chown 5:5 "$0"; stat -c %u:%g "$0"', path) == "5:5"
    assert (path.stat().st_uid, path.stat().st_gid) == (first_user + 4, first_group + 4)
    assert (path.parent.stat().st_uid, path.parent.stat().st_gid) == (os.geteuid(), os.getegid())

    snapshot = live.cowfs("checkpoint", "ws")
    live.cowfs("export", snapshot, f"tar:{tmp_path}/out.tar")
    listed = subprocess.run(
        ["tar", "--numeric-owner", "-tvf", tmp_path / "out.tar"], capture_output=True, text=True, check=True
    ).stdout
    assert [line.split()[1] for line in listed.splitlines()] == ["0/0", "5/5"]

    live.cowfs("import", f"tar:{tmp_path}/out.tar", "again")
    again = Path(live.cowfs("path", "again")) / "f"
    assert (again.stat().st_uid, again.stat().st_gid) == (first_user + 4, first_group + 4)
    assert inside("stat", "-c", "%u:%g", again) == "5:5"


def test_a_directory_of_granted_ids_is_imported_as_stored(live: Live, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    inside("sh", "-ec", 'touch "$0/f"; chown 5:5 "$0/f"', source)
    live.cowfs("import", str(source), "copy")
    assert inside("stat", "-c", "%u:%g", Path(live.cowfs("path", "copy")) / "f") == "5:5"
    inside("rm", source / "f")  # nobody else may


def test_an_id_beyond_the_range_is_refused_by_the_kernel(live: Live) -> None:
    mine = owners()
    assert mine is not None
    beyond = sum(count for _, count in mine.users.ranges)
    path = Path(live.cowfs("path", "ws")) / "beyond"
    path.touch()
    assert "Invalid argument" in run_inside(["chown", str(beyond), str(path)], 60).stderr
    inside("chown", str(beyond - 1), path)


def test_doctor_says_what_is_granted(live: Live) -> None:
    mine = owners()
    assert mine is not None
    (found,) = (each for each in json.loads(live.run("doctor", "--json").out) if each["check"] == "subordinate ids")
    users, groups = (sum(count for _, count in ids.ranges[1:]) for ids in mine)
    assert found["detail"] == f"{users} users and {groups} groups are granted"


@pytest.mark.skipif(not fusermount.others_allowed(), reason="needs user_allow_other in /etc/fuse.conf")
def test_calls_of_every_user_are_as_on_ext4(live: Live, tmp_path: Path) -> None:
    """A slice of the suite of conformance, played by root of the namespace and by those whom it becomes."""
    if not os.statvfs(tmp_path).f_flag & os.ST_NOATIME:
        pytest.skip("needs a temporary directory that is mounted as workspaces are: noatime, nosuid, nodev")
    said = inside(sys.executable, "-c", PLAY, live.cowfs("path", "ws"), tmp_path, str(ONE_IN))
    cases, checks, unknown = json.loads(said)
    assert unknown == []
    assert cases > 300
    assert checks > 10_000
