"""``python -m tests.golden.freeze``: write every sample anew from its value, and list what the format's version froze.

``frozen-N.txt`` lists the samples and the layouts that format version N brought; what an earlier list names is refused
to be changed. To be run when something is added to the version that is not released yet, and never for another reason:
a released list stays as it is. See "Versions and upgrades" in docs/format.md.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

from cowfs.formats import control, journal, superblock
from cowfs.formats.control_file import FileHeader, encode_entry, encode_file_header
from tests.golden import test_blocks, test_control, test_journal

HERE = Path(__file__).parent
VERSION = superblock.FORMAT_VERSION


def encoded() -> Iterator[tuple[str, bytes]]:
    """(path below this folder, bytes) of every sample that the present code writes."""
    for name, (_, encode, _) in test_blocks.RECORDS.items():
        yield f"blocks/{name}.hex", encode()
    yield "journal/header.hex", journal.encode_header(test_journal.HEADER)
    for name in test_journal.RECORDS:
        yield f"journal/{name}.hex", test_journal.encoded(test_journal.envelope(name))
    for name, operation in test_control.OPERATIONS.items():
        yield f"control/{name}.hex", control.encode_operations([operation])
    salt, names = 0x1122334455667788, ("counters", "renamed")
    payloads = [control.encode_operations([test_control.OPERATIONS[name]]) for name in names]
    entries = [encode_entry(salt, number, number - 1, payload) for number, payload in enumerate(payloads, 5)]
    yield "control/log.hex", encode_file_header(FileHeader(salt, 5, 5)) + b"".join(entries)


def stored() -> Iterator[str]:
    """A line for every sample that is stored."""
    for path in sorted(HERE.glob("*/*.hex")):
        digest = hashlib.sha256(test_blocks.sample(path)).hexdigest()
        yield f"sample {path.relative_to(HERE)} {digest}"


def layouts() -> Iterator[str]:
    """A line for every kind of record: its number, name, integers and strings (of the journal), and fields."""
    for kind, (cls, integers, strings) in journal.KINDS.items():
        yield f"layout journal {kind} {cls.__name__} {integers}+{strings} {','.join(cls._fields)}"
    for operation, kind in control.KINDS.items():
        yield f"layout control {kind} {operation.__name__} {','.join(operation._fields)}"


def frozen(version: int) -> list[str]:
    """The lines that a version froze."""
    path = HERE / f"frozen-{version}.txt"
    return path.read_text().splitlines() if path.exists() else []


def main() -> int:
    """See the module."""
    earlier = {line for version in range(1, VERSION) for line in frozen(version)}
    kept = {line.split()[1] for line in earlier if line.startswith("sample ")}
    for name, data in encoded():
        path = HERE / name
        if path.exists() and test_blocks.sample(path) == data:
            continue
        if name in kept:
            print(f"{name} belongs to a released version and must not change")
            return 1
        text = data.hex()
        path.write_text("\n".join(text[at : at + 64] for at in range(0, len(text), 64)) + "\n")
    lines = [line for line in (*stored(), *layouts()) if line not in earlier]
    (HERE / f"frozen-{VERSION}.txt").write_text("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
