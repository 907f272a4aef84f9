"""Huge pages that a driver or a file system hands in while it handles a fault.

Two things can be mapped: a folio, which is counted like every page that is mapped, and
a bare frame number, of which nothing is counted and whose entry is therefore special.
Both insertions check what only concerns them, and leave the rest to one function for
each level.
"""

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
    VM_MIXEDMAP,
    VM_PFNMAP,
    is_cow_mapping,
)
from tlbkit.linux.include.linux.mm_types import Folio
from tlbkit.linux.kernel.panic import BugError
from tlbkit.linux.mm.huge_memory.fault import HugeFault

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import VmArea, VmFault


class HugeInsert(HugeFault):
    """Maps what somebody else chose, by one PMD entry or by one PUD entry.

    Everything here is called during a fault, under the mmap lock or the VMA's own. The
    PTL is taken here, and released. That something is mapped already is no error: the
    access is repeated, and finds it.

    What to map is a folio, or the first frame of a range: the kernel's folio_or_pfn.
    """

    __slots__ = ()

    # -- PMD -------------------------------------------------------------------------

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
        """Map *fop* at a PMD entry.

        What is there already may be a huge page, a table, or a migration entry: what is
        compared is where the bits of a frame number are in each.

        Args:
            vma: The VMA.
            addr: Where the huge page begins.
            pmd: Where the entry stands.
            fop: A folio of the size of a huge page, or the first of its frames.
            prot: What the entry of frames starts from; a folio's starts from the VMA's.
            write: As for `vmf_insert_pfn_pmd`.

        Returns:
            ``VM_FAULT_NOPAGE``, ``VM_FAULT_SIGBUS`` or ``VM_FAULT_OOM``.

        Source: mm/huge_memory.c, insert_pmd()
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
                    if self.is_huge_zero_folio(fop):
                        entry = self._pgtable.pmd_mkspecial(entry)
                    else:
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

    def vmf_insert_pfn_pmd(self, vmf: VmFault, pfn: int, *, write: bool) -> int:
        """Map the frames from *pfn* on by a PMD entry; they are not counted.

        Args:
            vmf: The fault; its VMA is marked ``VM_PFNMAP`` or ``VM_MIXEDMAP``.
            pfn: Aligned to a huge page.
            write: The access is a write: make the entry dirty, and writable if the VMA
                is.

        Returns:
            ``VM_FAULT_NOPAGE``, also if something was there; ``VM_FAULT_SIGBUS`` if the
            huge page begins before the VMA; ``VM_FAULT_OOM``.

        Source: mm/huge_memory.c, vmf_insert_pfn_pmd()
        """
        addr = vmf.address & -self._pgtable.pmd_size
        bug_on_wrong_vma(vmf.vma)
        pgprot = self._kernel.pgtable_generic.pfnmap_setup_cachemode_pfn(
            pfn, vmf.vma.page_prot
        )
        return self.insert_pmd(vmf.vma, addr, vmf.pmd, pfn, pgprot, write=write)

    def vmf_insert_folio_pmd(self, vmf: VmFault, folio: Folio, *, write: bool) -> int:
        """Map a folio of the size of a PMD; count it unless it is the huge zero folio.

        Who maps the huge zero folio holds it for the process already, and does not ask
        for a writable entry.

        Returns:
            As `vmf_insert_pfn_pmd`; ``VM_FAULT_SIGBUS`` also for a folio of another
            size.

        Source: mm/huge_memory.c, vmf_insert_folio_pmd()
        """
        addr = vmf.address & -self._pgtable.pmd_size
        if folio.order != self._pgtable.hpage_pmd_order:
            self._kernel.panic.warn_on_once("vmf_insert_folio_pmd", "wrong order")
            return VM_FAULT_SIGBUS
        prot = vmf.vma.page_prot
        return self.insert_pmd(vmf.vma, addr, vmf.pmd, folio, prot, write=write)

    # -- PUD -------------------------------------------------------------------------

    def insert_pud(
        self,
        vma: VmArea,
        addr: int,
        pud: int,
        fop: Folio | int,
        prot: int,
        *,
        write: bool,
    ) -> int:
        """Map *fop* at a PUD entry: `insert_pmd` without deposited tables or zeros.

        arm64 has no special bit in a PUD entry, and ``pud_mkspecial()`` does nothing.

        Returns:
            ``VM_FAULT_NOPAGE`` or ``VM_FAULT_SIGBUS``.

        Source: mm/huge_memory.c, insert_pud()
        """
        kernel = self._kernel
        if not vma.start <= addr < vma.end:
            return VM_FAULT_SIGBUS
        with kernel.memory.pud_lockptr(vma.mm):
            entry = self._pgtable.read(pud)
            if not pte_none(entry):
                if not write:
                    return VM_FAULT_NOPAGE
                if self._pgtable.pud_pfn(entry) != first_frame(fop):
                    kernel.panic.warn_on_once("insert_pud", "another frame is mapped")
                    return VM_FAULT_NOPAGE
                entry = pte_mkdirty(pte_mkyoung(entry))
                entry = kernel.memory.maybe_mkwrite(entry, vma)
                kernel.fault.pmdp_set_access_flags(vma, addr, pud, entry, dirty=True)
                return VM_FAULT_NOPAGE
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
        return VM_FAULT_NOPAGE

    def vmf_insert_pfn_pud(self, vmf: VmFault, pfn: int, *, write: bool) -> int:
        """Map the frames from *pfn* on by a PUD entry: `vmf_insert_pfn_pmd`, larger.

        Source: mm/huge_memory.c, vmf_insert_pfn_pud()
        """
        addr = vmf.address & -self._pgtable.pud_size
        bug_on_wrong_vma(vmf.vma)
        pgprot = self._kernel.pgtable_generic.pfnmap_setup_cachemode_pfn(
            pfn, vmf.vma.page_prot
        )
        return self.insert_pud(vmf.vma, addr, vmf.pud, pfn, pgprot, write=write)

    def vmf_insert_folio_pud(self, vmf: VmFault, folio: Folio, *, write: bool) -> int:
        """Map a folio of the size of a PUD, and count it.

        Source: mm/huge_memory.c, vmf_insert_folio_pud()
        """
        addr = vmf.address & -self._pgtable.pud_size
        if folio.order != self._pgtable.hpage_pud_order:
            self._kernel.panic.warn_on_once("vmf_insert_folio_pud", "wrong order")
            return VM_FAULT_SIGBUS
        prot = vmf.vma.page_prot
        return self.insert_pud(vmf.vma, addr, vmf.pud, folio, prot, write=write)


def bug_on_wrong_vma(vma: VmArea) -> None:
    """Stop the kernel if frames may not be mapped into *vma* by a huge entry.

    Source: mm/huge_memory.c, the three BUG_ON() of vmf_insert_pfn_pmd() and _pud()
    """
    pfnmap = bool(vma.flags & VM_PFNMAP)
    mixedmap = bool(vma.flags & VM_MIXEDMAP)
    if pfnmap == mixedmap:
        raise BugError("frames need an area with either VM_PFNMAP or VM_MIXEDMAP")
    if pfnmap and is_cow_mapping(vma.flags):
        raise BugError("a block of frames in a private, writable VM_PFNMAP area")


def first_frame(fop: Folio | int) -> int:
    """Return the frame number at which a folio, or a range of frames, begins.

    Source: none; it asks struct folio_or_pfn which of both it holds.
    """
    return fop.pfn if isinstance(fop, Folio) else fop
