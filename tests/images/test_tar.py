"""Tar archives both ways: as GNU tar makes and unpacks them, and as cowfs does."""

from __future__ import annotations

import gzip
import io
import os
import random
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.cli.live import Live
from tests.images.conftest import run
from tests.support.lab import Lab
from tests.support.treehash import hash_directory

LIMIT = 1 << 40
TAR = ("tar", "--numeric-owner", "--xattrs", "--xattrs-include=*", "--acls")


def take(store: Lab, archive: Path) -> bytes:
    """The root of an archive; nothing is left out."""
    made = store.engine.settler.import_tar(os.fsencode(archive), LIMIT)
    assert (made.skipped, made.changed) == ((), ())
    return made.root


def unpacked(store: Lab, archive: Path, to: Path) -> bytes:
    """The root of what GNU tar unpacks."""
    to.mkdir()
    run(*TAR, "-xpf", archive, "-C", to)
    return store.engine.settler.import_directory(to).root


@pytest.mark.parametrize(
    "options",
    [("--format=pax", "--sparse"), ("--format=pax",), ("--format=pax", "--sparse", "--sparse-version=0.1"),
     ("--format=pax", "--sparse", "--sparse-version=0.0")],
)  # fmt: skip
def test_an_archive_gives_the_root_of_what_tar_unpacks(
    store: Lab, tree: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    archive = tmp_path / "a.tar"
    run(*TAR, *options, "-cf", archive, "-C", tree, ".")
    assert take(store, archive) == unpacked(store, archive, tmp_path / "out")


@pytest.mark.parametrize("options", [("--format=gnu", "--sparse"), ("--format=gnu",)])
def test_gnu_archives(store: Lab, tree: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    """They keep whole seconds, and no extended attributes."""
    archive = tmp_path / "a.tar"
    run("tar", "--numeric-owner", *options, "-cf", archive, "-C", tree, ".")
    out = tmp_path / "out"
    out.mkdir()
    run("tar", "--numeric-owner", "-xpf", archive, "-C", out)
    assert take(store, archive) == store.engine.settler.import_directory(out).root


@pytest.mark.parametrize("options", [("--format=ustar",), ("--format=v7",)])
def test_old_archives(store: Lab, tmp_path: Path, options: tuple[str, ...]) -> None:
    top = tmp_path / "simple"
    (top / "d" / ("x" * 60)).mkdir(parents=True)
    (top / "d" / ("x" * 60) / "f").write_bytes(b"content" * 1000)
    os.link(top / "d" / ("x" * 60) / "f", top / "hard")
    os.symlink("hard", top / "soft")
    for each in (top, top / "d", top / "d" / ("x" * 60), top / "hard", top / "soft"):
        os.utime(each, ns=(1, 5_000_000_000), follow_symlinks=False)
    archive = tmp_path / "a.tar"
    run("tar", "--numeric-owner", *options, "-cf", archive, "-C", top, ".")
    assert take(store, archive) == store.engine.settler.import_directory(top).root


def test_export_and_import_give_the_same_root(store: Lab, tree: Path, tmp_path: Path) -> None:
    root = store.engine.settler.import_directory(tree).root
    first, second = tmp_path / "1.tar", tmp_path / "2.tar"
    for target in (first, second):
        assert store.engine.jobs.exporter.export(root, os.fsencode(target)) == []
    assert first.read_bytes() == second.read_bytes()
    assert take(store, first) == root
    assert unpacked(store, first, tmp_path / "out") == root, "as GNU tar reads it"


@pytest.mark.parametrize("seed", range(6))
def test_random_sparse_files(store: Lab, tmp_path: Path, seed: int) -> None:
    r = random.Random(seed)
    top = tmp_path / "top"
    top.mkdir()
    for number in range(12):
        with (top / f"f{number}").open("wb") as file:
            size = r.choice([0, 1, 511, 512, 4096, 100_000, 131_072, 131_073, 3_000_000])
            file.truncate(size)
            for _ in range(r.randrange(6)):
                if size:
                    file.seek(r.randrange(size))
                    file.write(r.randbytes(min(r.choice([1, 100, 5000, 200_000]), size - file.tell())))
    root = store.engine.settler.import_directory(top).root
    archive, ours = tmp_path / "gnu.tar", tmp_path / "ours.tar"
    run(*TAR, "--format=pax", "--sparse", "-cf", archive, "-C", top, ".")
    store.engine.jobs.exporter.export(root, os.fsencode(ours))
    assert take(store, ours) == root
    assert take(store, archive) == unpacked(store, archive, tmp_path / "out"), "tar takes very small holes for data"


@pytest.mark.parametrize("program", ["gzip", "bzip2", "xz", "zstd"])
def test_compressed_archives(store: Lab, tree: Path, tmp_path: Path, program: str) -> None:
    archive = tmp_path / "a.tar"
    run(*TAR, "--format=pax", "-cf", archive, "-C", tree, ".")
    packed = tmp_path / "packed"
    with packed.open("wb") as out:
        subprocess.run([program, "-c", str(archive)], stdout=out, check=True)
    assert take(store, packed) == take(store, archive)


def test_what_comes_twice_and_what_nothing_describes(store: Lab, tmp_path: Path) -> None:
    """The last one wins; directories that have no entry of their own are plain ones."""
    parts = [tmp_path / "a", tmp_path / "b"]
    for number, part in enumerate(parts):
        (part / "d/e").mkdir(parents=True)
        (part / "d/e/f").write_bytes(b"%d" % number)
        os.utime(part / "d/e/f", ns=(1, number))
    archive = tmp_path / "a.tar"
    run("tar", "--format=pax", "-cf", archive, "-C", parts[0], "d/e/f")
    run("tar", "--format=pax", "-rf", archive, "-C", parts[1], "d/e/f")
    for each in ("d/e", "d", "."):
        os.chown(parts[1] / each, 0, 0)
        os.chmod(parts[1] / each, 0o755)
        os.utime(parts[1] / each, ns=(1, 0))
    os.chown(parts[1] / "d/e/f", *os.stat(parts[0] / "d/e/f")[4:6])
    assert take(store, archive) == store.engine.settler.import_directory(parts[1]).root


@pytest.fixture
def live(tmp_path: Path) -> Live:
    made = Live(tmp_path / "s")
    made.cowfs("init")
    return made


def test_through_the_commands(live: Live, tree: Path, tmp_path: Path) -> None:
    archive, out = tmp_path / "a.tar.gz", tmp_path / "out.tar"
    run(*TAR, "--format=pax", "--sparse", "-czf", archive, "-C", tree, ".")
    try:
        assert live.json("import", f"tar:{archive}", "ws")["problems"] == []
        assert live.json("import", f"dir:{tree}", "plain")["problems"] == []
        assert hash_directory(live.cowfs("path", "ws")) == hash_directory(tree)
        assert live.json("diff", "ws", "plain") == []
        live.cowfs("checkpoint", "ws", "-m", "one", "--label", "one")
        (Path(live.cowfs("path", "ws")) / "later").touch()
        assert live.json("export", "ws@one", f"tar:{out}") == {"ref": "ws@one", "target": f"tar:{out}", "problems": []}
        live.cowfs("import", f"tar:{out}", "back")
        assert hash_directory(live.cowfs("path", "back")) == hash_directory(tree)
        again = live.run("export", "ws", f"tar:{out}")
        assert (again.code, again.err.count("\n")) == (4, 1), again
        live.cowfs("export", "ws", f"tar:{tmp_path / 'live.tar'}")
        assert "./later" not in subprocess.run(["tar", "tf", out], capture_output=True, text=True).stdout.split()
        assert "later" in subprocess.run(["tar", "tf", tmp_path / "live.tar"], capture_output=True, text=True).stdout
        assert live.cowfs("fsck", "--deep") == "clean"
    finally:
        live.end()


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("import", "tar:{tmp}/none.tar", "ws"), 3, "No such file"),
        (("import", "tar:{tmp}", "ws"), 2, "Is a directory"),
        (("import", "tar:/dev/zero", "ws"), 2, "not a regular file"),
        (("import", "tar:{tmp}/text", "ws"), 2, "tar archive"),
        (("import", "tar:{tmp}/cut.gz", "ws"), 2, "cannot be unpacked"),
        (("import", "tar:{tmp}/bomb.gz", "ws", "--limit", "1M"), 2, "more than 1048576 bytes"),
        (("import", "tar:{tmp}/text", "ws", "--exclude", "x"), 2, "for directories only"),
        (("export", "nobody", "tar:{tmp}/x.tar"), 3, "nobody"),
        (("export", "ws0", "{tmp}/x.tar"), 2, "tar:FILE"),
        (("export", "ws0", "tar:{tmp}/nowhere/x.tar"), 3, "no such directory"),
    ],
)
def test_wrong_uses(live: Live, tmp_path: Path, words: tuple[str, ...], code: int, text: str) -> None:
    (tmp_path / "text").write_bytes(b"this is no archive" * 100)
    (tmp_path / "cut.gz").write_bytes(gzip.compress(bytes(100_000))[:60])
    with tarfile.open(tmp_path / "bomb.gz", "w:gz") as bomb:
        entry = tarfile.TarInfo("zeros")
        entry.size = 8 << 20
        bomb.addfile(entry, io.BytesIO(bytes(8 << 20)))
    try:
        live.cowfs("create", "ws0")
        before = sorted(os.listdir(tmp_path))
        ended = live.run(*(word.format(tmp=tmp_path) for word in words))
        assert (ended.code, ended.err.count("\n"), text in ended.err) == (code, 1, True), ended
        assert [each["name"] for each in live.json("list")] == ["ws0"]
        assert sorted(os.listdir(tmp_path)) == before
    finally:
        live.end()
