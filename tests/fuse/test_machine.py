"""The state machine through a real mount, against the model that a native directory has been checked to equal."""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test

from tests.property.native_world import NativeWorld
from tests.property.operations import FilesystemMachine
from tests.support.mounting import as_others
from tests.support.node import Node

from .conftest import Mounted


class MountMachine(FilesystemMachine):
    """One mounted workspace and the model; restores swap the state under the descriptors that are held.

    Every run begins with a restore of the empty workspace, ``beginning``: one mount serves them all.
    """

    mounted: Mounted
    beginning: str

    def __init__(self) -> None:
        super().__init__()
        self.mounted.restore(self.beginning)
        self.mount_world = NativeWorld(self.clock, str(self.mounted.path), 0o755, reserves=False)
        self.mount_world.compare()
        self.worlds = [self.mount_world]
        self.snapshots: list[tuple[str, dict[int, Node]]] = []

    @rule()
    def checkpoint(self) -> None:
        self.snapshots.append((self.mounted.checkpoint(), self.mount_world.model.snapshot()))
        self.mount_world.compare()

    @rule(rank=st.integers(0, 20))
    def restore(self, rank: int) -> None:
        if not self.snapshots:
            return
        world = self.mount_world
        snapshot, state = self.snapshots[rank % len(self.snapshots)]
        self.mounted.restore(snapshot)
        world.model.restore(state)
        world.native.regain({ino: node.entries for ino, node in state.items() if node.is_dir})
        world.compare()

    def teardown(self) -> None:
        self.mount_world.native.close()


@as_others
def test_random_operations_and_restores(mounted: Mounted) -> None:
    machine = type("Machine", (MountMachine,), {"mounted": mounted, "beginning": mounted.checkpoint()})
    phases = [Phase.explicit, Phase.generate]  # a kernel is no pure function: shrink by hand
    quick = settings(
        max_examples=40, stateful_step_count=40, deadline=None, phases=phases, report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck), database=None,
    )  # fmt: skip
    run_state_machine_as_test(machine, settings=quick)
