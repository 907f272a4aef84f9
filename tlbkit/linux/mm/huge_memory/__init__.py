"""Transparent huge pages: mm/huge_memory.c.

A PMD entry may map a whole block of anonymous memory. What makes such an entry, and
what takes it apart again, is here; who faults, forks, unmaps or changes rights meets
it at the level of PMD entries and asks this module.

Every block entry of anonymous memory keeps a page table in store, so that to split it
never needs memory.
"""

from __future__ import annotations

from tlbkit.linux.mm.huge_memory.change import HugeChange
from tlbkit.linux.mm.huge_memory.fault import HugeFault


class HugeMemory(HugeFault, HugeChange):
    """Blocks and large folios of anonymous memory."""

    __slots__ = ()
