"""Faults of areas that map files, or what a driver gives them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pte_mkdirty,
    pte_mkold,
    pte_mkuffd_wp,
    pte_mkyoung,
    pte_none,
    pte_write,
)
from tlbkit.linux.include.linux.mm import (
    FAULT_FLAG_WRITE,
    VM_FAULT_DONE_COW,
    VM_FAULT_ERROR,
    VM_FAULT_LOCKED,
    VM_FAULT_NOPAGE,
    VM_FAULT_OOM,
    VM_FAULT_RETRY,
    VM_FAULT_SIGBUS,
    VM_SHARED,
)
from tlbkit.linux.include.linux.mm_types import PG_dirty
from tlbkit.linux.include.linux.pagemap import folio_lock, folio_unlock
from tlbkit.linux.include.linux.swapops import PTE_MARKER_UFFD_WP, pte_marker_get
from tlbkit.linux.include.linux.userfaultfd_k import (
    uffd_disable_fault_around,
    userfaultfd_armed,
)
from tlbkit.linux.mm.memory.wp import MemoryWrite

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import Folio, VmFault

FAULT_AROUND_BYTES: Final = 64 << 10
"""How much a read fault maps of what is in memory: fault_around_bytes."""
_NOTHING_MORE: Final = VM_FAULT_ERROR | VM_FAULT_NOPAGE | VM_FAULT_RETRY


class MemoryFile(MemoryWrite):
    """Maps pages that somebody else finds: a file, shared memory, a driver."""

    __slots__ = ()

    def do_fault(self, vmf: VmFault) -> int:
        """Handle a fault on an entry that is empty, in an area that has an owner."""
        vma = vmf.vma
        assert vma.ops is not None
        if not vma.ops.has("fault"):
            return VM_FAULT_SIGBUS
        if not vmf.flags & FAULT_FLAG_WRITE:
            result = self.do_read_fault(vmf)
        elif not vma.flags & VM_SHARED:
            result = self.do_cow_fault(vmf)
        else:
            result = self.do_shared_fault(vmf)
        if vmf.prealloc_pte is not None:
            self._kernel.page_alloc.free(vmf.prealloc_pte)
            vmf.prealloc_pte = None
        return result

    def do_read_fault(self, vmf: VmFault) -> int:
        """Map a page to be read, and around it what is in memory already."""
        if self.should_fault_around(vmf):
            result = self.do_fault_around(vmf)
            if result:
                return result
        result = self.do_fault_(vmf)
        if result & _NOTHING_MORE:
            return result
        result |= self.finish_fault(vmf)
        self._unlock_page(vmf)
        if result & _NOTHING_MORE:
            self._put_page(vmf)
        return result

    def do_cow_fault(self, vmf: VmFault) -> int:
        """Map a private copy of a page of a file, which is about to be written."""
        self._kernel.rmap.anon_vma_prepare(vmf.vma)
        copy = self._kernel.page_alloc.alloc()
        if copy is None:
            return VM_FAULT_OOM
        vmf.cow_page = copy
        result = self.do_fault_(vmf)
        if not result & _NOTHING_MORE and not result & VM_FAULT_DONE_COW:
            page = vmf.page
            assert page is not None
            self._memory.copy_frame(page.pfn + vmf.pgoff - page.index, copy.pfn)
            result |= self.finish_fault(vmf)
            self._unlock_page(vmf)
            self._put_page(vmf)
        if result & _NOTHING_MORE:
            self._kernel.swap.folio_put(copy)
        return result

    def do_shared_fault(self, vmf: VmFault) -> int:
        """Map a page of a shared area that is about to be written."""
        vma = vmf.vma
        assert vma.ops is not None
        result = self.do_fault_(vmf)
        if result & _NOTHING_MORE:
            return result
        if vma.ops.has("page_mkwrite"):
            self._unlock_page(vmf)
            told = self.do_page_mkwrite(vmf)
            if not told or told & (VM_FAULT_ERROR | VM_FAULT_NOPAGE):
                self._put_page(vmf)
                return told
        result |= self.finish_fault(vmf)
        if result & _NOTHING_MORE:
            self._unlock_page(vmf)
            self._put_page(vmf)
            return result
        return result | self.fault_dirty_shared_page(vmf)

    # -- around ----------------------------------------------------------------------

    def should_fault_around(self, vmf: VmFault) -> bool:
        """Tell whether a read fault may map more than it was for.

        Not if somebody wants to hear of each page.
        """
        assert vmf.vma.ops is not None
        if not vmf.vma.ops.has("map_pages") or uffd_disable_fault_around(vmf.vma):
            return False
        return self._pgtable.page_size < FAULT_AROUND_BYTES

    def do_fault_around(self, vmf: VmFault) -> int:
        """Map what is in memory around a fault, within area, table and 64 KiB."""
        pgtable = self._pgtable
        vma = vmf.vma
        assert vma.ops is not None
        nr = FAULT_AROUND_BYTES // pgtable.page_size
        place = vmf.address % pgtable.pmd_size // pgtable.page_size
        before = vmf.pgoff - vma.pgoff
        pages = (vma.end - vma.start) // pgtable.page_size
        first = max(place // nr * nr, place - min(place, before))
        last = min(first + nr, pgtable.ptrs_per_pte, place + pages - before) - 1
        if not self.pte_alloc(vma.mm, vmf.pmd):
            return VM_FAULT_OOM
        return vma.ops.map_pages(
            vmf, vmf.pgoff + first - place, vmf.pgoff + last - place
        )

    # -- the owner is asked ----------------------------------------------------------

    def do_fault_(self, vmf: VmFault) -> int:
        """Ask the owner for the page; it comes locked, in ``vmf.page``.

        A page table is set aside first, because memory must not be looked for while the
        page is locked.
        """
        assert vmf.vma.ops is not None
        if pte_none(self._pgtable.read(vmf.pmd)) and vmf.prealloc_pte is None:
            vmf.prealloc_pte = self._kernel.page_alloc.alloc_table("PTE table")
            if vmf.prealloc_pte is None:
                return VM_FAULT_OOM
        result = vmf.vma.ops.fault(vmf)
        if result & (_NOTHING_MORE | VM_FAULT_DONE_COW):
            return result
        if not result & VM_FAULT_LOCKED:
            assert vmf.page is not None
            folio_lock(self._machine, vmf.page)
        return result | VM_FAULT_LOCKED

    # -- the entry -------------------------------------------------------------------

    def finish_fault(self, vmf: VmFault) -> int:
        """Map the page of a fault: the owner's, or its private copy.

        The reference to it goes over to the entry. A large folio of shared memory is
        mapped as a whole where it fits; of any other only the page that was asked for,
        so that the resident set holds what is used.
        """
        vma = vmf.vma
        pgtable = self._pgtable
        cow = bool(vmf.flags & FAULT_FLAG_WRITE) and not vma.flags & VM_SHARED
        folio = vmf.cow_page if cow else vmf.page
        assert folio is not None
        if not self._install_table(vmf):
            return VM_FAULT_OOM
        pfn = folio.pfn if cow else folio.pfn + vmf.pgoff - folio.index
        nr, addr = 1, vmf.address
        if not cow:
            nr, addr = self._whole_folio(vmf, folio)
        if nr > 1:
            pfn = folio.pfn
        while True:
            found = self._kernel.pgtable_generic.pte_offset_map_lock(
                vma.mm, vmf.pmd, addr
            )
            if found is None:
                return VM_FAULT_NOPAGE
            vmf.pte, vmf.ptl = found
            if nr == 1 or self.pte_range_none(vmf.pte, nr):
                break
            vmf.ptl.release()
            nr, addr, pfn = 1, vmf.address, folio.pfn + vmf.pgoff - folio.index
        if nr == 1 and pgtable.read(vmf.pte) != vmf.orig_pte:
            vmf.ptl.release()
            return VM_FAULT_NOPAGE
        folio.refcount += nr - 1
        self.set_pte_range(vmf, folio, pfn, nr, addr)
        if cow:
            vma.mm.anonpages += nr
        else:
            self._kernel.swap.inc_file_counter(vma.mm, folio, nr)
        vmf.ptl.release()
        return 0

    def _install_table(self, vmf: VmFault) -> bool:
        """Make sure that there is a page table; false without memory."""
        if vmf.prealloc_pte is not None and self.pmd_install(
            vmf.vma.mm, vmf.pmd, vmf.prealloc_pte
        ):
            vmf.prealloc_pte = None
        return self.pte_alloc(vmf.vma.mm, vmf.pmd)

    def _whole_folio(self, vmf: VmFault, folio: Folio) -> tuple[int, int]:
        """Return how many pages of *folio* can be mapped at once, and from where."""
        pgtable = self._pgtable
        vma = vmf.vma
        assert vma.ops is not None
        nr = folio.nr_pages
        if nr == 1 or not vma.ops.is_shmem or userfaultfd_armed(vma):
            return 1, vmf.address
        start = vmf.address - (vmf.pgoff - folio.index) * pgtable.page_size
        end = start + nr * pgtable.page_size
        table = vmf.address & -pgtable.pmd_size
        if start < max(vma.start, table) or end > min(
            vma.end, table + pgtable.pmd_size
        ):
            return 1, vmf.address
        return nr, start

    def set_pte_range(
        self, vmf: VmFault, folio: Folio, pfn: int, nr: int, addr: int
    ) -> None:
        """Store the entries of *nr* pages of a folio from frame *pfn* on, at *addr*.

        What was not asked for is stored old, where the hardware sets access flags: so
        it is not taken for used. The table is locked; the caller counts.
        """
        vma = vmf.vma
        pgtable = self._pgtable
        size = nr * pgtable.page_size
        entry = pgtable.pfn_pte(pfn, vma.page_prot)
        asked = addr <= vmf.address < addr + size
        if not asked and self._machine.model.hw_af:  # arch_wants_old_prefaulted_pte()
            entry = pte_mkold(entry)
        else:
            entry = pte_mkyoung(entry)
        write = bool(vmf.flags & FAULT_FLAG_WRITE)
        if write:
            entry = self.maybe_mkwrite(pte_mkdirty(entry), vma)
        elif pte_write(entry) and folio.flags & PG_dirty:
            entry = pte_mkdirty(entry)
        if pte_marker_get(vmf.orig_pte) & PTE_MARKER_UFFD_WP:
            entry = pte_mkuffd_wp(entry)
        if write and not vma.flags & VM_SHARED:
            self._kernel.rmap.folio_add_new_anon_rmap(folio, vma, addr)
            self._kernel.swap.folio_add_lru(folio)
        else:
            self._kernel.rmap.folio_add_file_rmap_ptes(folio, pfn, nr, vma)
        assert vmf.pte is not None
        pgtable.set_ptes(vma.mm, addr, vmf.pte, entry, nr)

    def pte_range_none(self, ptep: int, nr: int) -> bool:
        """Tell whether *nr* entries are all empty."""
        return not any(self._memory.read(ptep + n * 8) for n in range(nr))

    def _unlock_page(self, vmf: VmFault) -> None:
        assert vmf.page is not None
        folio_unlock(self._machine, vmf.page)

    def _put_page(self, vmf: VmFault) -> None:
        assert vmf.page is not None
        self._kernel.swap.folio_put(vmf.page)
