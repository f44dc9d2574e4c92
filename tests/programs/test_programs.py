"""Programs that people run in sandboxes give the same results in a workspace as on ext4."""

from __future__ import annotations

import ensurepip
import sqlite3
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.programs.conftest import Pair, run
from tests.support.mounting import as_others
from tests.support.treehash import differences, hash_directory

WHEELS = Path(sysconfig.get_config_var("WHEEL_PKG_DIR") or Path(ensurepip.__file__).parent / "_bundled")
STDLIB = Path(sys.modules["os"].__file__ or "").parent

GIT = "git -c user.name=a -c user.email=a@example.org -c init.defaultBranch=main -c gc.auto=0"
DATES = {"GIT_AUTHOR_DATE": "2020-01-01T00:00:00Z", "GIT_COMMITTER_DATE": "2020-01-01T00:00:00Z"}


def assert_same_tree(pair: Pair, path: str) -> None:
    """Both places hold the same tree at ``path``, metadata included."""
    found = differences(hash_directory(pair.mounted / path), hash_directory(pair.native / path))
    assert found == []


@pytest.mark.parametrize("settle", [False, True], ids=["unsettled", "settled"])
def test_git(pair: Pair, need: Callable[..., None], settle: bool) -> None:
    need("git")
    pair.both(
        f"""
        {GIT} init -q origin; cd origin
        for i in $(seq 300); do mkdir -p d$((i % 17)); echo "file $i" > d$((i % 17))/f$i; done
        {GIT} add .; {GIT} commit -qm first
        for i in $(seq 0 7 300); do echo more >> d3/g$i; done
        {GIT} add .; {GIT} commit -qm second; cd ..
        {GIT} clone -q origin clone; cd clone
        echo changed > d1/f1; {GIT} commit -qam third; {GIT} status --short; {GIT} log --format=%H%s
        """,
        **DATES,
    )
    pair.wreck_and_restore(
        f"cd clone; {GIT} rm -rq d2 d3; {GIT} commit -qm wreck; {GIT} gc -q --prune=now; rm -rf .git/refs d5 ../origin",
        settle=settle,
    )
    after = pair.both(
        f"""
        cd clone; {GIT} status --short; {GIT} fsck --full --strict; {GIT} log --format=%H%s
        {GIT} gc -q --prune=now; {GIT} fsck --full; {GIT} checkout -q HEAD~1; {GIT} status --short; ls -R d1
        {GIT} -C ../origin fsck --full
        """,
        **DATES,
    )
    assert "third" in after


def test_pip_and_compileall(pair: Pair) -> None:
    script = f"""
    {sys.executable} -m venv --without-pip env
    {sys.executable} -m pip --disable-pip-version-check install -q --no-index --no-deps --no-compile \
        --target site {WHEELS}/pip-*.whl
    cp -r {STDLIB}/json {STDLIB}/email {STDLIB}/asyncio .
    {sys.executable} -m compileall -q --invalidation-mode unchecked-hash json email asyncio site
    find . -name '*.pyc' | wc -l
    PYTHONPATH=site env/bin/python -m pip --version | cut -d' ' -f1,2
    """
    pair.both(script)
    pair.wreck_and_restore("rm -rf env site; find . -name '*.pyc' -delete; echo broken > json/__init__.py")
    pair.both(
        """
        find . -name '*.pyc' | sort | xargs sha256sum
        PYTHONPATH=site env/bin/python -c 'import pip, sys; print(pip.__version__, sys.prefix == sys.base_prefix)'
        """
    )


def test_a_c_build(pair: Pair, need: Callable[..., None]) -> None:
    need("gcc", "make")
    pair.both(
        r"""
        mkdir src; cd src
        for i in $(seq 12); do printf '#include <stdio.h>\nint part%d(void) { return %d * 7; }\n' $i $i > part$i.c; done
        { for i in $(seq 12); do echo "int part$i(void);"; done; echo '#include <stdio.h>'; echo 'int main(void) {'
          echo 'int sum = 0;'; for i in $(seq 12); do echo "sum += part$i();"; done
          echo 'printf("%d\n", sum); return 0; }'; } > main.c
        printf 'prog: $(patsubst %%.c,%%.o,$(sort $(wildcard *.c)))\n\tgcc -o $@ $^\n%%.o: %%.c\n\tgcc -O1 -c $<\n' \
            > Makefile
        make -s -j2 prog; ./prog
        """
    )
    pair.wreck_and_restore(
        "cd src; rm -f *.o part3.c; echo 'int main(void) { return 1; }' > main.c; make -s prog || true"
    )
    pair.both("cd src; make -s -q prog; ./prog; touch part4.c; make -s -j2 prog; ./prog; sha256sum *.o prog")


def test_sqlite_in_wal_mode(pair: Pair) -> None:
    def fill(place: Path, rows: int) -> None:
        one, two = (sqlite3.connect(place / "data.db", isolation_level=None) for _ in range(2))
        one.execute("pragma journal_mode = wal")
        one.execute("create table if not exists t (id integer primary key, text)")
        for number in range(rows):
            (one if number % 2 else two).execute("insert into t (text) values (?)", (f"row {number}" * 50,))
        one.close()
        two.close()

    def dump(place: Path) -> list[str]:
        connection = sqlite3.connect(place / "data.db")
        assert connection.execute("pragma integrity_check").fetchone() == ("ok",)
        found = list(connection.iterdump())
        connection.close()
        return found

    fill(pair.mounted, 300)
    fill(pair.native, 300)
    held = sqlite3.connect(pair.mounted / "data.db", isolation_level=None)
    held.execute("insert into t (text) values ('only in the log, connection open')")
    pair.live.engine.checkpoint("ws", "connection open", "good")
    held.execute("delete from t")
    held.execute("drop table t")
    held.close()
    pair.live.engine.restore("ws", "@good")
    other = sqlite3.connect(pair.native / "data.db", isolation_level=None)
    other.execute("insert into t (text) values ('only in the log, connection open')")
    other.close()
    assert dump(pair.mounted) == dump(pair.native)
    fill(pair.mounted, 100)
    fill(pair.native, 100)
    assert dump(pair.mounted) == dump(pair.native)


@pytest.fixture
def rich_tree(tmp_path: Path, need: Callable[..., None]) -> Path:
    """A tree with everything that metadata can say."""
    need("setfacl", "setfattr")
    tree = tmp_path / "rich"
    tree.mkdir()
    run(
        """
        mkdir -p a/b/c 'name with spaces' $'new\\nline'
        for i in $(seq 200); do echo "content $i" > a/b/f$i; done
        ln a/b/f1 a/hard1; ln a/b/f1 a/b/c/hard2; ln -s ../f1 a/b/c/soft; ln -s /nowhere dangling
        mkfifo pipe; mknod null c 1 3; mknod loop b 7 0
        truncate -s 10M sparse; printf x | dd of=sparse bs=1 seek=5000000 conv=notrunc status=none
        dd if=/dev/urandom of=big bs=1M count=3 status=none
        setfacl -m u:1234:rwx,g:4321:r a/b/f2; setfacl -d -m u:77:rx a; setfattr -n user.note -v hello a/b/f3
        setfattr -n trusted.secret -v 1 a; chmod 4755 a/b/f4; chmod 2775 a/b; chmod 1777 'name with spaces'
        chown 1000:1001 a/b/f5; chown -h 5:6 dangling
        find . -exec touch -h -d '2003-04-05 06:07:08.123456789' {} +; touch -d '1999-12-31 23:59:59.123456789' a/b/f6
        touch -h -d '2001-02-03' dangling; touch -d '2002-03-04' a/b a .
        """,
        tree,
    )
    return tree


COPIES = {
    "tar": 'X="--xattrs --xattrs-include=* --acls"; set -f; tar $X -C {source} -Scf - . | tar $X -xpf -',
    "rsync": "rsync -aHAX --numeric-ids {source}/ ./",
    "cp": "cp -a --sparse=always {source}/. .",
}


@as_others
@pytest.mark.parametrize("program", COPIES)
def test_copies_of_a_rich_tree(pair: Pair, rich_tree: Path, need: Callable[..., None], program: str) -> None:
    need(program)
    for place in (pair.mounted, pair.native):
        (place / "copy").mkdir()
        run(COPIES[program].format(source=rich_tree), place / "copy")
    assert_same_tree(pair, "copy")
    pair.wreck_and_restore(
        """
        cd copy; chmod -R 700 a; find . -type f | head -50 | xargs -d '\\n' rm -f; rm -rf a/b/c; echo > big
        setfattr -x user.note a/b/f3 || true
        """
    )
    assert_same_tree(pair, "copy")
    pair.both("find copy | sort; find copy -type f | wc -l; du -s --apparent-size copy/big copy/sparse")
    if program != "rsync":
        assert (pair.mounted / "copy/sparse").stat().st_blocks <= 16 * 8
    pair.both("rm -rf copy; ls -A")


def test_rm_rf_of_a_deep_and_wide_tree(pair: Pair) -> None:
    pair.both("for d in $(seq 30); do mkdir -p t/$d/x/y/z; (cd t/$d; touch $(seq 100)); done; find t | wc -l")
    pair.wreck_and_restore("rm -rf t")
    pair.both("find t | sort | sha256sum; rm -rf t; ls -A")
