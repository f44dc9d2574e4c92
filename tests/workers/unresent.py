"""A worker on a kernel without FUSE_NOTIFY_RESEND: ``python -m tests.workers.unresent`` is the doomed one that does not
negotiate it."""

from __future__ import annotations

import sys

from cowfs_daemon import worker
from cowfs_daemon.fuse import negotiate
from tests.workers.doomed import arm

if __name__ == "__main__":
    negotiate.WANTED &= ~negotiate.HAS_RESEND  # type: ignore[misc]
    arm()
    sys.exit(worker.main())
