"""Import of trees that change, vanish or may not be read meanwhile: what can be had, and a word about the rest."""

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.live import Ended, Live
from tests.support.mounting import needs_mounts
from tests.support.treehash import hash_directory

pytestmark = needs_mounts


class LiveWithoutOverride(Live):
    """Commands and daemon as a user who is bound by file modes, as all but root are."""

    def words(self, *words: str) -> list[str]:
        """The command line without the capabilities that override them."""
        drop = "-dac_override,-dac_read_search"
        return ["setpriv", f"--bounding-set={drop}", f"--inh-caps={drop}", *super().words(*words)]


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    live = Live(tmp_path / "store")
    live.cowfs("init")
    yield live
    assert "Traceback" not in live.log(), live.log()
    live.end()


def test_what_cannot_be_read(tmp_path: Path) -> None:
    if shutil.which("setpriv") is None:
        pytest.skip("no setpriv on this machine")
    source = tmp_path / "source"
    (source / "closed").mkdir(parents=True)
    (source / "closed" / "inside").write_text("unseen")
    (source / "open").write_text("seen")
    (source / "secret").write_text("unseen")
    (source / b"secret\xff\n".decode("utf-8", "surrogateescape")).write_text("unseen")
    for path in source.iterdir():
        path.chmod(0o644 if path.name == "open" else 0)
    live = LiveWithoutOverride(tmp_path / "store")
    try:
        live.cowfs("init")
        ended = live.run("import", str(source), "ws")
        assert ended.code == 0, ended
        lines = ended.err.splitlines()
        assert len(lines) == 3, ended
        assert all(line.startswith("cowfs: ") and line.isprintable() and "ermission denied" in line for line in lines)
        problems = live.json("import", str(source), "same")["problems"]
        assert sorted(each.partition(":")[0] for each in problems) == ["closed", "secret", "secret\udcff\n"]
        top = Path(live.cowfs("path", "ws"))
        assert sorted(os.listdir(top)) == ["closed", "open"]
        assert (top / "open").read_text() == "seen"
        forbidden = tmp_path / "forbidden"
        forbidden.mkdir(mode=0)
        refused = live.run("import", str(forbidden), "no")
        assert (refused.code, refused.err.count("\n")) == (2, 1), refused
        assert "not readable" in refused.err
        assert live.cowfs("fsck") == "clean"
    finally:
        live.end()
        for path in (source, tmp_path / "forbidden"):
            subprocess.run(["chmod", "-R", "u+rwX", str(path)], check=False, stderr=subprocess.DEVNULL)


class Meddler:
    """Removes, replaces, truncates and renames files of a directory until it is told to stop."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.rounds = 0

    def __enter__(self) -> "Meddler":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stop.is_set():
            for number in range(0, 400, 7):
                path = self._directory / f"file{number}"
                path.unlink(missing_ok=True)
                path.write_bytes(b"z" * number * 50)
                os.truncate(path, number)
                path.rename(self._directory / f"renamed{number}")
                path.mkdir()
                path.rmdir()
                path.symlink_to("elsewhere")
                path.unlink()
            moved = self._directory / "deep"
            moved.rename(self._directory / "moved")
            (self._directory / "moved").rename(moved)
            self.rounds += 1


def test_a_tree_that_changes_all_the_time(live: Live, tmp_path: Path) -> None:
    source = tmp_path / "source"
    for folder in ("restless/deep/er", "still"):
        (source / folder).mkdir(parents=True)
    for number in range(400):
        for folder in ("restless", "restless/deep", "still"):
            (source / folder / f"file{number}").write_bytes(b"%d" % number * 500)
    still = hash_directory(source / "still")
    with Meddler(source / "restless") as meddler:
        imports: list[Ended] = [live.run("import", str(source), f"ws-{number}") for number in range(3)]
    assert meddler.rounds
    assert [each.code for each in imports] == [0, 0, 0], imports
    assert all(line.startswith("cowfs: ") for each in imports for line in each.err.splitlines())
    for number in range(3):
        top = Path(live.cowfs("path", f"ws-{number}"))
        assert hash_directory(top / "still").digests == still.digests
        hash_directory(top)
    shutil.rmtree(source / "restless")
    assert live.run("import", str(source / "restless"), "gone").code == 3
    assert live.cowfs("fsck", "--deep") == "clean"
