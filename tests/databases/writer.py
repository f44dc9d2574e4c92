"""``python -m tests.databases.writer DATABASE NUMBER FILE``: commits numbered rows until it is ended.

Each transaction adds row ``(NUMBER, n)`` and counts it in another table. After each commit, n is written to FILE, eight
bytes: what has been acknowledged. A commit that comes from time to time empties the write-ahead log as well.
"""

from __future__ import annotations

import os
import sqlite3
import sys
from pathlib import Path

BUSY_SECONDS = 60.0
CHECKPOINT_EVERY = 61
ROWS_MAX = 200_000
"""A process that was forgotten must not fill a disk."""


def content(writer: int, number: int) -> str:
    """The text of a row: its length changes, so that pages split and overflow."""
    return f"{writer}:{number} " * (1 + number * 7 % 97)


def open_database(path: Path) -> sqlite3.Connection:
    """A connection in WAL mode whose commits are synced."""
    database = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
    database.execute("pragma journal_mode = wal")
    database.execute("pragma synchronous = full")
    database.execute("pragma wal_autocheckpoint = 100")
    return database


def make(path: Path, writers: int) -> None:
    """A new database for so many writers."""
    database = open_database(path)
    database.executescript(
        """
        create table entries (writer integer, number integer, text text, primary key (writer, number));
        create index by_text on entries (text);
        create table totals (writer integer primary key, entries integer);
        """
    )
    database.executemany("insert into totals values (?, 0)", [(writer,) for writer in range(writers)])
    database.close()


def write(path: Path, writer: int, acknowledged: int) -> None:
    """Commit rows 1, 2, … and write each number to the descriptor ``acknowledged`` afterwards."""
    database = open_database(path)
    for number in range(1, ROWS_MAX + 1):
        database.execute("begin immediate")
        database.execute("insert into entries values (?, ?, ?)", (writer, number, content(writer, number)))
        database.execute("update totals set entries = entries + 1 where writer = ?", (writer,))
        database.execute("commit")
        os.pwrite(acknowledged, number.to_bytes(8, "little"), 0)
        if number % CHECKPOINT_EVERY == 0:
            database.execute("pragma wal_checkpoint(truncate)").fetchone()


if __name__ == "__main__":
    write(Path(sys.argv[1]), int(sys.argv[2]), os.open(sys.argv[3], os.O_WRONLY))
