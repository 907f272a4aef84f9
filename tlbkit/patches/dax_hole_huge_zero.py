"""b0f86aaebed1: a DAX hole maps the huge zero folio through the common insertion."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.pgtable import pte_none
from tlbkit.linux.fs.dax import ZERO, Dax
from tlbkit.linux.include.linux.mm import (
    VM_FAULT_FALLBACK,
    VM_FAULT_NOPAGE,
    VM_FAULT_OOM,
)
from tlbkit.patches import series
from tlbkit.patches.patch import Kind, Patch, Role

if TYPE_CHECKING:
    from tlbkit.linux.fs.dax import Entry
    from tlbkit.linux.include.linux.mm_types import VmFault


class DaxBefore(Dax):
    """A hole's entry is built here, and only where nothing is yet.

    Source: fs/dax.c, v6.17.
    """

    __slots__ = ()

    def dax_pmd_load_hole(self, vmf: VmFault, entry: Entry) -> int:
        """Map the huge zero folio where a hole is read; not over anything.

        Source: fs/dax.c, dax_pmd_load_hole()
        """
        vma = vmf.vma
        zero = self._kernel.huge_memory.mm_get_huge_zero_folio(vma.mm)
        if zero is None:
            return self._fallback()
        self.dax_insert_entry(vmf, entry, zero, ZERO)
        store = self._kernel.pgtable_generic
        spare = None
        if store.arch_needs_pgtable_deposit:
            spare = self._kernel.page_alloc.alloc_table("PTE table")
            if spare is None:
                return VM_FAULT_OOM
        ptl = self._kernel.memory.pmd_lockptr(vmf.pmd)
        ptl.acquire()
        if not pte_none(self._pgtable.read(vmf.pmd)):
            ptl.release()
            if spare is not None:
                self._kernel.page_alloc.free(spare)
            return self._fallback()
        if spare is not None:
            store.pgtable_trans_huge_deposit(vmf.pmd, spare)
            vma.mm.pgtables[3] += 1
        pmd = self._pgtable.mk_huge_pmd(zero.pfn, vma.page_prot)
        self._pgtable.set_pte(vmf.pmd, pmd)
        ptl.release()
        self._trace("dax_pmd_load_hole", VM_FAULT_NOPAGE)
        return VM_FAULT_NOPAGE

    def _fallback(self) -> int:
        """Say that pages must do."""
        self._trace("dax_pmd_load_hole_fallback", VM_FAULT_FALLBACK)
        return VM_FAULT_FALLBACK


PATCH = Patch(
    commit="b0f86aaebed1fc2bdc7475b14675ebc9d542e5d3",
    subject="DAX: a hole fault inserts the huge zero folio by vmf_insert_folio_pmd()",
    series=series.NORMAL_PAGE,
    kind=Kind.CLEAN_UP,
    role=Role.PULL_REQUEST,
    author="David Hildenbrand",
    release="v6.18",
    touches={"fs/dax.c": ("dax_pmd_load_hole",)},
    chapter="book/commits/huge-zero-folio.md",
    sources=(
        "mainline b0f86aaebed1",
        "Message-ID 20250811112631.759341-5-david@redhat.com (v3 4/11)",
    ),
    needs={
        "5528ef06da01": "without it the insertion would count the huge zero folio",
    },
    note=(
        "Behaviour changes where something is mapped already: the fault is now "
        "answered as done, before it fell back and the caller split the PMD. The "
        "changelog calls the case theoretical, and a reviewer never managed to reach "
        "it."
    ),
    reverts={"dax": DaxBefore},
)
