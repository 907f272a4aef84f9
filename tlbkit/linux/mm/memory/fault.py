"""Faults: the part of mm/memory.c from do_swap_page() to handle_mm_fault().

Compared with: v6.17, v6.18 and v6.19.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pmd_leaf,
    pmd_table,
    pte_mkdirty,
    pte_mkold,
    pte_mkuffd_wp,
    pte_mkyoung,
    pte_modify,
    pte_none,
    pte_present,
    pte_protnone,
    pte_write,
)
from tlbkit.linux.arch.arm64.include.asm.pgtable_hwdef import PTE_VALID, SLOT
from tlbkit.linux.include.linux.huge_mm import pmd_is_migration_entry
from tlbkit.linux.include.linux.hugetlb import is_vm_hugetlb_page
from tlbkit.linux.include.linux.mm import (
    FAULT_FLAG_TRIED,
    FAULT_FLAG_UNSHARE,
    FAULT_FLAG_WRITE,
    VM_ACCESS_FLAGS,
    VM_FAULT_DONE_COW,
    VM_FAULT_ERROR,
    VM_FAULT_FALLBACK,
    VM_FAULT_HWPOISON,
    VM_FAULT_LOCKED,
    VM_FAULT_MAJOR,
    VM_FAULT_NOPAGE,
    VM_FAULT_OOM,
    VM_FAULT_RETRY,
    VM_FAULT_SIGBUS,
    VM_FAULT_SIGSEGV,
    VM_LOCKED,
    VM_NOHUGEPAGE,
    VM_SHARED,
    VM_UFFD_MISSING,
    VM_WRITE,
)
from tlbkit.linux.include.linux.mm_types import (
    Folio,
    PG_dirty,
    PG_lru,
    PG_swapbacked,
    PG_swapcache,
    VmFault,
)
from tlbkit.linux.include.linux.pagemap import folio_lock, folio_trylock, folio_unlock
from tlbkit.linux.include.linux.pgtable import (
    PGTABLE_LEVEL_PMD,
    PGTABLE_LEVEL_PTE,
    PgtableLevel,
)
from tlbkit.linux.include.linux.swapops import (
    PTE_MARKER_GUARD,
    PTE_MARKER_POISONED,
    PTE_MARKER_UFFD_WP,
    is_migration_entry,
    non_swap_entry,
    pte_marker_get,
    pte_swp_exclusive,
    pte_swp_uffd_wp,
    pte_to_swp_entry,
)
from tlbkit.linux.include.linux.userfaultfd_k import (
    uffd_disable_fault_around,
    userfaultfd_armed,
    userfaultfd_missing,
    userfaultfd_pte_wp,
    userfaultfd_wp,
)
from tlbkit.linux.include.uapi.asm_generic.errno import EAGAIN, EEXIST, ENOMEM
from tlbkit.linux.mm.memory.wp import MemoryWrite

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm import VmOperations
    from tlbkit.linux.include.linux.mm_types import VmArea
    from tlbkit.linux.include.linux.swapops import SwpEntry

FAULT_AROUND_BYTES: Final = 64 << 10
"""How much a read fault maps of what is in memory: fault_around_bytes."""
_NOTHING_MORE: Final = VM_FAULT_ERROR | VM_FAULT_NOPAGE | VM_FAULT_RETRY


class MemoryFault(MemoryWrite):
    """Finds out what is missing, and maps it."""

    __slots__ = ()

    # -- swap --------------------------------------------------------------------------

    def should_try_to_free_swap(self, folio: Folio, vma: VmArea, flags: int) -> bool:
        """Tell whether a folio is better out of the swap cache.

        It is if slots are short, and if a write could then take the folio over: nobody
        but the cache and this fault holds it.

        Source: mm/memory.c, should_try_to_free_swap()
        """
        if not folio.flags & PG_swapcache:
            return False
        if self._kernel.swapfile.vm_swap_full() or vma.flags & VM_LOCKED:
            return True
        alone = folio.refcount == 1 + folio.nr_pages
        return bool(flags & FAULT_FLAG_WRITE) and alone

    def do_pte_missing(self, vmf: VmFault) -> int:
        """Map a page where there is none, or only a marker.

        Source: mm/memory.c, do_pte_missing()
        """
        if vmf.vma.anonymous:
            return self.do_anonymous_page(vmf)
        return self.do_fault(vmf)

    def handle_pte_marker(self, vmf: VmFault) -> int:
        """Handle a fault on a place that has no page but was write-protected.

        The page that is mapped there inherits that; a marker that is out of date goes.
        A guard or poison is a signal, and stays.

        Source: mm/memory.c, handle_pte_marker()
        """
        marker = pte_marker_get(vmf.orig_pte)
        if marker & PTE_MARKER_POISONED:
            return VM_FAULT_HWPOISON
        if marker & PTE_MARKER_GUARD:
            return VM_FAULT_SIGSEGV
        if userfaultfd_wp(vmf.vma):
            return self.do_pte_missing(vmf)
        pgtable = self._pgtable
        found = self._kernel.pgtable_generic.pte_offset_map_lock(
            vmf.vma.mm, vmf.pmd, vmf.address
        )
        if found is None:
            return 0
        ptep, ptl = found
        if self._machine.holds("pte_same", pgtable.read(ptep) == vmf.orig_pte):
            pgtable.set_pte(ptep, 0)
        ptl.release()
        return 0

    def do_swap_page(self, vmf: VmFault) -> int:
        """Handle a fault on an entry that maps nothing now, but is not empty.

        Source: mm/memory.c, do_swap_page()

        Deviates: there is no device memory and no broken memory.
        """
        entry = pte_to_swp_entry(vmf.orig_pte)
        if is_migration_entry(entry):
            self._kernel.migrate.migration_entry_wait(entry)
            return 0
        if not non_swap_entry(entry):
            return self.swapin_page(vmf)
        return self.handle_pte_marker(vmf)

    def swapin_page(self, vmf: VmFault) -> int:
        """Map the page that a swap entry stands for: the swap part of do_swap_page().

        If the entry alone stands for the slot, and the device answers at once, the page
        is read past the swap cache, and is the process's own.

        Source: mm/memory.c, do_swap_page()

        Deviates: what is read past the swap cache is one page, and nothing is read
        ahead.
        """
        entry = pte_to_swp_entry(vmf.orig_pte)
        device = self._kernel.swapfile.get_swap_device(entry)
        if device is None:
            return 0
        result = 0
        found: Folio | int | None
        found = self._kernel.swap_state.swap_cache_get_folio(entry)
        cached = True
        if found is None:
            cached = not device.synchronous_io or (
                self._kernel.swapfile.swap_count(entry) != 1
            )
            found = self._read_swap(entry, cached=cached)
            result = VM_FAULT_MAJOR
        if isinstance(found, int):
            if found == -EEXIST:
                return 0
            located = self._kernel.pgtable_generic.pte_offset_map_lock(
                vmf.vma.mm, vmf.pmd, vmf.address
            )
            if located is None:
                return 0
            vmf.pte, vmf.ptl = located
            faster = self._somebody_was_faster(vmf)
            vmf.ptl.release()
            return VM_FAULT_OOM if found == -ENOMEM and not faster else 0
        folio = found
        if cached:
            folio_lock(self._machine, folio)
        mapped = self._map_swapped(vmf, folio, entry, cached=cached)
        if not mapped:
            folio_unlock(self._machine, folio)
            self._kernel.swap.folio_put(folio)
        elif vmf.flags & FAULT_FLAG_WRITE:
            # The lock of the table is held still, and is given up there.
            result |= self.do_wp_page(vmf)
            if result & VM_FAULT_ERROR:
                result &= VM_FAULT_ERROR
        if not cached:
            self._kernel.swapfile.swapcache_clear(entry)
        return result

    def _read_swap(self, entry: SwpEntry, *, cached: bool) -> Folio | int:
        """Return a folio with the contents of a slot, held; locked if past the cache.

        An error number if there is no memory, or somebody else is just reading it.

        Source: mm/memory.c, do_swap_page()
        """
        if cached:
            return self._kernel.swap_state.read_swap_cache_async(entry)
        folio = self._kernel.page_alloc.alloc()
        if folio is None:
            return -ENOMEM
        error = self._kernel.swapfile.swapcache_prepare(entry)
        if error:
            self._kernel.swap.folio_put(folio)
            self._kernel.swapfile.wait_for_reader(entry)
            return error
        folio_trylock(folio)
        folio.flags |= PG_swapbacked
        self._kernel.swap.folio_add_lru(folio)
        self._kernel.page_io.swap_read_folio(folio, entry)
        return folio

    def _somebody_was_faster(self, vmf: VmFault) -> bool:
        """Tell whether the entry that faulted is not what it was."""
        assert vmf.pte is not None
        return self._pgtable.ptep_get(vmf.pte) != vmf.orig_pte

    def _map_swapped(
        self, vmf: VmFault, folio: Folio, entry: SwpEntry, *, cached: bool
    ) -> bool:
        """Map one page of a locked and held folio; false if that is out of date.

        The reference becomes the entry's, and the folio is unlocked. For a write that
        needs a copy the lock of the table stays held, and ``vmf`` says so.

        Source: mm/memory.c, do_swap_page()

        Deviates: one page of a large folio in the swap cache is mapped, not all of it.
        """
        vma = vmf.vma
        pgtable = self._pgtable
        state = self._kernel.swap_state
        page = folio.pfn
        if cached:
            found = state.folios.get(entry) is folio
            if not self._machine.holds("folio_matches_swap_entry", found):
                return False
            page += entry.offset - state.page_swap_entry(folio, page).offset
            if vmf.flags & FAULT_FLAG_WRITE and not folio.flags & PG_lru:
                self._kernel.swap.lru_add_drain()
        located = self._kernel.pgtable_generic.pte_offset_map_lock(
            vma.mm, vmf.pmd, vmf.address
        )
        if located is None:
            return False
        vmf.pte, vmf.ptl = located
        ptl = vmf.ptl
        if self._machine.sees("pte_same", self._somebody_was_faster(vmf)):
            ptl.release()
            return False
        exclusive = not cached or pte_swp_exclusive(vmf.orig_pte)
        self._kernel.swapfile.swap_free(entry)
        if self.should_try_to_free_swap(folio, vma, vmf.flags):
            self._kernel.swapfile.folio_free_swap(folio)
        vma.mm.anonpages += 1
        vma.mm.swapents -= 1
        pte = pgtable.pfn_pte(page, vma.page_prot)
        if pte_swp_uffd_wp(vmf.orig_pte):
            pte = pte_mkuffd_wp(pte)
        exclusive = exclusive or folio.refcount == 1
        if exclusive and vma.flags & VM_WRITE and not userfaultfd_pte_wp(vma, pte):
            pte = pgtable.pte_mkwrite(pte)
            if vmf.flags & FAULT_FLAG_WRITE:
                pte = pte_mkdirty(pte)
                vmf.flags &= ~FAULT_FLAG_WRITE
        self._add_rmap(vmf, folio, page, exclusive=exclusive)
        assert vmf.pte is not None
        pgtable.set_ptes(vma.mm, vmf.address, vmf.pte, pte, 1)
        vmf.orig_pte = pte
        folio_unlock(self._machine, folio)
        if not vmf.flags & FAULT_FLAG_WRITE:
            ptl.release()
        return True

    def _add_rmap(
        self, vmf: VmFault, folio: Folio, page: int, *, exclusive: bool
    ) -> None:
        """Count the entry that is about to map *page*, perhaps the first ever.

        Source: mm/memory.c, do_swap_page()
        """
        rmap = self._kernel.rmap
        if folio.anon:
            rmap.folio_add_anon_rmap_pte(folio, page, vmf.vma, exclusive=exclusive)
            return
        rmap.folio_add_new_anon_rmap(folio, vmf.vma, vmf.address)
        if not exclusive:
            assert vmf.vma.anon_vma is not None
            folio.mapping = vmf.vma.anon_vma.root  # whoever shares it finds it there
            rmap.clear_page_anon_exclusive(folio, page)

    # -- anonymous memory --------------------------------------------------------------

    def pte_range_none(self, ptep: int, nr: int) -> bool:
        """Tell whether *nr* entries are all empty.

        Source: mm/memory.c, pte_range_none()
        """
        return not any(self._memory.read(ptep + n * SLOT) for n in range(nr))

    def alloc_anon_folio(self, vmf: VmFault) -> Folio | int | None:
        """Return a folio of zeros, as large as settings, area and tables allow.

        Around the address there must be room for all of it. A watched area gets single
        pages, because its owner wants to hear of each. ``None`` without memory,
        ``-EAGAIN`` if there is no page table any more.

        Source: mm/memory.c, alloc_anon_folio()

        Deviates: nobody is charged for memory.
        """
        huge = self._kernel.huge_memory
        pgtable = self._pgtable
        vma = vmf.vma
        orders = 0
        if not userfaultfd_armed(vma):
            orders = huge.thp_vma_allowable_orders(vma, huge.mthp_orders)
        table = vmf.address & -pgtable.pmd_size
        ptep = None
        if orders:
            ptep = self._kernel.pgtable_generic.pte_offset_map(vmf.pmd, table)
            if ptep is None:
                return -EAGAIN
        for order in range(orders.bit_length() - 1, 0, -1):
            if not orders & 1 << order or not huge.thp_vma_suitable_order(
                vma, vmf.address, order
            ):
                continue
            addr = vmf.address & -(pgtable.page_size << order)
            assert ptep is not None
            at = ptep + (addr - table) // pgtable.page_size * SLOT
            if not self.pte_range_none(at, 1 << order):
                continue
            folio = self._kernel.page_alloc.alloc_zeroed(order)
            if folio is not None:
                return folio
        return self._kernel.page_alloc.alloc_zeroed()

    def do_anonymous_page(self, vmf: VmFault) -> int:
        """Map a page of private memory that nothing maps yet.

        A read maps the zero page; a write maps a new page, dirty and writable.

        Source: mm/memory.c, do_anonymous_page()

        Deviates: an mm is never unstable.
        """
        vma = vmf.vma
        if vma.flags & VM_SHARED:
            return VM_FAULT_SIGBUS
        if not self.pte_alloc(vma.mm, vmf.pmd):
            return VM_FAULT_OOM
        pgtable = self._pgtable
        addr = vmf.address
        nr = 1
        folio = None
        if not vmf.flags & FAULT_FLAG_WRITE:
            entry = pgtable.pfn_pte(self._kernel.zero_pfn, vma.page_prot)
            entry = pgtable.pte_mkspecial(entry)
        else:
            self._kernel.rmap.anon_vma_prepare(vma)
            if self._kernel.huge_memory.mthp_orders:
                allocated = self.alloc_anon_folio(vmf)
                if isinstance(allocated, int):
                    return 0
                folio = allocated
            else:
                folio = self._kernel.page_alloc.alloc_zeroed()
            if folio is None:
                return VM_FAULT_OOM
            if folio.order:
                nr = folio.nr_pages
                addr &= -nr * pgtable.page_size
            entry = pgtable.pfn_pte(folio.pfn, vma.page_prot)
            if vma.flags & VM_WRITE:
                entry = pgtable.pte_mkwrite(pte_mkdirty(entry))
        found = self._kernel.pgtable_generic.pte_offset_map_lock(vma.mm, vmf.pmd, addr)
        if found is None:
            if folio is not None:
                self._kernel.swap.folio_put(folio)
            return 0
        ptep, ptl = found
        if nr == 1:
            changed = self._memory.read(ptep) != vmf.orig_pte
        else:
            changed = not self.pte_range_none(ptep, nr)
        changed = self._machine.sees("pte_none", changed)
        if changed or userfaultfd_missing(vma):
            ptl.release()
            if folio is not None:
                self._kernel.swap.folio_put(folio)
            if changed:
                return 0
            return self._kernel.fs_userfaultfd.handle_userfault(vmf, VM_UFFD_MISSING)
        if folio is not None:
            folio.refcount += nr - 1
            vma.mm.anonpages += nr
            self._kernel.rmap.folio_add_new_anon_rmap(folio, vma, addr)
            self._kernel.swap.folio_add_lru(folio)
        if vmf.orig_pte and pte_marker_get(vmf.orig_pte) & PTE_MARKER_UFFD_WP:
            entry = pte_mkuffd_wp(entry)
        if nr == 1:
            pgtable.set_pte(ptep, entry)
        else:
            pgtable.set_ptes(vma.mm, addr, ptep, entry, nr)
        ptl.release()
        return 0

    # -- files, shared memory, drivers -------------------------------------------------

    def do_fault_(self, vmf: VmFault) -> int:
        """Ask the owner for the page; it comes locked, in ``vmf.page``.

        A page table is set aside first, because memory must not be looked for while the
        page is locked.

        Source: mm/memory.c, __do_fault()

        Deviates: no page is broken.
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

    def set_pte_range(
        self, vmf: VmFault, folio: Folio, pfn: int, nr: int, addr: int
    ) -> None:
        """Store the entries of *nr* pages of a folio from frame *pfn* on, at *addr*.

        What was not asked for is stored old, where the hardware sets access flags: so
        it is not taken for used. The table is locked; the caller counts.

        Source: mm/memory.c, set_pte_range()
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

    def finish_fault(self, vmf: VmFault) -> int:
        """Map the page of a fault: the owner's, or its private copy.

        The reference to it goes over to the entry. A large folio is mapped as a whole
        where it fits.

        Source: mm/memory.c, finish_fault()

        Deviates: a folio of shared memory is never mapped by a PMD; an mm is never
        unstable.
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
        """Return how many pages of *folio* can be mapped at once, and from where.

        Beyond the end of a file there must be no entries, so that a fault there is a
        signal; shared memory is an exception.

        Source: mm/memory.c, finish_fault()
        """
        pgtable = self._pgtable
        vma = vmf.vma
        assert vma.ops is not None
        nr = folio.nr_pages
        if nr == 1 or userfaultfd_armed(vma):
            return 1, vmf.address
        if vma.file is not None and not vma.ops.is_shmem:
            file_end = self._kernel.filemap.pages_in_file(vma.file.mapping.host)
            if file_end < folio.index + nr:
                return 1, vmf.address
        start = vmf.address - (vmf.pgoff - folio.index) * pgtable.page_size
        end = start + nr * pgtable.page_size
        table = vmf.address & -pgtable.pmd_size
        if start < max(vma.start, table) or end > min(
            vma.end, table + pgtable.pmd_size
        ):
            return 1, vmf.address
        return nr, start

    def do_fault_around(self, vmf: VmFault) -> int:
        """Map what is in memory around a fault, within area, table and 64 KiB.

        A page table is set aside, for who finds something to map.

        Source: mm/memory.c, do_fault_around()
        """
        pgtable = self._pgtable
        vma = vmf.vma
        assert vma.ops is not None
        nr = FAULT_AROUND_BYTES // pgtable.page_size
        place = vmf.address % pgtable.pmd_size // pgtable.page_size
        before = vmf.pgoff - vma.pgoff
        pages = (vma.end - vma.start) // pgtable.page_size
        first = max(place // nr * nr, place - min(place, before))
        last = min(first + nr, pgtable.ptrs_per_pte, place + pages - before) - 1
        if pte_none(pgtable.read(vmf.pmd)):
            vmf.prealloc_pte = self._kernel.page_alloc.alloc_table("PTE table")
            if vmf.prealloc_pte is None:
                return VM_FAULT_OOM
        return vma.ops.map_pages(
            vmf, vmf.pgoff + first - place, vmf.pgoff + last - place
        )

    def should_fault_around(self, vmf: VmFault) -> bool:
        """Tell whether a read fault may map more than it was for.

        Not if somebody wants to hear of each page.

        Source: mm/memory.c, should_fault_around()
        """
        assert vmf.vma.ops is not None
        if not vmf.vma.ops.has("map_pages") or uffd_disable_fault_around(vmf.vma):
            return False
        return self._pgtable.page_size < FAULT_AROUND_BYTES

    def do_read_fault(self, vmf: VmFault) -> int:
        """Map a page to be read, and around it what is in memory already.

        Source: mm/memory.c, do_read_fault()
        """
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
        """Map a private copy of a page of a file, which is about to be written.

        Source: mm/memory.c, do_cow_fault()

        Deviates: nobody is charged for memory.
        """
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
        """Map a page of a shared area that is about to be written.

        Source: mm/memory.c, do_shared_fault()
        """
        vma = vmf.vma
        assert vma.ops is not None
        result = self.do_fault_(vmf)
        if result & _NOTHING_MORE:
            return result
        if vma.ops.has("page_mkwrite"):
            self._unlock_page(vmf)
            assert vmf.page is not None
            told = self.do_page_mkwrite(vmf, vmf.page)
            if not told or told & (VM_FAULT_ERROR | VM_FAULT_NOPAGE):
                self._put_page(vmf)
                return told
        result |= self.finish_fault(vmf)
        if result & _NOTHING_MORE:
            self._unlock_page(vmf)
            self._put_page(vmf)
            return result
        return result | self.fault_dirty_shared_page(vmf)

    def do_fault(self, vmf: VmFault) -> int:
        """Handle a fault on an entry that is empty, in an area that has an owner.

        Source: mm/memory.c, do_fault()

        Deviates: a VMA without a handler has no fault to tell apart from a lost table.
        """
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

    def _unlock_page(self, vmf: VmFault) -> None:
        assert vmf.page is not None
        folio_unlock(self._machine, vmf.page)

    def _put_page(self, vmf: VmFault) -> None:
        assert vmf.page is not None
        self._kernel.swap.folio_put(vmf.page)

    # -- hidden to learn who uses it ---------------------------------------------------

    def numa_rebuild_single_mapping(self, vma: VmArea, addr: int, ptep: int) -> None:
        """Give one hidden entry its rights back.

        Source: mm/memory.c, numa_rebuild_single_mapping()
        """
        pgtable = self._pgtable
        mprotect = self._kernel.mprotect
        old = pgtable.ptep_get_and_clear(vma.mm, addr, ptep)
        pte = pte_mkyoung(pte_modify(old, vma.page_prot))
        if (
            not pte_write(pte)
            and mprotect.vma_wants_manual_pte_write_upgrade(vma)
            and mprotect.can_change_pte_writable(vma, addr, pte)
        ):
            pte = pgtable.pte_mkwrite(pte)
        pgtable.set_ptes(vma.mm, addr, ptep, pte, 1)

    def numa_rebuild_large_mapping(self, vmf: VmFault, folio: Folio) -> None:
        """Give all hidden entries of a folio in this table their rights back.

        Source: mm/memory.c, numa_rebuild_large_mapping()
        """
        pgtable = self._pgtable
        vma = vmf.vma
        assert vmf.pte is not None
        before = pgtable.pte_pfn(vmf.orig_pte) - folio.pfn
        base = vmf.address - before * pgtable.page_size
        table = vmf.address & -pgtable.pmd_size
        start = max(base, table, vma.start)
        end = min(
            base + folio.nr_pages * pgtable.page_size,
            table + pgtable.pmd_size,
            vma.end,
        )
        ptep = vmf.pte + (start - vmf.address) // pgtable.page_size * SLOT
        for addr in range(start, end, pgtable.page_size):
            pte = pgtable.ptep_get(ptep)
            if pte_protnone(pte) and self.vm_normal_folio(vma, addr, pte) is folio:
                self.numa_rebuild_single_mapping(vma, addr, ptep)
            ptep += SLOT

    def do_numa_page(self, vmf: VmFault) -> int:
        """Make a page accessible again that was hidden to learn who uses it.

        There is one node here, so it is where it should be. What was hidden is in no
        TLB, and nothing is flushed.

        Source: mm/memory.c, do_numa_page()

        Deviates: there is one node, so no page is moved.
        """
        vma = vmf.vma
        pgtable = self._pgtable
        assert vmf.pte is not None
        assert vmf.ptl is not None
        with vmf.ptl:
            same = pgtable.ptep_get(vmf.pte) == vmf.orig_pte
            if not self._machine.holds("pte_same", same):
                return 0
            folio = self.vm_normal_folio(vma, vmf.address, vmf.orig_pte)
            if folio is None or not folio.order:
                self.numa_rebuild_single_mapping(vma, vmf.address, vmf.pte)
            else:
                self.numa_rebuild_large_mapping(vmf, folio)
        return 0

    # -- the fault ---------------------------------------------------------------------

    def fix_spurious_fault(self, vmf: VmFault, level: PgtableLevel) -> None:
        """Drop the stale entry that made this CPU fault although the tables allow it.

        A retried fault is left alone: it comes again if it must, and is fixed then.

        Source: mm/memory.c, fix_spurious_fault()
        """
        if self._machine.sees("FAULT_FLAG_TRIED", vmf.flags & FAULT_FLAG_TRIED):
            return
        if vmf.flags & FAULT_FLAG_WRITE:
            if "spurious" in self._machine.events.heard:
                cpu = self._machine.running.number
                self._machine.events.emit(
                    cpu, "spurious", vmf.real_address, new=str(level)
                )
            self._kernel.fault.flush_tlb_fix_spurious_fault(vmf.vma, vmf.address, level)

    def handle_pte_fault(self, vmf: VmFault) -> int:
        """Handle a fault at page level.

        Source: mm/memory.c, handle_pte_fault()
        """
        pgtable = self._pgtable
        vmf.pte = None
        if self._memory.read(vmf.pmd):
            found = self._kernel.pgtable_generic.pte_offset_map_rw_nolock(
                vmf.vma.mm, vmf.pmd, vmf.address
            )
            if found is None:
                return 0
            ptep, _, vmf.ptl = found
            vmf.orig_pte = entry = pgtable.ptep_get(ptep)
            if not pte_none(entry):
                vmf.pte = ptep
        if vmf.pte is None:
            return self.do_pte_missing(vmf)
        if not entry & PTE_VALID:
            if not pte_present(entry):
                return self.do_swap_page(vmf)
            if vmf.vma.flags & VM_ACCESS_FLAGS:
                return self.do_numa_page(vmf)  # pte_protnone()
        ptl = vmf.ptl
        assert ptl is not None
        ptl.acquire()
        if not self._machine.holds("pte_same", pgtable.ptep_get(ptep) == entry):
            ptl.release()  # somebody else was faster; the access is simply repeated
            return 0
        flags = vmf.flags
        if flags & (FAULT_FLAG_WRITE | FAULT_FLAG_UNSHARE):
            if not pte_write(entry):
                return self.do_wp_page(vmf)
            if flags & FAULT_FLAG_WRITE:
                entry = pte_mkdirty(entry)
        entry = pte_mkyoung(entry)
        if not self._kernel.fault.ptep_set_access_flags(
            vmf.vma, vmf.address, ptep, entry, dirty=bool(flags & FAULT_FLAG_WRITE)
        ):
            self.fix_spurious_fault(vmf, PGTABLE_LEVEL_PTE)
        ptl.release()
        return 0

    def handle_pud_fault(self, vmf: VmFault, ops: VmOperations) -> int:
        """Handle a fault where a PUD entry maps a block, or could; none is anonymous.

        Returns:
            ``VM_FAULT_FALLBACK`` if it must be handled further down.

        Source: mm/memory.c, __handle_mm_fault()
        """
        if self._pgtable.page_shift != 12:
            return VM_FAULT_FALLBACK  # only this granule has blocks so high up
        huge = self._kernel.huge_memory
        vma = vmf.vma
        pudp = self.pud_alloc(vma.mm, vmf.address)
        if pudp is None:
            return VM_FAULT_OOM
        vmf.pud = pudp
        pud = self._memory.read(pudp)
        order = self._pgtable.hpage_pud_order
        if pte_none(pud):
            if vma.flags & VM_NOHUGEPAGE:
                return VM_FAULT_FALLBACK
            return ops.huge_fault(vmf, order)
        if not pmd_leaf(pud):
            return VM_FAULT_FALLBACK
        if vmf.flags & FAULT_FLAG_WRITE and not pte_write(pud):
            result = VM_FAULT_FALLBACK
            if vma.flags & VM_SHARED:
                result = ops.huge_fault(vmf, order)
            if result & VM_FAULT_FALLBACK:
                huge.split_huge_pud(vma, pudp, vmf.address)
            return result
        huge.huge_pud_set_accessed(vmf, pud)
        return 0

    def handle_pmd_fault(self, vmf: VmFault) -> int:
        """Handle a fault where a block is, or could be.

        Returns:
            ``VM_FAULT_FALLBACK`` if it must be handled at page level.

        Source: mm/memory.c, __handle_mm_fault()
        """
        huge = self._kernel.huge_memory
        vma = vmf.vma
        if pte_none(vmf.orig_pmd):
            if vma.ops is not None:
                if vma.flags & VM_NOHUGEPAGE:
                    return VM_FAULT_FALLBACK
                return vma.ops.huge_fault(vmf, self._pgtable.hpage_pmd_order)
            if huge.thp_vma_allowable_orders(vma, 1 << self._pgtable.hpage_pmd_order):
                return huge.do_huge_pmd_anonymous_page(vmf)
            return VM_FAULT_FALLBACK
        if pmd_is_migration_entry(vmf.orig_pmd):
            huge.pmd_migration_entry_wait(vmf.pmd)
            return 0
        if pte_protnone(vmf.orig_pmd) and vma.flags & VM_ACCESS_FLAGS:
            return huge.do_huge_pmd_numa_page(vmf)
        if vmf.flags & (FAULT_FLAG_WRITE | FAULT_FLAG_UNSHARE) and not pte_write(
            vmf.orig_pmd
        ):
            return huge.wp_huge_pmd(vmf)
        self.handle_pmd_access(vmf)
        return 0

    def handle_pmd_access(self, vmf: VmFault) -> None:
        """Handle a fault of an access that the block's entry allows.

        Source: mm/memory.c, __handle_mm_fault()
        """
        with self.pmd_lockptr(vmf.pmd):
            if not self._kernel.huge_memory.huge_pmd_set_accessed(vmf):
                self.fix_spurious_fault(vmf, PGTABLE_LEVEL_PMD)

    def handle_mm_fault(self, vma: VmArea, address: int, flags: int) -> int:
        """Make an access to *address* possible, or say why not: ``VM_FAULT_`` bits.

        Source: mm/memory.c, handle_mm_fault()

        Deviates: nothing is accounted for, and no page-table key is checked.
        """
        if is_vm_hugetlb_page(vma):
            return self._kernel.hugetlb.hugetlb_fault(vma, address, flags)
        vmf = VmFault(vma, address & self._pgtable.page_mask, address, flags)
        if vma.ops is not None:
            vmf.pgoff = self._kernel.rmap.linear_page_index(vma, address)
            if vma.ops.has("huge_fault"):
                result = self.handle_pud_fault(vmf, vma.ops)
                if not result & VM_FAULT_FALLBACK:
                    return result
        pmdp = self.pmd_alloc(vma.mm, address)
        if pmdp is None:
            return VM_FAULT_OOM
        vmf.pmd = pmdp
        vmf.orig_pmd = pmd = self._memory.read(pmdp)
        if not pmd_table(pmd):
            result = self.handle_pmd_fault(vmf)
            if not result & VM_FAULT_FALLBACK:
                return result
        return self.handle_pte_fault(vmf)
