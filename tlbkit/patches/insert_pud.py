"""77e493280e92: what both PUD insertions repeated moves into ``insert_pud()``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.pgtable import pte_none
from tlbkit.linux.include.linux.mm import VM_FAULT_NOPAGE, VM_FAULT_SIGBUS
from tlbkit.linux.mm.huge_memory import HugeMemory
from tlbkit.patches import series
from tlbkit.patches.patch import Kind, Patch, Role

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import Folio, VmArea, VmFault


class HugeMemoryBefore(HugeMemory):
    """Each insertion checks the range, locks, and makes up the fault's answer itself.

    Source: mm/huge_memory.c, v6.17.
    """

    __slots__ = ()

    def vmf_insert_pfn_pud(self, vmf: VmFault, pfn: int, *, write: bool) -> int:
        """Map frames by a PUD entry."""
        vma = vmf.vma
        addr = vmf.address & -self._pgtable.pud_size
        self.bug_on_wrong_area(vma)
        if addr < vma.start or addr >= vma.end:
            return VM_FAULT_SIGBUS
        prot = self._cache_mode(pfn, vma.page_prot)
        ptl = self._kernel.memory.pud_lockptr(vma.mm)
        ptl.acquire()
        self.insert_pud_locked(vma, addr, vmf.pud, pfn, prot, write=write)
        ptl.release()
        return VM_FAULT_NOPAGE

    def vmf_insert_folio_pud(self, vmf: VmFault, folio: Folio, *, write: bool) -> int:
        """Map a folio by a PUD entry."""
        vma = vmf.vma
        addr = vmf.address & -self._pgtable.pud_size
        if addr < vma.start or addr >= vma.end:
            return VM_FAULT_SIGBUS
        if folio.order != self._pgtable.hpage_pud_order:
            self._kernel.panic.warn_on_once("vmf_insert_folio_pud", "wrong order")
            return VM_FAULT_SIGBUS
        ptl = self._kernel.memory.pud_lockptr(vma.mm)
        ptl.acquire()
        self.insert_pud_locked(vma, addr, vmf.pud, folio, vma.page_prot, write=write)
        ptl.release()
        return VM_FAULT_NOPAGE

    def insert_pud_locked(
        self,
        vma: VmArea,
        addr: int,
        pudp: int,
        what: Folio | int,
        prot: int,
        *,
        write: bool,
    ) -> None:
        """Map *what*, with the table's lock held; insert_pud() was this much."""
        if not pte_none(self._pgtable.read(pudp)):
            self.insert_over_pud(vma, addr, pudp, what, write=write)
            return
        entry = self.new_pud(vma, what, prot, write=write)
        self._pgtable.set_pte(pudp, entry)


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
