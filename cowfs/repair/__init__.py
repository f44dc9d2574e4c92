"""Mending a store that nobody has open: what is whole stays in use, what is not goes to quarantine, and is named.

Steps, each of which can be cut off anywhere and done again: missing directories; the control log, which everything else
depends on; the index, from segments; segments that are damaged; journals. Nothing is deleted: what leaves its place is
below ``STORE/quarantine``, under the same name. Files whose blocks are lost stay named by fsck and answer EIO.
"""

from cowfs.repair.repair import repair_store
from cowfs.repair.report import Repaired

__all__ = ["Repaired", "repair_store"]
