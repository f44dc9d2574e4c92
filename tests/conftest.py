"""What every test run shares: Hypothesis profiles, skips with reasons, and the check that nothing is left behind."""

import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

from tests.support.mounting import needs_mounts

settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.register_profile(
    "unshrunk", settings.get_profile("default"), phases=[Phase.explicit, Phase.reuse, Phase.generate]
)
settings.load_profile("default")

# Before 3.11.4 Python keeps its interpreter lock until a child made by vfork has begun its program. Tests serve mounts
# in their own process: a child that needs one for that would wait for ever.
vars(subprocess)["_USE_VFORK"] = False

NEEDS_MOUNTS = ("fuse", "conformance")
"""Folders whose tests need a kernel mount."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what this machine cannot mount, saying why."""
    for item in items:
        if set(NEEDS_MOUNTS) & set(Path(item.path).parts[-3:-1]):
            for mark in needs_mounts:
                item.add_marker(mark)


def mounts_below(folder: str) -> list[str]:
    """Mount points below ``folder`` in this mount namespace."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        points = [line.split()[4] for line in lines]
    return [point for point in points if point.startswith(folder.rstrip("/") + "/")]


def children() -> list[str]:
    """``pid name`` of the processes this one has started and not reaped."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError):  # a thread, or a process, that has just ended
            for pid in (task / "children").read_text().split():
                found.append(f"{pid} {Path('/proc', pid, 'comm').read_text().strip()}")
    return found


@pytest.fixture(scope="session", autouse=True)
def nothing_left_behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fail the run when a test leaves a mount below its folder, or a process."""
    before = children()
    yield
    mounts = mounts_below(str(tmp_path_factory.getbasetemp()))
    processes = [child for child in children() if child not in before and "resource_tracker" not in child]
    assert not mounts, f"mounts left behind: {mounts}"
    assert not processes, f"processes left behind: {processes}"
