"""The model against a native directory: the same random operations, the same results, errors and visible state.

This is what makes the model an oracle.
"""

from __future__ import annotations

import os
import shutil
import tempfile

import pytest
from hypothesis import settings

from tests.property.native_world import NativeWorld
from tests.property.operations import FilesystemMachine


class NativeMachine(FilesystemMachine):
    """Native directory and model."""

    def __init__(self) -> None:
        super().__init__()
        self.path = tempfile.mkdtemp(prefix="cowfs-model-")
        self.native_world = NativeWorld(self.clock, self.path, 0o700, reserves=True)
        self.native_world.compare()
        self.worlds = [self.native_world]

    def teardown(self) -> None:
        self.native_world.native.close()
        shutil.rmtree(self.path)


TestModel = NativeMachine.TestCase
TestModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None, report_multiple_bugs=False)
TestModel.pytestmark = [  # type: ignore[attr-defined]
    pytest.mark.skipif(os.geteuid() != 0, reason="owners, devices and trusted attributes need root")
]
