"""What a case is."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from tests.conformance.scene import ROOT, Scene, User


class Case(NamedTuple):
    """``prepare`` is root's and sets the scene; ``act`` takes the recorded steps, by ``user``."""

    name: str
    prepare: Callable[[Scene], None]
    act: Callable[[Scene], None]
    user: User = ROOT
