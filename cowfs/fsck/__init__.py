"""Checking a store: every invariant that the rest of the engine relies on, written apart from the code that keeps it.

``check_root`` checks one complete filesystem state at rest, ``check_catalog`` the owner's tables. Both are read-only,
yield a :class:`Problem` for everything that is wrong, and raise nothing because of damage.
"""

from cowfs.fsck.catalog import check_catalog
from cowfs.fsck.problem import Problem
from cowfs.fsck.root import check_root

__all__ = ["Problem", "check_catalog", "check_root"]
