"""Guard regions: the part of mm/madvise.c that makes and removes them.

A guard is a marker in a page entry: no TLB can hold it, and an access is a signal.

Compared with: v6.19, in December 2026.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tlbkit.linux.arch.arm64.include.asm.pgtable import pmd_table, pte_none
from tlbkit.linux.arch.arm64.include.asm.pgtable_hwdef import SLOT
from tlbkit.linux.include.linux.mm import VM_HUGETLB, VM_LOCKED, VM_SPECIAL
from tlbkit.linux.include.linux.swapops import (
    PTE_MARKER_GUARD,
    make_pte_marker,
    pte_marker_get,
)
from tlbkit.linux.include.uapi.asm_generic.errno import EAGAIN, EINVAL, ENOMEM

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import VmArea
    from tlbkit.linux.kernel.kernel import Kernel
    from tlbkit.linux.mm.madvise import MadviseBehavior

MAX_MADVISE_GUARD_RETRIES: Final = 3


def is_valid_guard_vma(vma: VmArea, *, allow_locked: bool) -> bool:
    """Tell whether a VMA may have guards.

    Source: mm/madvise.c, is_valid_guard_vma()
    """
    disallowed = VM_SPECIAL | VM_HUGETLB
    if not allow_locked:
        disallowed |= VM_LOCKED
    return not vma.flags & disallowed


def is_guard_pte_marker(pte: int) -> bool:
    """Tell whether an entry is a guard.

    Source: mm/madvise.c, is_guard_pte_marker()
    """
    return bool(pte_marker_get(pte) & PTE_MARKER_GUARD)


class MadviseGuard:
    """MADV_GUARD_INSTALL and MADV_GUARD_REMOVE."""

    __slots__ = ("_kernel", "_pgtable")

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._pgtable = kernel.pgtable

    def madvise_guard_install(self, madv_behavior: MadviseBehavior) -> int:
        """Make each page of a range a guard; 0 or a negative error number.

        What is mapped there is lost. The range is cleared and tried again if a page is
        found, which a fault of another CPU may have mapped meanwhile.

        Source: mm/madvise.c, madvise_guard_install()
        Deviates: after three times the call answers ``-EAGAIN``, where the kernel
        begins the system call anew without telling user space.
        """
        vma = madv_behavior.area
        start, end = madv_behavior.start, madv_behavior.end
        if not is_valid_guard_vma(vma, allow_locked=False):
            return -EINVAL
        vma.maybe_guard = True
        if vma.anonymous:
            self._kernel.rmap.anon_vma_prepare(vma)
        for _ in range(MAX_MADVISE_GUARD_RETRIES):
            result = self.guard_install_range(vma, start, end)
            if result <= 0:
                return result
            self._kernel.memory.zap_page_range_single(vma, start, end - start)
        return -EAGAIN

    def guard_install_range(self, vma: VmArea, start: int, end: int) -> int:
        """Put guards into the empty entries of a range, until a page is found.

        Returns:
            0 if all are guards now, 1 if a page is in the way, or ``-ENOMEM``.

        Source: mm/madvise.c, guard_install_pud_entry(), guard_install_pmd_entry(),
        guard_install_pte_entry() and guard_install_set_pte()
        Deviates: the walk of mm/pagewalk.c is written out.
        """
        pgtable = self._pgtable
        memory = self._kernel.memory
        addr = start
        while addr < end:
            pmd = memory.pmd_alloc(vma.mm, addr)
            if pmd is None:
                return -ENOMEM
            pmdval = pgtable.read(pmd)
            if not pte_none(pmdval) and not pmd_table(pmdval):
                return 1
            if not memory.pte_alloc(vma.mm, pmd):
                return -ENOMEM
            found = self._kernel.pgtable_generic.pte_offset_map_lock(vma.mm, pmd, addr)
            if found is None:
                continue
            ptep, ptl = found
            following = pgtable.addr_end(addr, end, pgtable.pmd_shift)
            with_page = False
            while addr < following and not with_page:
                pte = pgtable.ptep_get(ptep)
                if pte_none(pte):
                    pgtable.set_pte(ptep, make_pte_marker(PTE_MARKER_GUARD))
                else:
                    with_page = not is_guard_pte_marker(pte)
                ptep += SLOT
                addr += pgtable.page_size
            ptl.release()
            if with_page:
                return 1
        return 0

    def madvise_guard_remove(self, madv_behavior: MadviseBehavior) -> int:
        """Make the guards of a range empty entries again; 0 or ``-EINVAL``.

        Source: mm/madvise.c, madvise_guard_remove() and guard_remove_pte_entry()
        """
        vma = madv_behavior.area
        if not is_valid_guard_vma(vma, allow_locked=True):
            return -EINVAL
        pgtable = self._pgtable
        for pmd, begin, end in self._kernel.memory.pmd_entries(
            vma.mm, madv_behavior.start, madv_behavior.end
        ):
            if not pmd_table(pgtable.read(pmd)):
                continue
            found = self._kernel.pgtable_generic.pte_offset_map_lock(vma.mm, pmd, begin)
            if found is None:
                continue
            ptep, ptl = found
            for _ in range(begin, end, pgtable.page_size):
                if is_guard_pte_marker(pgtable.ptep_get(ptep)):
                    pgtable.set_pte(ptep, 0)
                ptep += SLOT
            ptl.release()
        return 0
