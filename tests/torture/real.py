"""``python -m tests.torture.real``: programs that people run, while workers and supervisors are killed under them.

Each works in a workspace of its own, again and again until the time is up, and verifies what it did. It must see a
pause, and no error. Prints one JSON object; exit code 1 when a program failed.
"""

from __future__ import annotations

import argparse
import ensurepip
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import threading
from pathlib import Path
from random import Random
from typing import Any

from cowfs.client import connect
from tests.cli.live import Live
from tests.torture.killer import Killer

PATIENCE_SECONDS = 300.0
WHEELS = Path(sysconfig.get_config_var("WHEEL_PKG_DIR") or Path(ensurepip.__file__).parent / "_bundled")

_GIT = """
export HOME=$PWD GIT_CONFIG_NOSYSTEM=1
git() { command git -c user.name=a -c user.email=a@example.org -c init.defaultBranch=main "$@"; }
git init -q repo; cd repo
again() { mkdir -p d$((n % 7)); seq $n > d$((n % 7))/f$n; git add .; git commit -qm "commit $n"; }
verify() { git fsck --full --strict 2>&1; test "$(git log --format=%H | wc -l)" = $n; test -z "$(git status --short)"; }
"""

_PIP = """
cat > check.py <<'END'
import base64, csv, glob, hashlib, sys
checked = 0
for record in glob.glob(sys.argv[1] + "/*.dist-info/RECORD"):
    for path, digest, _ in csv.reader(open(record)):
        if digest and not path.startswith(".."):
            data = open(sys.argv[1] + "/" + path, "rb").read()
            found = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
            assert digest == "sha256=" + found, path
            checked += 1
assert checked > 500, checked
END
again() {
    $PYTHON -m pip --disable-pip-version-check install -q --no-index --no-deps --no-cache-dir \
        --root-user-action ignore --target site$n $WHEELS/*.whl
    $PYTHON check.py site$n
    rm -rf site$((n - 1))
}
verify() { $PYTHON check.py site$n; test "$(ls)" = "$(printf 'check.py\\nsite%d' $n)"; }
"""

_SQLITE = """
cat > work.py <<'END'
import sqlite3, sys
n = int(sys.argv[1])
db = sqlite3.connect("data.db", isolation_level=None)
db.execute("pragma journal_mode=" + ("wal" if n % 2 else "delete"))
db.execute("create table if not exists t (round integer, i integer, body blob)")
for i in range(50):
    db.execute("begin immediate")
    db.execute("insert into t values (?, ?, randomblob(2000))", (n, i))
    db.execute("rollback" if i % 10 == 9 else "commit")
assert db.execute("select count(*) from t").fetchone() == (n * 45,)
assert db.execute("pragma integrity_check").fetchall() == [("ok",)]
END
again() { $PYTHON work.py $n; }
verify() { test "$(ls | grep -c data.db)" -ge 1; }
"""

_COPY = """
again() { rm -f copy; cp $SOURCE copy; cmp $SOURCE copy; }
verify() { cmp $SOURCE copy; }
"""

_BUILD = """
for i in $(seq 24); do
    echo "int f$i(int x) { int s = 0; for (int i = 0; i < x; i++) s += i * $i; return s; }" > f$i.c
done
{ for i in $(seq 24); do echo "int f$i(int);"; done; echo '#include <stdio.h>'; echo 'int main(void) { long s = 0;'
  for i in $(seq 24); do echo "s += f$i(10);"; done; echo 'printf("%ld\\n", s); return 0; }'; } > main.c
printf 'OBJS = $(patsubst %%.c,%%.o,$(wildcard *.c))\\nprogram: $(OBJS)\\n\\tgcc -o $@ $^\\n' > Makefile
printf '%%.o: %%.c\\n\\tgcc -O2 -c -o $@ $<\\n' >> Makefile
again() { rm -f *.o program; make -sj4; test "$(./program)" = 13500; }
verify() { make -s -q program; }
"""

PROGRAMS = {"git": _GIT, "pip": _PIP, "sqlite": _SQLITE, "copy": _COPY, "build": _BUILD}

_LOOP = """
n=0
while [ $n = 0 ] || [ ! -e $STOP ]; do n=$((n + 1)); again; done
verify
echo $n
"""


def run(directory: Path, *, seconds: float, copy_bytes: int, per_second: float, seed: int) -> dict[str, Any]:
    """Let all programs work for so long below ``directory``; ``rounds`` of each, ``kills``, ``errors``."""
    source, stop = directory / "source", directory / "stop"
    with open(source, "wb") as file:
        for _ in range(copy_bytes >> 20):
            file.write(os.urandom(1 << 20))
    live = Live(directory / "store")
    live.cowfs("init")
    live.cowfs("daemon", "start", "--workers", "2")
    client = connect(live.store)
    killer = Killer(live.store, Random(seed), per_second)
    environment = {
        "PATH": os.environ["PATH"], "LC_ALL": "C", "PYTHON": sys.executable, "WHEELS": str(WHEELS),
        "SOURCE": str(source), "STOP": str(stop),
    }  # fmt: skip
    running: dict[str, subprocess.Popen[str]] = {}
    rounds, errors = {}, {}
    try:
        for name, script in PROGRAMS.items():
            words = ["bash", "-euo", "pipefail", "-c", script + _LOOP]
            running[name] = subprocess.Popen(
                words, cwd=client.create(name).path, env=environment, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )  # fmt: skip
        killer.start()
        threading.Event().wait(seconds)
        stop.touch()
        for name, process in running.items():
            out, _ = process.communicate(timeout=PATIENCE_SECONDS)
            if process.returncode:
                errors[name] = f"exit code {process.returncode}: {out[-2000:]}"
            else:
                rounds[name] = int(out.split()[-1])
    finally:
        killer.stop()
        for process in running.values():
            process.kill()
            process.wait()
        live.end()
    if (checked := live.run("fsck")).out.strip() != "clean":
        errors["fsck"] = checked.out + checked.err
    live.end()
    return {"seed": seed, "kills": dict(killer.kills), "rounds": rounds, "errors": errors}


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--copy-mb", type=int, default=1024)
    parser.add_argument("--rate", type=float, default=0.5, help="kills per second")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cowfs-real-") as scratch:
        report = run(
            Path(scratch), seconds=options.seconds, copy_bytes=options.copy_mb << 20, per_second=options.rate,
            seed=options.seed,
        )  # fmt: skip
        if report["errors"]:
            print((Path(scratch) / "store" / "daemon" / "log").read_text()[-10_000:], file=sys.stderr)
    print(json.dumps(report, indent=2))
    return 1 if report["errors"] else 0


if __name__ == "__main__":
    sys.exit(main())
