"""79301c7d605a: a spurious write fault on a huge page can drop the stale entry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.pgtable import pte_mkdirty, pte_mkyoung
from tlbkit.linux.include.linux.mm import FAULT_FLAG_WRITE
from tlbkit.linux.mm.huge_memory import HugeMemory
from tlbkit.linux.mm.memory import Memory
from tlbkit.patches import series
from tlbkit.patches.patch import Kind, Patch, Role

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import VmArea, VmFault


class MemoryBefore(Memory):
    """A fault on a huge page that found nothing to change was simply over.

    The test for a retried fault and for a write stood inline in handle_pte_fault(); for
    pages it is the same as in the helper that took its place.

    Source: mm/memory.c, v6.17.
    """

    __slots__ = ()

    def handle_pmd_access(self, vmf: VmFault) -> None:
        """Note the access, and go back to it."""
        self._kernel.huge_memory.huge_pmd_set_accessed(vmf)


class HugeMemoryBefore(HugeMemory):
    """Nobody was told whether an access was news, so nobody could act on it.

    Source: mm/huge_memory.c, v6.17.
    """

    __slots__ = ()

    def touch_pmd(  # type: ignore[override] # it returned nothing
        self, vma: VmArea, addr: int, pmdp: int, *, write: bool
    ) -> None:
        """Note an access to a block, dirty for a write."""
        entry = pte_mkyoung(self._pgtable.read(pmdp))
        if write:
            entry = pte_mkdirty(entry)
        haddr = addr & -self._pgtable.pmd_size
        self._kernel.fault.pmdp_set_access_flags(vma, haddr, pmdp, entry, dirty=write)

    def huge_pmd_set_accessed(  # type: ignore[override] # it returned nothing
        self, vmf: VmFault
    ) -> None:
        """Take the lock, and note an access that the entry allows."""
        with self._kernel.memory.pmd_lockptr(vmf.pmd):
            if self._pgtable.read(vmf.pmd) == vmf.orig_pmd:
                write = bool(vmf.flags & FAULT_FLAG_WRITE)
                self.touch_pmd(vmf.vma, vmf.address, vmf.pmd, write=write)


PATCH = Patch(
    commit="79301c7d605a10efea35af08167e0a362d8dffb1",
    subject="mm: spurious faults are fixed at PMD level too, by one shared helper",
    series=series.WRITE_FAULT,
    kind=Kind.PERFORMANCE,
    role=Role.CLAIMED,
    author="Huang Ying",
    release="v6.19",
    touches={
        "include/linux/huge_mm.h": ("huge_pmd_set_accessed",),
        "include/linux/pgtable.h": ("flush_tlb_fix_spurious_fault_pmd",),
        "mm/huge_memory.c": ("touch_pmd", "huge_pmd_set_accessed"),
        "mm/internal.h": ("touch_pmd",),
        "mm/memory.c": (
            "fix_spurious_fault",
            "handle_pte_fault",
            "__handle_mm_fault",
        ),
    },
    chapter="book/commits/write-fault.md",
    sources=(
        "mainline 79301c7d605a",
        "Message-ID 20251114085403.101552-2-ying.huang@linux.alibaba.com (v6 1/2)",
        "Message-ID 20251104095516.7912-2-ying.huang@linux.alibaba.com (v4, diff read)",
        series.PULL_REQUEST,
    ),
    reverts={"memory": MemoryBefore, "huge_memory": HugeMemoryBefore},
    needs={"b22cc9a9c7ff": "the helper takes the level as an enum pgtable_level"},
    note=(
        "By itself it changes no flush on any architecture: the PMD hook does nothing "
        "until cb1fa2e99955 gives arm64 one."
    ),
)
