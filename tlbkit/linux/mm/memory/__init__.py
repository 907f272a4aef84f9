"""Page faults, copy on write, fork's copy of tables, and zapping: mm/memory.c."""

from __future__ import annotations

from tlbkit.linux.mm.memory.copy import MemoryCopy
from tlbkit.linux.mm.memory.fault import MemoryFault
from tlbkit.linux.mm.memory.pfn import MemoryPfn
from tlbkit.linux.mm.memory.zap import MemoryZap


class Memory(MemoryFault, MemoryCopy, MemoryPfn, MemoryZap):
    """The fault handlers and range walks of mm/memory.c."""

    __slots__ = ()
