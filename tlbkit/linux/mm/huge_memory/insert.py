"""Blocks that a driver or a file system hands in while it handles a fault.

Two things can be mapped: a folio, which is counted like every page that is mapped, and
a bare frame number, of which nothing is counted and whose entry is therefore marked
special. Both insertions check what only concerns them, and leave the rest to one
function for each level.
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
from tlbkit.linux.mm.huge_memory.split import HugeSplit

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import VmArea, VmFault


class HugeInsert(HugeSplit):
    """Maps what somebody else chose, by one PMD entry or by one PUD entry.

    Everything here is called during a fault, under the mmap lock or the area's own. The
    table's lock is taken here, and released. That something is mapped already is no
    error: the access is repeated, and finds it.
    """

    __slots__ = ()

    # -- PMD -------------------------------------------------------------------------

    def vmf_insert_pfn_pmd(self, vmf: VmFault, pfn: int, *, write: bool) -> int:
        """Map the block of frames from *pfn* on, which are not counted.

        Args:
            vmf: The fault; its area is marked ``VM_PFNMAP`` or ``VM_MIXEDMAP``.
            pfn: Aligned to a block.
            write: The access is a write: make the entry dirty, and writable if the
                area is.

        Returns:
            ``VM_FAULT_NOPAGE``, also if something was there; ``VM_FAULT_SIGBUS`` if the
            block begins before the area; ``VM_FAULT_OOM``.
        """
        self.bug_on_wrong_area(vmf.vma)
        prot = self._cache_mode(pfn, vmf.vma.page_prot)
        addr = vmf.address & -self._pgtable.pmd_size
        return self.insert_pmd(vmf.vma, addr, vmf.pmd, pfn, prot, write=write)

    def vmf_insert_folio_pmd(self, vmf: VmFault, folio: Folio, *, write: bool) -> int:
        """Map a folio of the size of a block; count it unless it is the huge zero.

        Who maps the huge zero folio holds it for the process already, and does not ask
        for a writable entry.

        Returns:
            As `vmf_insert_pfn_pmd`; ``VM_FAULT_SIGBUS`` also for a folio of another
            size.
        """
        if folio.order != self._pgtable.hpage_pmd_order:
            self._kernel.panic.warn_on_once("vmf_insert_folio_pmd", "wrong order")
            return VM_FAULT_SIGBUS
        prot = vmf.vma.page_prot
        addr = vmf.address & -self._pgtable.pmd_size
        return self.insert_pmd(vmf.vma, addr, vmf.pmd, folio, prot, write=write)

    def insert_pmd(
        self,
        vma: VmArea,
        addr: int,
        pmdp: int,
        what: Folio | int,
        prot: int,
        *,
        write: bool,
    ) -> int:
        """Map *what* at a PMD entry: check the range, bring the spare table, and lock.

        Args:
            vma: The area.
            addr: Where the block begins.
            pmdp: Where the entry stands.
            what: A folio of the size of a block, or the first of its frames.
            prot: What the entry of frames starts from; a folio's starts from the
                area's.
            write: As for `vmf_insert_pfn_pmd`.

        Returns:
            ``VM_FAULT_NOPAGE``, ``VM_FAULT_SIGBUS`` or ``VM_FAULT_OOM``.
        """
        if not vma.start <= addr < vma.end:
            return VM_FAULT_SIGBUS
        spare = None
        if self._kernel.pgtable_generic.arch_needs_pgtable_deposit:
            spare = self._kernel.page_alloc.alloc_table("PTE table")
            if spare is None:
                return VM_FAULT_OOM
        with self._kernel.memory.pmd_lockptr(pmdp):
            if not pte_none(self._pgtable.read(pmdp)):
                self.insert_over_pmd(vma, addr, pmdp, what, write=write)
            else:
                entry = self.new_pmd(vma, what, prot, write=write)
                if spare is not None:
                    self._deposit(vma.mm, pmdp, spare)
                    spare = None
                self._pgtable.set_pte(pmdp, entry)
        if spare is not None:
            self._kernel.page_alloc.free(spare)
        return VM_FAULT_NOPAGE

    def insert_over_pmd(
        self, vma: VmArea, addr: int, pmdp: int, what: Folio | int, *, write: bool
    ) -> None:
        """Let an entry that is there already allow a write, if it maps *what*.

        The entry may be a block, a table, or a note of a migration; what is compared is
        where the bits of a frame number are in each.
        """
        entry = self._pgtable.read(pmdp)
        if not write:
            return
        if self._pgtable.pmd_pfn(entry) != first_frame(what):
            if not self.is_huge_zero_pmd(entry):
                self._kernel.panic.warn_on_once("insert_pmd", "another frame is mapped")
            return
        self._allow_write(vma, addr, pmdp, entry)

    def new_pmd(self, vma: VmArea, what: Folio | int, prot: int, *, write: bool) -> int:
        """Return an entry that maps *what*, and count it if it is counted."""
        if not isinstance(what, Folio):
            entry = self._pgtable.pmd_mkspecial(self._pgtable.mk_huge_pmd(what, prot))
        else:
            entry = self._pgtable.mk_huge_pmd(what.pfn, vma.page_prot)
            if what is self.huge_zero_folio:
                entry = self._pgtable.pmd_mkspecial(entry)
            else:
                self.count_block(vma, what)
        return self._written(vma, entry) if write else entry

    def count_block(self, vma: VmArea, folio: Folio) -> None:
        """Count one more block entry that maps a file's folio."""
        folio.refcount += 1
        self._kernel.rmap.folio_add_file_rmap_pmd(folio, vma)
        self._kernel.swap.inc_file_counter(vma.mm, folio, folio.nr_pages)

    # -- PUD -------------------------------------------------------------------------

    def vmf_insert_pfn_pud(self, vmf: VmFault, pfn: int, *, write: bool) -> int:
        """Map the frames from *pfn* on by a PUD entry: `vmf_insert_pfn_pmd`, larger."""
        self.bug_on_wrong_area(vmf.vma)
        prot = self._cache_mode(pfn, vmf.vma.page_prot)
        addr = vmf.address & -self._pgtable.pud_size
        return self.insert_pud(vmf.vma, addr, vmf.pud, pfn, prot, write=write)

    def vmf_insert_folio_pud(self, vmf: VmFault, folio: Folio, *, write: bool) -> int:
        """Map a folio of the size of a PUD's block, and count it."""
        if folio.order != self._pgtable.hpage_pud_order:
            self._kernel.panic.warn_on_once("vmf_insert_folio_pud", "wrong order")
            return VM_FAULT_SIGBUS
        prot = vmf.vma.page_prot
        addr = vmf.address & -self._pgtable.pud_size
        return self.insert_pud(vmf.vma, addr, vmf.pud, folio, prot, write=write)

    def insert_pud(
        self,
        vma: VmArea,
        addr: int,
        pudp: int,
        what: Folio | int,
        prot: int,
        *,
        write: bool,
    ) -> int:
        """Map *what* at a PUD entry: `insert_pmd` without tables in store or zeros.

        Returns:
            ``VM_FAULT_NOPAGE`` or ``VM_FAULT_SIGBUS``.
        """
        if not vma.start <= addr < vma.end:
            return VM_FAULT_SIGBUS
        with self._kernel.memory.pud_lockptr(vma.mm):
            if not pte_none(self._pgtable.read(pudp)):
                self.insert_over_pud(vma, addr, pudp, what, write=write)
            else:
                entry = self.new_pud(vma, what, prot, write=write)
                self._pgtable.set_pte(pudp, entry)
        return VM_FAULT_NOPAGE

    def insert_over_pud(
        self, vma: VmArea, addr: int, pudp: int, what: Folio | int, *, write: bool
    ) -> None:
        """Let an entry that is there already allow a write, if it maps *what*."""
        entry = self._pgtable.read(pudp)
        if not write:
            return
        if self._pgtable.pud_pfn(entry) != first_frame(what):
            self._kernel.panic.warn_on_once("insert_pud", "another frame is mapped")
            return
        self._allow_write(vma, addr, pudp, entry)

    def new_pud(self, vma: VmArea, what: Folio | int, prot: int, *, write: bool) -> int:
        """Return an entry that maps *what*, and count it if it is counted.

        arm64 cannot mark a PUD entry special, and `pud_mkspecial` does nothing there.
        """
        if not isinstance(what, Folio):
            entry = self._pgtable.pud_mkspecial(self._pgtable.mk_huge_pmd(what, prot))
        else:
            entry = self._pgtable.mk_huge_pmd(what.pfn, vma.page_prot)
            what.refcount += 1
            self._kernel.rmap.folio_add_file_rmap_pud(what, vma)
            self._kernel.swap.inc_file_counter(vma.mm, what, what.nr_pages)
        return self._written(vma, entry) if write else entry

    # -- both ------------------------------------------------------------------------

    @staticmethod
    def bug_on_wrong_area(vma: VmArea) -> None:
        """Stop the kernel if frames may not be mapped into *vma*: BUG_ON(), thrice."""
        pfnmap = bool(vma.flags & VM_PFNMAP)
        mixedmap = bool(vma.flags & VM_MIXEDMAP)
        if pfnmap == mixedmap:
            raise BugError("frames need an area with either VM_PFNMAP or VM_MIXEDMAP")
        if pfnmap and is_cow_mapping(vma.flags):
            raise BugError("a block of frames in a private, writable VM_PFNMAP area")

    def _cache_mode(self, pfn: int, prot: int) -> int:
        """Return *prot* with the memory type that somebody has set for the frames."""
        return self._kernel.pgtable_generic.pfnmap_setup_cachemode_pfn(pfn, prot)

    def _written(self, vma: VmArea, entry: int) -> int:
        """Return a new entry as a write leaves it, writable only if its area is."""
        return self._kernel.memory.maybe_mkwrite(pte_mkdirty(pte_mkyoung(entry)), vma)

    def _allow_write(self, vma: VmArea, addr: int, entryp: int, entry: int) -> None:
        """Do so with an entry in place."""
        self._kernel.fault.pmdp_set_access_flags(
            vma, addr, entryp, self._written(vma, entry), dirty=True
        )


def first_frame(what: Folio | int) -> int:
    """Return the frame number at which a folio, or a block of frames, begins."""
    return what.pfn if isinstance(what, Folio) else what
