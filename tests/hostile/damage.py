"""Damaging one file of a store, or forging a record of a journal, and judging what an engine makes of it.

``python -m tests.hostile.damage ROUNDS DIRECTORY`` does so many rounds of each kind, and fails if anything is found.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import xxhash

from cowfs.formats import journal as j
from tests.hostile.mutate import mutate
from tests.hostile.store import Sample, Seen, examine, fingerprint, glance, make_sample

KINDS = ("superblock", "control", "journals", "segments", "index")
PAGE = 4096
ALIVE_SECONDS = 60


class Round:
    """A copy of the sample, to be damaged with ``random``."""

    def __init__(self, sample: Sample, scratch: Path, seed: str) -> None:
        self.sample = sample
        self.path = scratch / "store"
        self.random = Random(seed)
        shutil.rmtree(self.path, ignore_errors=True)
        shutil.copytree(sample.path, self.path)

    def file(self, kind: str) -> Path:
        """One of the files of a kind."""
        names = sorted(name for name in fingerprint(self.path) if name.startswith(kind))
        return self.path / self.random.choice(names)

    def judge(self, seen: Seen, before: dict[str, str], acceptable: dict[str, list[str]]) -> list[str]:
        """What is wrong with how the damage was taken."""
        wrong = list(seen.defects)
        if seen.refused is not None:
            if fingerprint(self.path) != before:
                wrong.append(f"refused with {seen.refused}, but files changed")
            if "\n" in seen.refused[1]:
                wrong.append(f"not one line: {seen.refused[1]!r}")
        for name, tree in seen.trees.items():
            if ":" not in tree and tree not in acceptable[name]:
                wrong.append(f"{name} has a content that it never had")
        return wrong


def damage(sample: Sample, scratch: Path, kind: str, seed: str) -> list[str]:
    """Change, cut or remove a file of a kind. Content is right, or an error, or for a journal an earlier state."""
    one = Round(sample, scratch, seed)
    file = one.file(kind)
    if one.random.randrange(12):
        change = _pages if kind == "index" and one.random.randrange(2) else mutate
        file.write_bytes(change(one.random, file.read_bytes()))
    else:
        file.unlink()
    before = fingerprint(one.path)
    seen = _examine_apart(one.path) if kind == "index" else examine(one.path)
    return [f"{kind} {seed}: {each}" for each in one.judge(seen, before, sample.trees)]


def _pages(random: Random, data: bytes) -> bytes:
    """Whole pages lost, cut off or overwritten."""
    changed = bytearray(data)
    at = random.randrange(len(data) // PAGE) * PAGE
    match random.randrange(4):
        case 0:
            changed[at : at + PAGE] = bytes(PAGE)
        case 1:
            changed[at : at + PAGE] = random.randbytes(PAGE)
        case 2:
            other = random.randrange(len(data) // PAGE) * PAGE
            changed[at : at + PAGE] = data[other : other + PAGE]
        case _:
            del changed[at:]
    return bytes(changed)


def _examine_apart(path: Path) -> Seen:
    """In a process of its own; its death is a defect."""
    words = [sys.executable, "-m", "tests.hostile.store", str(path)]
    done = subprocess.run(words, capture_output=True, timeout=ALIVE_SECONDS, env={"PYTHONPATH": ":".join(sys.path)})
    if done.returncode:
        return Seen(None, {}, -1, [f"the process ended with {done.returncode}: {done.stderr[-300:]!r}"])
    fields = json.loads(done.stdout)
    refused = fields["refused"]
    return Seen(
        None if refused is None else (refused[0], refused[1]), fields["trees"], fields["problems"], fields["defects"]
    )


# ---- forging records: every checksum is right --------------------------------------------------------------------


def forge(sample: Sample, scratch: Path, seed: str) -> list[str]:
    """Put a forged record in a journal: that workspace may be anything, the others are what they were."""
    one = Round(sample, scratch, seed)
    file = one.file("journals")
    data = file.read_bytes()
    records = split(data)
    at = len(records) - 1 - one.random.randrange(min(len(records), 25))
    records[at] = one.random.choice(FORGERIES)(one.random, records, at)
    file.write_bytes(data[: j.HEADER_BYTES] + b"".join(records))
    before = fingerprint(one.path)
    seen = examine(one.path, glance)
    forged = file.parent.name
    others = {name: tree for name, tree in seen.trees.items() if owner(sample, name) != forged}
    good = {name: [tree] for name, tree in sample.glances.items()}
    return [f"forged {seed}: {each}" for each in one.judge(seen._replace(trees=others), before, good)]


def owner(sample: Sample, name: str) -> str:
    """The journal directory of a workspace: ids count in the order of creation."""
    made = sorted(path.name for path in (sample.path / "journals").iterdir())
    order = [each for each in sample.trees if each != "fork"]
    return made[order.index(name)] if name in order else ""


def split(data: bytes) -> list[bytes]:
    """The records of a journal file."""
    records, at = [], j.HEADER_BYTES
    while at < len(data):
        length = j.record_length(data[at : at + j.HEAD_BYTES])
        records.append(data[at : at + length])
        at += length
    return records


def seal(record: bytes, file_no: int = 16) -> bytes:
    """A record with its length and checksum made right."""
    rest = len(record).to_bytes(4, "little") + record[12:]
    return xxhash.xxh3_64_intdigest(rest, file_no).to_bytes(8, "little") + rest


NUMBERS = (0, 1, 2, 3, 5, 7, 17, 20, 33, 1 << 31, (1 << 32) - 1, (1 << 63) - 1)
STRINGS = (
    b"", b".", b"..", b"a/b", b"x\0", b"y" * 300, b"\xff\xfe", b"files", b"laters", b"snap-000001", b"lay-000002",
    b"lay-000020",
)  # fmt: skip


def _bytes(random: Random, records: list[bytes], at: int) -> bytes:
    head = records[at][: j.HEAD_BYTES]
    return seal(head + mutate(random, records[at][j.HEAD_BYTES :]))


def _field(random: Random, records: list[bytes], at: int) -> bytes:
    envelope = j.decode(records[at], 16)
    values: list[int | bytes] = list(envelope.record)
    cls: Callable[..., j.Record] = type(envelope.record)
    which = random.randrange(len(values))
    if isinstance(values[which], int):
        ints = next(codes for kind, codes, _ in j.KINDS.values() if kind is cls)
        values[which] = random.choice(NUMBERS) % (1 << {"B": 8, "I": 32, "Q": 64, "q": 63}[ints[which]])
    else:
        values[which] = random.choice(STRINGS)
    return j.encode(16, *envelope[:5], cls(*values))


def _other(random: Random, records: list[bytes], at: int) -> bytes:
    envelope = j.decode(records[at], 16)
    return j.encode(16, *envelope[:5], j.decode(random.choice(records), 16).record)


def _new(random: Random, records: list[bytes], at: int) -> bytes:
    envelope = j.decode(records[at], 16)
    kind, ints, tails = random.choice(list(j.KINDS.values()))
    cls: Callable[..., j.Record] = kind
    numbers = [random.choice(NUMBERS) % (1 << {"B": 8, "I": 32, "Q": 64, "q": 63}[code]) for code in ints]
    return j.encode(16, *envelope[:5], cls(*numbers, *[random.choice(STRINGS) for _ in range(tails)]))


FORGERIES: tuple[Callable[[Random, list[bytes], int], bytes], ...] = (_bytes, _field, _other, _new)


def main(rounds: int, directory: Path) -> int:
    """So many rounds of each kind; the exit code."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    sample = make_sample(directory / "sample")
    found: list[str] = []
    for number in range(rounds):
        for kind in KINDS:
            found += damage(sample, directory, kind, f"{number}")
        found += forge(sample, directory, f"{number}")
    print("\n".join(found))
    print(f"{rounds * (len(KINDS) + 1)} rounds, {len(found)} findings")
    return min(len(found), 1)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), Path(sys.argv[2])))
