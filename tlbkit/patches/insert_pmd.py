"""b7298e418e29: what both PMD insertions repeated moves into ``insert_pmd()``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.pgtable import pte_none
from tlbkit.linux.include.linux.mm import (
    VM_FAULT_NOPAGE,
    VM_FAULT_OOM,
    VM_FAULT_SIGBUS,
)
from tlbkit.linux.include.uapi.asm_generic.errno import EEXIST
from tlbkit.linux.mm.huge_memory import HugeMemory
from tlbkit.patches import series
from tlbkit.patches.patch import Kind, Patch, Role

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import Folio, VmArea, VmFault


class HugeMemoryBefore(HugeMemory):
    """Each insertion checks the range, brings the spare table and locks by itself.

    Source: mm/huge_memory.c, v6.17.
    """

    __slots__ = ()

    def vmf_insert_pfn_pmd(self, vmf: VmFault, pfn: int, *, write: bool) -> int:
        """Map a block of frames."""
        vma = vmf.vma
        addr = vmf.address & -self._pgtable.pmd_size
        self.bug_on_wrong_area(vma)
        if addr < vma.start or addr >= vma.end:
            return VM_FAULT_SIGBUS
        spare = None
        if self._kernel.pgtable_generic.arch_needs_pgtable_deposit:
            spare = self._kernel.page_alloc.alloc_table("PTE table")
            if spare is None:
                return VM_FAULT_OOM
        prot = self._cache_mode(pfn, vma.page_prot)
        ptl = self._kernel.memory.pmd_lockptr(vmf.pmd)
        ptl.acquire()
        error = self.insert_pmd_locked(
            vma, addr, vmf.pmd, pfn, prot, spare, write=write
        )
        ptl.release()
        if error and spare is not None:
            self._kernel.page_alloc.free(spare)
        return VM_FAULT_NOPAGE

    def vmf_insert_folio_pmd(self, vmf: VmFault, folio: Folio, *, write: bool) -> int:
        """Map a folio of the size of a block."""
        vma = vmf.vma
        addr = vmf.address & -self._pgtable.pmd_size
        if addr < vma.start or addr >= vma.end:
            return VM_FAULT_SIGBUS
        if folio.order != self._pgtable.hpage_pmd_order:
            self._kernel.panic.warn_on_once("vmf_insert_folio_pmd", "wrong order")
            return VM_FAULT_SIGBUS
        spare = None
        if self._kernel.pgtable_generic.arch_needs_pgtable_deposit:
            spare = self._kernel.page_alloc.alloc_table("PTE table")
            if spare is None:
                return VM_FAULT_OOM
        ptl = self._kernel.memory.pmd_lockptr(vmf.pmd)
        ptl.acquire()
        error = self.insert_pmd_locked(
            vma, addr, vmf.pmd, folio, vma.page_prot, spare, write=write
        )
        ptl.release()
        if error and spare is not None:
            self._kernel.page_alloc.free(spare)
        return VM_FAULT_NOPAGE

    def insert_pmd_locked(
        self,
        vma: VmArea,
        addr: int,
        pmdp: int,
        what: Folio | int,
        prot: int,
        spare: Folio | None,
        *,
        write: bool,
    ) -> int:
        """Map *what*, with the table's lock held; insert_pmd() was this much.

        Returns:
            0 if the spare table, if any, is in store; ``-EEXIST`` if it is left over.
            Callers tell nobody else.
        """
        self._kernel.memory.pmd_lockptr(pmdp).assert_held()
        if not pte_none(self._pgtable.read(pmdp)):
            self.insert_over_pmd(vma, addr, pmdp, what, write=write)
            return -EEXIST
        entry = self.new_pmd(vma, what, prot, write=write)
        if spare is not None:
            self._deposit(vma.mm, pmdp, spare)
        self._pgtable.set_pte(pmdp, entry)
        return 0


PATCH = Patch(
    commit="b7298e418e298545b195aef51c01cceed816558e",
    subject="THP: insert_pmd() checks the range, brings the spare table and locks",
    series=series.NORMAL_PAGE,
    kind=Kind.CLEAN_UP,
    role=Role.PULL_REQUEST,
    author="David Hildenbrand",
    release="v6.18",
    touches={
        "mm/huge_memory.c": (
            "insert_pmd",
            "vmf_insert_pfn_pmd",
            "vmf_insert_folio_pmd",
        ),
    },
    chapter="book/commits/insert-pmd-pud.md",
    sources=(
        "mainline b7298e418e29",
        "Message-ID 20250811112631.759341-2-david@redhat.com (v3 1/11)",
    ),
    note=(
        "Two things differ for who looks closely: a folio of the wrong order outside "
        "the range now warns before the SIGBUS, and the cache mode of a pfn is looked "
        "up even if the insertion ends in SIGBUS or out of memory."
    ),
    reverts={"huge_memory": HugeMemoryBefore},
)
