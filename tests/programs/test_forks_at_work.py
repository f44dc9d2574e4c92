"""Eight forks of one snapshot work at the same time, each checkpointed after every step, one restored in the middle."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cowfs.client import Store, WorkspaceHandle, connect
from tests.cli.live import Live
from tests.programs.conftest import run

FORKS, RESTORED = 8, 3
GIT = "git -c user.name=a -c user.email=a@b -c gc.auto=0"
START = f"""
mkdir project; cd project; {GIT} init -q .
printf '#include <stdio.h>\\nint value(void);\\nint main(void) {{ printf("%%d\\\\n", value()); return 0; }}\\n' > main.c
printf 'int value(void) {{ return 0; }}\\n' > value.c
printf 'prog: main.o value.o\\n\\tgcc -o $@ $^\\n%%.o: %%.c\\n\\tgcc -c $<\\n' > Makefile
printf '*.o\\nprog\\n__pycache__\\n' > .gitignore
for i in $(seq 40); do printf "def f(x):\\n    return x + $i\\n" > mod$i.py; done
make -s prog; {GIT} add .; {GIT} commit -qm start
"""
STEPS = (
    "echo 'int value(void) {{ return {number} * 10 + 1; }}' > value.c; make -s prog; " + GIT + " commit -qam one",
    "for i in $(seq {number} 3 40); do echo 'y = {number}' >> mod$i.py; done; python3 -m compileall -q .; "
    + GIT
    + " commit -qam two",
    "echo 'int value(void) {{ return {number} * 10 + 3; }}' > value.c; make -s prog; "
    + GIT
    + " commit -qam three; "
    + GIT
    + " gc -q --prune=now",
)
RESULT = f"""
./prog; {GIT} status --short; {GIT} log --format=%s; {GIT} fsck --full --strict; make -s -q prog
python3 -c 'import mod{{number}}; print(mod{{number}}.f(1), mod{{number}}.y)'
"""


def step(place: Path, number: int, script: str) -> str:
    """Run a step in a fork's project."""
    return run("cd project\n" + script.format(number=number), place)


def work(fork: WorkspaceHandle, number: int) -> str:
    """All steps in one fork, a checkpoint after each; what is there in the end."""
    place = Path(fork.path)
    for turn, script in enumerate(STEPS):
        step(place, number, script)
        fork.checkpoint(f"step {turn}", label=f"step-{turn}")
        if number == RESTORED and turn == 1:
            step(place, number, "rm -rf .git mod* main.c; echo broken > Makefile")
            fork.restore("@step-0")
            assert step(place, number, "./prog; git log --format=%s") == f"{number}1\none\nstart\n"
            step(place, number, script)
    return step(place, number, RESULT)


def examine(client: Store) -> None:
    """Do all of it, and look at what each fork has come to, and at what they have come from."""
    origin = client.create("origin")
    run(START, Path(origin.path))
    snapshot = origin.checkpoint("start").snapshot.id
    forks = client.fork(snapshot, "fork", count=FORKS)
    with ThreadPoolExecutor(FORKS) as pool:
        results = list(pool.map(work, forks, range(1, FORKS + 1)))
    for number, result in enumerate(results, 1):
        assert result == f"{number}3\nthree\ntwo\none\nstart\n{1 + number} {number}\n"
    for number, fork in enumerate(forks, 1):
        after = Path(client.fork(f"{fork.name}@step-0", f"again-{number}")[0].path)
        assert step(after, number, "make -s -q prog; ./prog; git status --short; git fsck --full") == f"{number}1\n"
    assert client.diff(snapshot, "origin") == []
    assert step(Path(origin.path), 0, "./prog; git status --short; git log --format=%s") == "0\nstart\n"


def test_eight_forks_build_and_commit_in_parallel(tmp_path: Path, need: Callable[..., None]) -> None:
    need("git", "gcc", "make")
    live = Live(tmp_path / "store")
    live.cowfs("init")
    live.cowfs("daemon", "start", "--workers", "2")
    with connect(live.store) as client:
        try:
            examine(client)
        finally:
            live.end()
    assert live.cowfs("fsck") == "clean"
