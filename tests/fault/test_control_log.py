"""The control log when the Nth system call fails or power is lost there: the old tables or the new, never others."""

import errno
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cowfs.catalog import Catalog
from cowfs.errors import CowfsError
from cowfs.formats.control import LayerImported, Renamed, Set, WorkspaceCreated

CALLS = ("pwrite", "fsync", "fdatasync", "rename", "ftruncate", "open")
RENAMED = Renamed("wsp-1", "new")


@contextmanager
def failing_at(number: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The ``number``-th system call of :data:`CALLS` fails; a pwrite has then written half. Yields the calls made."""
    made: list[str] = []

    def wrapped(name: str) -> Callable[..., object]:
        real = getattr(os, name)

        def call(*args: object, **kwargs: object) -> object:
            made.append(name)
            if len(made) == number:
                if name == "pwrite":
                    fd, data, at = args
                    real(fd, bytes(data)[: len(data) // 2], at)  # type: ignore[call-overload, arg-type]
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return real(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        for name in CALLS:
            patch.setattr(os, name, wrapped(name))
        yield made


def rows(directory: Path) -> list[object]:
    with Catalog.open(directory) as catalog:
        return list(catalog.rows())


def change(catalog: Catalog) -> None:
    catalog.commit(RENAMED, sync=True)


def compact(catalog: Catalog) -> None:
    catalog.compact()


@pytest.mark.parametrize("verb", [change, compact])
def test_every_failing_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: Callable[[Catalog], None]) -> None:
    number, done = 0, False
    while not done:
        number += 1
        directory = tmp_path / str(number)
        catalog = Catalog.open(directory, create=True)
        catalog.commit(
            LayerImported("lay-0", None, bytes(32), 2),
            WorkspaceCreated("wsp-1", "old", 1, "lay-1", "lay-0", None, None, None, 2),
            Set("wsp-1", "quota", b"1"),
            sync=True,
        )
        before = list(catalog.rows())
        allowed = [before, renamed(before)] if verb is change else [before]
        with failing_at(number, monkeypatch) as made:
            try:
                verb(catalog)
                done = len(made) < number
                assert done, f"{made[-1]} failed and nobody noticed"
            except CowfsError:
                assert catalog.rows() in allowed
        shutil.copytree(directory, copy := tmp_path / f"{number}-copy")
        assert rows(copy) in allowed  # as if the process had been killed here
        settled = catalog.rows()
        catalog.close()
        assert rows(directory) == settled
    assert number > 2


def renamed(before: Sequence[Any]) -> list[Any]:
    """The rows after the change."""
    return [row._replace(name="new") if getattr(row, "name", "") == "old" else row for row in before]
