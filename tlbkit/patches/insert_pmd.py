"""b7298e418e29: what both PMD insertions repeated moves into ``insert_pmd()``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pte_mkdirty,
    pte_mkyoung,
    pte_none,
)
from tlbkit.linux.include.linux.mm import (
    VM_FAULT_NOPAGE,
    VM_FAULT_OOM,
    VM_FAULT_SIGBUS,
)
from tlbkit.linux.include.linux.mm_types import Folio
from tlbkit.linux.include.uapi.asm_generic.errno import EEXIST
from tlbkit.linux.mm.huge_memory import HugeMemory
from tlbkit.linux.mm.huge_memory.insert import bug_on_wrong_vma, first_frame
from tlbkit.patches import series
from tlbkit.patches.patch import Kind, Patch, Role

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import VmArea, VmFault


class HugeMemoryBefore(HugeMemory):
    """Each insertion checks the range, brings the table and locks by itself.

    Source: mm/huge_memory.c, v6.17.
    """

    __slots__ = ()

    def insert_pmd(  # type: ignore[override] # the table came from outside
        self,
        vma: VmArea,
        addr: int,
        pmd: int,
        fop: Folio | int,
        prot: int,
        pgtable: Folio | None,
        *,
        write: bool,
    ) -> int:
        """Map *fop* at a PMD entry; the PTL is held.

        Returns:
            0 if the table, if any, is deposited; ``-EEXIST`` if it is left over.
            Callers tell nobody else.

        Source: mm/huge_memory.c, insert_pmd(), v6.17
        """
        kernel = self._kernel
        kernel.memory.pmd_lockptr(pmd).assert_held()
        entry = self._pgtable.read(pmd)
        if not pte_none(entry):
            if not write:
                return -EEXIST
            if self._pgtable.pmd_pfn(entry) != first_frame(fop):
                if not self.is_huge_zero_pmd(entry):
                    kernel.panic.warn_on_once("insert_pmd", "another frame is mapped")
                return -EEXIST
            entry = pte_mkdirty(pte_mkyoung(entry))
            entry = kernel.memory.maybe_mkwrite(entry, vma)
            kernel.fault.pmdp_set_access_flags(vma, addr, pmd, entry, dirty=True)
            return -EEXIST
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
        self._pgtable.set_pte(pmd, entry)
        return 0

    def vmf_insert_pfn_pmd(self, vmf: VmFault, pfn: int, *, write: bool) -> int:
        """Map frames by a PMD entry.

        Source: mm/huge_memory.c, vmf_insert_pfn_pmd(), v6.17
        """
        vma = vmf.vma
        addr = vmf.address & -self._pgtable.pmd_size
        bug_on_wrong_vma(vma)
        if addr < vma.start or addr >= vma.end:
            return VM_FAULT_SIGBUS
        pgtable = None
        if self._kernel.pgtable_generic.arch_needs_pgtable_deposit:
            pgtable = self._kernel.page_alloc.alloc_table("PTE table")
            if pgtable is None:
                return VM_FAULT_OOM
        pgprot = self._kernel.pgtable_generic.pfnmap_setup_cachemode_pfn(
            pfn, vma.page_prot
        )
        with self._kernel.memory.pmd_lockptr(vmf.pmd):
            error = self.insert_pmd(
                vma, addr, vmf.pmd, pfn, pgprot, pgtable, write=write
            )
        if error and pgtable is not None:
            self._kernel.page_alloc.free(pgtable)
        return VM_FAULT_NOPAGE

    def vmf_insert_folio_pmd(self, vmf: VmFault, folio: Folio, *, write: bool) -> int:
        """Map a folio of the size of a PMD.

        Source: mm/huge_memory.c, vmf_insert_folio_pmd(), v6.17
        """
        vma = vmf.vma
        addr = vmf.address & -self._pgtable.pmd_size
        if addr < vma.start or addr >= vma.end:
            return VM_FAULT_SIGBUS
        if folio.order != self._pgtable.hpage_pmd_order:
            self._kernel.panic.warn_on_once("vmf_insert_folio_pmd", "wrong order")
            return VM_FAULT_SIGBUS
        pgtable = None
        if self._kernel.pgtable_generic.arch_needs_pgtable_deposit:
            pgtable = self._kernel.page_alloc.alloc_table("PTE table")
            if pgtable is None:
                return VM_FAULT_OOM
        with self._kernel.memory.pmd_lockptr(vmf.pmd):
            error = self.insert_pmd(
                vma, addr, vmf.pmd, folio, vma.page_prot, pgtable, write=write
            )
        if error and pgtable is not None:
            self._kernel.page_alloc.free(pgtable)
        return VM_FAULT_NOPAGE


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
