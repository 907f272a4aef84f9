"""77e493280e92: what both PUD insertions repeated moves into ``insert_pud()``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pte_mkdirty,
    pte_mkyoung,
    pte_none,
)
from tlbkit.linux.include.linux.mm import VM_FAULT_NOPAGE, VM_FAULT_SIGBUS
from tlbkit.linux.include.linux.mm_types import Folio
from tlbkit.linux.mm.huge_memory import HugeMemory
from tlbkit.linux.mm.huge_memory.insert import bug_on_wrong_vma, first_frame
from tlbkit.patches import series
from tlbkit.patches.patch import Kind, Patch, Role

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import VmArea, VmFault


class HugeMemoryBefore(HugeMemory):
    """Each insertion checks the range, locks, and makes up the fault's answer itself.

    Source: mm/huge_memory.c, v6.17.
    """

    __slots__ = ()

    def insert_pud(  # type: ignore[override] # it returned nothing
        self,
        vma: VmArea,
        addr: int,
        pud: int,
        fop: Folio | int,
        prot: int,
        *,
        write: bool,
    ) -> None:
        """Map *fop* at a PUD entry; the PTL is held.

        Source: mm/huge_memory.c, insert_pud(), v6.17
        """
        kernel = self._kernel
        entry = self._pgtable.read(pud)
        if not pte_none(entry):
            if not write:
                return
            if self._pgtable.pud_pfn(entry) != first_frame(fop):
                kernel.panic.warn_on_once("insert_pud", "another frame is mapped")
                return
            entry = pte_mkdirty(pte_mkyoung(entry))
            entry = kernel.memory.maybe_mkwrite(entry, vma)
            kernel.fault.pmdp_set_access_flags(vma, addr, pud, entry, dirty=True)
            return
        if isinstance(fop, Folio):
            entry = self._pgtable.mk_huge_pmd(fop.pfn, vma.page_prot)
            fop.refcount += 1
            kernel.rmap.folio_add_file_rmap_pud(fop, vma)
            kernel.swap.inc_file_counter(vma.mm, fop, fop.nr_pages)
        else:
            entry = self._pgtable.mk_huge_pmd(fop, prot)
            entry = self._pgtable.pud_mkspecial(entry)
        if write:
            entry = pte_mkyoung(pte_mkdirty(entry))
            entry = kernel.memory.maybe_mkwrite(entry, vma)
        self._pgtable.set_pte(pud, entry)

    def vmf_insert_pfn_pud(self, vmf: VmFault, pfn: int, *, write: bool) -> int:
        """Map frames by a PUD entry.

        Source: mm/huge_memory.c, vmf_insert_pfn_pud(), v6.17
        """
        vma = vmf.vma
        addr = vmf.address & -self._pgtable.pud_size
        bug_on_wrong_vma(vma)
        if addr < vma.start or addr >= vma.end:
            return VM_FAULT_SIGBUS
        pgprot = self._kernel.pgtable_generic.pfnmap_setup_cachemode_pfn(
            pfn, vma.page_prot
        )
        with self._kernel.memory.pud_lockptr(vma.mm):
            self.insert_pud(vma, addr, vmf.pud, pfn, pgprot, write=write)
        return VM_FAULT_NOPAGE

    def vmf_insert_folio_pud(self, vmf: VmFault, folio: Folio, *, write: bool) -> int:
        """Map a folio of the size of a PUD.

        Source: mm/huge_memory.c, vmf_insert_folio_pud(), v6.17
        """
        vma = vmf.vma
        addr = vmf.address & -self._pgtable.pud_size
        if addr < vma.start or addr >= vma.end:
            return VM_FAULT_SIGBUS
        if folio.order != self._pgtable.hpage_pud_order:
            self._kernel.panic.warn_on_once("vmf_insert_folio_pud", "wrong order")
            return VM_FAULT_SIGBUS
        with self._kernel.memory.pud_lockptr(vma.mm):
            self.insert_pud(vma, addr, vmf.pud, folio, vma.page_prot, write=write)
        return VM_FAULT_NOPAGE


PATCH = Patch(
    commit="77e493280e92301d3151d6a18a2e17f0c30a582c",
    subject="THP: insert_pud() checks the range, locks and gives the fault's answer",
    series=series.NORMAL_PAGE,
    kind=Kind.CLEAN_UP,
    role=Role.PULL_REQUEST,
    author="David Hildenbrand",
    release="v6.18",
    touches={
        "mm/huge_memory.c": (
            "insert_pud",
            "vmf_insert_pfn_pud",
            "vmf_insert_folio_pud",
        ),
    },
    chapter="book/commits/insert-pmd-pud.md",
    sources=(
        "mainline 77e493280e92",
        "Message-ID 20250811112631.759341-3-david@redhat.com (v3 2/11)",
    ),
    note=(
        "As for the PMD, a folio that is of the wrong order and out of range now warns "
        "first. There is no deposited table and no huge zero folio at this level."
    ),
    reverts={"huge_memory": HugeMemoryBefore},
)
