"""Reading a journal from a position to its end, and telling a torn end from damage.

Bytes that are no record are a torn tail when nothing behind them claims to be durable: nobody was told that they
survive. Otherwise they are damage: something acknowledged as durable cannot be read any more.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cowfs.errors import Corrupt
from cowfs.formats import journal as j
from cowfs.formats.journal import Envelope
from cowfs.layers.journal import FIRST_FILE, JournalFile, Position, file_numbers, file_path, read_records


class Damage(Corrupt):
    """A journal cannot be read at a place up to which, or behind which, it was durable."""


def read_tail(
    directory: Path, workspace: str, position: Position, *, writable: bool = False
) -> Iterator[tuple[JournalFile, int, int, Envelope | None]]:
    """(file, offset, end, envelope) of every record from ``position`` on; before a file's first, once without one.

    Ends at a torn tail as at the end. Raises Damage, naming file and byte, when it is more than that. The journal may
    be appended to meanwhile: but then damage counts only when it is found at the same place twice.
    """
    number, start, seq = position.file_no or FIRST_FILE, position.offset or j.HEADER_BYTES, position.seq
    # The last file's size first: with it there, those before it grow no more.
    sizes = {each: _size(directory, workspace, each) for each in reversed(file_numbers(directory, workspace))}
    good = 0  # how far the file ``number`` is good; 0: it was not entered
    try:
        while number in sizes:
            file = JournalFile.open(directory, workspace, number, writable=writable)
            if sizes[number] < start:
                raise Damage(f"{file}, byte {sizes[number]}: it ends before byte {start}, up to which it was durable")
            if start == j.HEADER_BYTES and file.first_seq != seq + 1:
                raise Corrupt(f"{file}, byte 0: its first record is {file.first_seq}, not {seq + 1}")
            good = start
            yield file, start, start, None
            for at, end, envelope in read_records(file, start, sizes[number]):
                if envelope.seq != seq + 1:
                    raise Corrupt(f"{file}, byte {at}: record {envelope.seq} follows {seq}")
                good, seq = end, envelope.seq
                yield file, at, end, envelope
            number, start, good = number + 1, j.HEADER_BYTES, 0
        if position.file_no >= number or max(sizes, default=0) > number:
            raise Corrupt(f"journal {workspace}/{file_path(directory, workspace, number).name} is missing")
    except Damage:
        raise
    except Corrupt as error:
        # A file that a durable position points into was whole up to there.
        if (position.file_no == number and not good) or durable_behind(directory, workspace, number, good) > seq:
            raise Damage(error.message, hint=error.hint) from None


def _size(directory: Path, workspace: str, number: int) -> int:
    return file_path(directory, workspace, number).stat().st_size


def durable_behind(directory: Path, workspace: str, file_no: int, start: int) -> int:
    """The highest ``durable`` that any good record at or behind byte ``start`` of a file claims; 0: none does.

    Files after it count too. Used only where a journal ends in something that is no record.
    """
    durable = 0
    for number in file_numbers(directory, workspace):
        if number < file_no:
            continue
        with file_path(directory, workspace, number).open("rb") as file:
            file.seek(start if number == file_no else 0)
            rest = file.read()
        durable = max((envelope.durable for envelope in j.find_records(rest, number)), default=durable)
    return durable
