"""Checking a store: every invariant that the rest of the engine relies on, written apart from the code that keeps it.

``check_root`` checks one complete filesystem state at rest, ``check_catalog`` the owner's tables, ``check_store`` both.
They are read-only, yield a :class:`Problem` for everything that is wrong, and raise nothing because of damage.
"""

from cowfs.fsck.catalog import check_catalog
from cowfs.fsck.problem import Problem
from cowfs.fsck.root import check_root
from cowfs.fsck.store import check_store

__all__ = ["Problem", "check_catalog", "check_root", "check_store"]
