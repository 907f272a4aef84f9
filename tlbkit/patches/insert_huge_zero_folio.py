"""5528ef06da01: ``vmf_insert_folio_pmd()`` takes the huge zero folio, uncounted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pte_mkdirty,
    pte_mkyoung,
    pte_none,
)
from tlbkit.linux.include.linux.mm import VM_FAULT_NOPAGE, VM_FAULT_OOM, VM_FAULT_SIGBUS
from tlbkit.linux.include.linux.mm_types import Folio
from tlbkit.linux.mm.huge_memory import HugeMemory
from tlbkit.linux.mm.huge_memory.insert import first_frame
from tlbkit.patches import series
from tlbkit.patches.patch import Kind, Patch, Role

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import VmArea


class HugeMemoryBefore(HugeMemory):
    """A folio is a folio: the huge zero folio would be counted like every other.

    Source: mm/huge_memory.c, just before the commit.
    """

    __slots__ = ()

    def insert_pmd(
        self,
        vma: VmArea,
        addr: int,
        pmd: int,
        fop: Folio | int,
        prot: int,
        *,
        write: bool,
    ) -> int:
        """Map *fop* at a PMD entry, and count it if it is a folio.

        Source: mm/huge_memory.c, insert_pmd(), just before the commit
        """
        kernel = self._kernel
        if not vma.start <= addr < vma.end:
            return VM_FAULT_SIGBUS
        pgtable = None
        if kernel.pgtable_generic.arch_needs_pgtable_deposit:
            pgtable = kernel.page_alloc.alloc_table("PTE table")
            if pgtable is None:
                return VM_FAULT_OOM
        with kernel.memory.pmd_lockptr(pmd):
            entry = self._pgtable.read(pmd)
            if not pte_none(entry):
                if not write:
                    pass
                elif self._pgtable.pmd_pfn(entry) == first_frame(fop):
                    entry = pte_mkdirty(pte_mkyoung(entry))
                    entry = kernel.memory.maybe_mkwrite(entry, vma)
                    kernel.fault.pmdp_set_access_flags(
                        vma, addr, pmd, entry, dirty=True
                    )
                elif not self.is_huge_zero_pmd(entry):
                    kernel.panic.warn_on_once("insert_pmd", "another frame is mapped")
            else:
                if isinstance(fop, Folio):
                    entry = self._pgtable.mk_huge_pmd(fop.pfn, vma.page_prot)
                    fop.refcount += 1
                    kernel.rmap.folio_add_file_rmap_pmd(fop, vma)
                    kernel.swap.inc_file_counter(vma.mm, fop, fop.nr_pages)
                else:
                    entry = self._pgtable.mk_huge_pmd(fop, prot)
                    entry = self._pgtable.pmd_mkspecial(entry)
                if write:
                    entry = pte_mkyoung(pte_mkdirty(entry))
                    entry = kernel.memory.maybe_mkwrite(entry, vma)
                if pgtable is not None:
                    kernel.pgtable_generic.pgtable_trans_huge_deposit(pmd, pgtable)
                    vma.mm.pgtables[3] += 1
                    pgtable = None
                self._pgtable.set_pte(pmd, entry)
        if pgtable is not None:
            kernel.page_alloc.free(pgtable)
        return VM_FAULT_NOPAGE


PATCH = Patch(
    commit="5528ef06da011aa35fc9704127e41a154649a6df",
    subject="THP: the huge zero folio may be inserted by PMD, and is not counted",
    series=series.NORMAL_PAGE,
    kind=Kind.CLEAN_UP,
    role=Role.PULL_REQUEST,
    author="David Hildenbrand",
    release="v6.18",
    touches={"mm/huge_memory.c": ("insert_pmd",)},
    chapter="book/commits/huge-zero-folio.md",
    sources=(
        "mainline 5528ef06da01",
        "Message-ID 20250811112631.759341-4-david@redhat.com (v3 3/11)",
    ),
    needs={"b7298e418e29": "it changes insert_pmd() in the form given to it there"},
    note=(
        "The insertion does not ignore a write for the huge zero folio; its only "
        "caller in the tree asks for a read-only mapping."
    ),
    reverts={"huge_memory": HugeMemoryBefore},
)
