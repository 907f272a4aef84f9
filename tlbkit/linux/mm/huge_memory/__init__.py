"""Transparent huge pages: mm/huge_memory.c.

A PMD entry may map a whole block of memory: anonymous, of a file, or frames that a
driver brings. What makes such an entry, and what takes it apart again, is here; who
faults, forks, unmaps or changes rights meets it at the level of PMD entries and asks
this module. A PUD entry may map what drivers and devices bring, and nothing else.

Every block entry of anonymous memory keeps a page table in store, so that to split it
never needs memory. A file's block has none: it is taken away, and its pages are found
again by faults.
"""

from __future__ import annotations

from tlbkit.linux.mm.huge_memory.change import HugeChange
from tlbkit.linux.mm.huge_memory.fault import HugeFault
from tlbkit.linux.mm.huge_memory.pud import HugePud
from tlbkit.linux.mm.huge_memory.reclaim import HugeReclaim


class HugeMemory(HugeFault, HugeChange, HugePud, HugeReclaim):
    """Blocks and large folios."""

    __slots__ = ()
