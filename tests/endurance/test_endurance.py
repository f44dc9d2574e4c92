"""Nothing grows by one for each cycle; ``python -m tests.endurance`` is the long version."""

from pathlib import Path

from tests.endurance.cycles import Cycles
from tests.support.mounting import needs_mounts

pytestmark = needs_mounts

WARM, MEASURED = 50, 100


def test_no_descriptor_thread_or_file_is_left_behind(tmp_path: Path) -> None:
    cycles = Cycles(tmp_path, "256K")
    try:
        cycles.run(WARM)
        before = cycles.figures()
        cycles.run(MEASURED)
        after = cycles.figures()
    finally:
        checked = cycles.close()
    assert checked == "clean"
    assert set(after.processes) == set(before.processes)
    assert after.caches["raw"]
    assert all(used <= 2 * 256 << 10 for used in after.caches.values()), after.caches
    spare = MEASURED // 6  # a fork is mounted in every fifth cycle
    for name, process in after.processes.items():
        assert process.descriptors - before.processes[name].descriptors < spare, name
        assert process.threads - before.processes[name].threads < spare, name
    for folder, files in after.files.items():
        assert files - before.files[folder] < spare, folder
