"""A fault on a page that is in swap."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pte_mkdirty,
    pte_mkuffd_wp,
)
from tlbkit.linux.include.linux.mm import (
    FAULT_FLAG_WRITE,
    VM_FAULT_ERROR,
    VM_FAULT_MAJOR,
    VM_FAULT_OOM,
    VM_LOCKED,
    VM_WRITE,
)
from tlbkit.linux.include.linux.mm_types import PG_lru, PG_swapbacked, PG_swapcache
from tlbkit.linux.include.linux.pagemap import folio_lock, folio_trylock, folio_unlock
from tlbkit.linux.include.linux.swapops import (
    pte_swp_exclusive,
    pte_swp_uffd_wp,
    pte_to_swp_entry,
)
from tlbkit.linux.include.linux.userfaultfd_k import userfaultfd_pte_wp
from tlbkit.linux.include.uapi.asm_generic.errno import EEXIST, ENOMEM
from tlbkit.linux.mm.memory.file import MemoryFile

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import Folio, VmArea, VmFault
    from tlbkit.linux.include.linux.swapops import SwpEntry


class MemorySwapin(MemoryFile):
    """Maps pages again that were swapped out."""

    __slots__ = ()

    def swapin_page(self, vmf: VmFault) -> int:
        """Map the page that a swap entry stands for: the swap part of do_swap_page().

        If the entry alone stands for the slot, and the device answers at once, the page
        is read past the swap cache, and is the process's own.
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
        """Count the entry that is about to map *page*, perhaps the first ever."""
        rmap = self._kernel.rmap
        if folio.anon:
            rmap.folio_add_anon_rmap_pte(folio, page, vmf.vma, exclusive=exclusive)
            return
        rmap.folio_add_new_anon_rmap(folio, vmf.vma, vmf.address)
        if not exclusive:
            assert vmf.vma.anon_vma is not None
            folio.mapping = vmf.vma.anon_vma.root  # whoever shares it finds it there
            rmap.clear_page_anon_exclusive(folio, page)

    def should_try_to_free_swap(self, folio: Folio, vma: VmArea, flags: int) -> bool:
        """Tell whether a folio is better out of the swap cache.

        It is if slots are short, and if a write could then take the folio over: nobody
        but the cache and this fault holds it.
        """
        if not folio.flags & PG_swapcache:
            return False
        if self._kernel.swapfile.vm_swap_full() or vma.flags & VM_LOCKED:
            return True
        alone = folio.refcount == 1 + folio.nr_pages
        return bool(flags & FAULT_FLAG_WRITE) and alone
