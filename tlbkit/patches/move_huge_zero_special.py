"""fae654083bfa: UFFDIO_MOVE moves a huge zero entry instead of building a new one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tlbkit.linux.arch.arm64.include.asm.pgtable import pmd_trans_huge, pte_none
from tlbkit.linux.include.linux.huge_mm import pmd_is_migration_entry
from tlbkit.linux.include.linux.pagemap import folio_lock, folio_unlock
from tlbkit.linux.include.uapi.asm_generic.errno import EAGAIN, EBUSY, EINVAL, ENOENT
from tlbkit.linux.mm.huge_memory import HugeMemory
from tlbkit.linux.mm.mmu_notifier import MMU_NOTIFY_CLEAR
from tlbkit.linux.mm.page_alloc import RAM_BASE
from tlbkit.linux.mm.userfaultfd import double_pt_lock, double_pt_unlock
from tlbkit.patches import series
from tlbkit.patches.patch import Kind, Patch, Role

if TYPE_CHECKING:
    from tlbkit.linux.arch.arm64.include.asm.pgtable import Pgtable
    from tlbkit.linux.include.linux.mm_types import MmStruct, VmArea


_PAGE_STRUCT: Final = 64
"""Bytes of one struct page."""
_VMEMMAP_GAP: Final = 1 << 30
"""Bytes between the end of the array of all pages and the last address."""


def null_folio_pfn(pgtable: Pgtable) -> int:
    """Return the frame that the folio at address 0 would describe.

    The kernel's array of all pages begins at a negative address, so this lies a
    long way behind its first element. Worked out from the layout of addresses in
    arch/arm64/include/asm/memory.h, for 48 bits: half of them are the kernel's
    linear map, and each of its pages has 64 bytes in the array, which ends 1 GiB
    before the last address.
    """
    shift = pgtable.page_shift
    linear_map = 1 << pgtable.va_bits - 1
    array = (linear_map >> shift) * _PAGE_STRUCT
    return (array + _VMEMMAP_GAP) // _PAGE_STRUCT + (RAM_BASE >> shift)


class HugeMemoryBefore(HugeMemory):
    """A huge zero entry is built anew, from a folio that nobody looked up.

    Source: mm/huge_memory.c, v6.16 to v6.19.
    """

    __slots__ = ()

    def move_pages_huge_pmd(
        self,
        mm: MmStruct,
        dst_pmd: int,
        src_pmd: int,
        dst_pmdval: int,
        dst_vma: VmArea,
        src_vma: VmArea,
        dst_addr: int,
        src_addr: int,
    ) -> int:
        """Move a huge page; zeros by a new entry for a folio that is none.

        Source: mm/huge_memory.c, move_pages_huge_pmd(), v6.19
        """
        kernel = self._kernel
        pgtable = self._pgtable
        size = pgtable.pmd_size
        src_pmdval = pgtable.read(src_pmd)
        src_ptl = kernel.memory.pmd_lockptr(src_pmd)
        src_ptl.assert_held()
        if not pte_none(dst_pmdval) or (src_addr | dst_addr) & (size - 1):
            kernel.panic.warn_on_once("move_pages_huge_pmd", "it is no whole move")
            src_ptl.release()
            return -EINVAL
        if not pmd_trans_huge(src_pmdval):
            src_ptl.release()
            if pmd_is_migration_entry(src_pmdval):
                self.pmd_migration_entry_wait(src_pmd)
                return -EAGAIN
            return -ENOENT
        src_folio = None
        if not self.is_huge_zero_pmd(src_pmdval):
            src_folio = self.pmd_folio(src_pmdval)
            if not src_folio.page_exclusive(src_folio.pfn):
                src_ptl.release()
                return -EBUSY
            src_folio.refcount += 1
        src_ptl.release()
        with kernel.mmu_notifier.mmu_notifier_range_init(
            MMU_NOTIFY_CLEAR, 0, mm, src_addr, src_addr + size
        ):
            if src_folio is not None:
                folio_lock(self._machine, src_folio)
            dst_ptl = kernel.memory.pmd_lockptr(dst_pmd)
            double_pt_lock(src_ptl, dst_ptl)
            same = pgtable.read(src_pmd) == src_pmdval
            same = same and pgtable.read(dst_pmd) == dst_pmdval
            err = 0
            if not self._machine.holds("pmd_same", same):
                err = -EAGAIN
            elif src_folio is None:
                kernel.pgtable_generic.pmdp_huge_clear_flush(src_vma, src_addr, src_pmd)
                pgtable.set_pte(
                    dst_pmd,
                    pgtable.mk_huge_pmd(null_folio_pfn(pgtable), dst_vma.page_prot),
                )
            else:
                err = self._move_folio(
                    dst_pmd, src_pmd, dst_vma, src_vma, dst_addr, src_addr, src_folio
                )
            if not err:
                store = kernel.pgtable_generic
                src_pgtable = store.pgtable_trans_huge_withdraw(src_pmd)
                store.pgtable_trans_huge_deposit(dst_pmd, src_pgtable)
            double_pt_unlock(src_ptl, dst_ptl)
            if src_folio is not None:
                folio_unlock(self._machine, src_folio)
        if src_folio is not None:
            kernel.swap.folio_put(src_folio)
        return err


PATCH = Patch(
    commit="fae654083bfa409bb2244f390232e2be47f05bfc",
    subject="userfaultfd MOVE: a huge zero PMD keeps its frame and its special bit",
    series=series.LATER,
    kind=Kind.FIX,
    role=Role.LATER_FIX,
    author="Chris Down",
    release="v7.0",
    touches={"mm/huge_memory.c": ("move_pages_huge_pmd",)},
    chapter="book/commits/huge-zero-folio.md",
    sources=(
        "mainline fae654083bfa; in v6.18.20 and v6.19.10",
        "Message-ID aaBVaHs8rIkNcwM0@chrisdown.name (v2, still two patches)",
        "OSV record of CVE-2026-31397",
    ),
    needs={"cc22b9978509": "its old body is the one which that commit left"},
    repairs="d82d09e48219",
    note=(
        "Two faults in one commit. The special bit was lost since d82d09e48219; the "
        "bogus frame, or the NULL dereference, came with e3981db444a0 (v6.16), which "
        "is none of the commits here. Posted as two patches, joined when merged."
    ),
    reverts={"huge_memory": HugeMemoryBefore},
)
