"""One run of present pages, or one other page, moved: the inner half of MOVE."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pte_dirty,
    pte_mkdirty,
    pte_none,
    pte_present,
)
from tlbkit.linux.include.linux.mm_types import PG_locked, VmArea
from tlbkit.linux.include.linux.pagemap import folio_lock, folio_trylock, folio_unlock
from tlbkit.linux.include.linux.swapops import (
    is_migration_entry,
    non_swap_entry,
    pte_swp_exclusive,
    pte_to_swp_entry,
)
from tlbkit.linux.include.uapi.asm_generic.errno import (
    EAGAIN,
    EBUSY,
    EEXIST,
    EFAULT,
    ENOENT,
)
from tlbkit.linux.mm.userfaultfd.areas import UffdAreas
from tlbkit.linux.mm.userfaultfd.held import (
    HeldFolio,
    Move,
    PtePair,
    double_pt_lock,
    double_pt_unlock,
)

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import AnonVma, Folio
    from tlbkit.linux.include.linux.swapops import SwpEntry


class UffdRun(UffdAreas):
    """Moving the pages of one pair of tables."""

    __slots__ = ()

    def move_pages_ptes(self, move: Move, length: int) -> int:
        """Move what can be moved at once, from the next page on.

        A page that is not there, the zero page, and a page in swap are moved alone.
        Present pages are moved together with those that follow them.

        Args:
            move: How far the call has come.
            length: Bytes that are left.

        Returns:
            Bytes moved, or a negative error number.
        """
        held = HeldFolio(self._kernel)
        notifier = self._kernel.mmu_notifier
        end = move.src_addr + length
        with notifier.invalidate_range(move.mm, "CLEAR", move.src_addr, end):
            try:
                while True:
                    pair = self.map_ptes(move)
                    if pair is None:
                        return -EAGAIN
                    if not pte_none(pair.orig_dst_pte):
                        return -EEXIST
                    if pte_none(pair.orig_src_pte):
                        return self._pgtable.page_size if move.holes else -ENOENT
                    moved = held.folio is not None and held.pte != pair.orig_src_pte
                    if self._machine.sees("pte_same", moved):
                        return -EAGAIN
                    if not pte_present(pair.orig_src_pte):
                        result = self.move_nonpresent_pte(move, pair, held)
                        if result is None:
                            continue
                        return result
                    if self.is_zero_pfn(pair.orig_src_pte):
                        return self.move_zeropage_pte(move, pair)
                    error = self.hold_folio(move, pair, held)
                    if error == 0:
                        return self.move_present_ptes(move, pair, held, length)
                    if error is not None:
                        return error
            finally:
                held.release()

    def map_ptes(self, move: Move) -> PtePair | None:
        """Read the next page's two entries, each under its lock.

        ``None`` if one of the tables is not there any more.
        """
        pgtable = self._pgtable
        maps = self._kernel.pgtable_generic
        dst = maps.pte_offset_map_rw_nolock(move.mm, move.dst_pmd, move.dst_addr)
        if dst is None:
            return None
        dst_pte, dst_pmdval, dst_ptl = dst
        src = maps.pte_offset_map_rw_nolock(move.mm, move.src_pmd, move.src_addr)
        if src is None:
            return None
        src_pte, _, src_ptl = src
        with dst_ptl:
            orig_dst_pte = pgtable.ptep_get(dst_pte)
        with src_ptl:
            orig_src_pte = pgtable.ptep_get(src_pte)
        return PtePair(
            src_pte,
            dst_pte,
            orig_src_pte,
            orig_dst_pte,
            move.dst_pmd,
            dst_pmdval,
            src_ptl,
            dst_ptl,
        )

    def is_zero_pfn(self, pte: int) -> bool:
        """Tell whether an entry maps the zero page."""
        return self._pgtable.pte_pfn(pte) == self._kernel.zero_pfn

    def is_pte_pages_stable(self, pair: PtePair) -> bool:
        """Tell whether the entries still say what they said; both locks are held."""
        read = self._pgtable.ptep_get
        return (
            read(pair.src_pte) == pair.orig_src_pte
            and read(pair.dst_pte) == pair.orig_dst_pte
            and self._pgtable.read(pair.dst_pmd) == pair.dst_pmdval
        )

    def hold_folio(self, move: Move, pair: PtePair, held: HeldFolio) -> int | None:
        """Hold and lock the source page and its anon_vma, and make it small.

        Returns:
            0 once all is held, a negative error number, or ``None`` if something had to
            be waited for: then the entries must be read again.
        """
        if held.folio is None:
            result = self._take_folio(move, pair, held)
            if result != 0:
                return result
        folio = held.folio
        assert folio is not None
        if folio.order:
            head = self._kernel.huge_memory.split_folio(folio)
            if isinstance(head, int):
                return head
            held.folio = head
            held.release_folio()
            return None
        if held.anon_vma is not None:
            return 0
        # Who looks for the users of a page walks its anon_vma without the page's lock.
        held.anon_vma = anon_vma = self._kernel.rmap.folio_get_anon_vma(folio)
        if anon_vma is None:
            return -EAGAIN
        if self._kernel.rmap.anon_vma_trylock_write(anon_vma):
            return 0
        self._kernel.rmap.anon_vma_lock_write(anon_vma)
        return None

    def _take_folio(self, move: Move, pair: PtePair, held: HeldFolio) -> int | None:
        """Hold and lock the page that the source entry maps; as `hold_folio`."""
        pair.src_ptl.acquire()
        same = self._pgtable.ptep_get(pair.src_pte) == pair.orig_src_pte
        if not self._machine.holds("pte_same", same):
            pair.src_ptl.release()
            return -EAGAIN
        folio = self._kernel.memory.vm_normal_folio(
            move.src_vma, move.src_addr, pair.orig_src_pte
        )
        if folio is None or not folio.page_exclusive(folio.pfn):
            pair.src_ptl.release()
            return -EBUSY
        locked = folio_trylock(folio)
        if not locked and folio.order:
            # A reference held while waiting would keep everybody from splitting it.
            pair.src_ptl.release()
            self._machine.wait(
                lambda: not folio.flags & PG_locked, "the lock of a large folio"
            )
            return -EAGAIN
        folio.refcount += 1
        pair.src_ptl.release()
        if not locked:
            folio_lock(self._machine, folio)
        held.take(folio, pair.orig_src_pte)
        if not locked:
            return None
        return 0 if folio.anon else -EBUSY

    def move_present_ptes(
        self, move: Move, pair: PtePair, held: HeldFolio, length: int
    ) -> int:
        """Move a run of present pages, and flush their old addresses once.

        The run begins with the page in *held*. It ends where a table on either side
        does, and before the first page that is not as simple as those so far.

        Returns:
            Bytes moved, or a negative error number if the first page cannot be.
        """
        pgtable = self._pgtable
        folio = held.folio
        anon_vma = held.anon_vma
        assert folio is not None
        assert anon_vma is not None
        src_addr, dst_addr = move.src_addr, move.dst_addr
        src_pte, dst_pte = pair.src_pte, pair.dst_pte
        src_end = src_addr + min(
            self.left_in_table(dst_addr, length), self.left_in_table(src_addr, length)
        )
        double_pt_lock(pair.dst_ptl, pair.src_ptl)
        error = self.check_present_pte(pair, folio)
        if error:
            double_pt_unlock(pair.dst_ptl, pair.src_ptl)
            return error
        # The page table has a reference; while it is locked nobody can take that.
        held.drop_reference()
        while True:
            pte = pgtable.ptep_get_and_clear(move.mm, src_addr, src_pte)
            if self._machine.sees("folio_maybe_dma_pinned", folio.maybe_dma_pinned()):
                # Somebody was faster, without a lock: put it back and stop.
                pgtable.set_pte(src_pte, pte)
                error = -EBUSY
                break
            self.move_folio(move.dst_vma, dst_addr, folio)
            pgtable.set_pte(dst_pte, self.moved_pte(move.dst_vma, folio, pte))
            src_addr += pgtable.page_size
            if src_addr == src_end:
                break
            dst_addr += pgtable.page_size
            src_pte += 8
            dst_pte += 8
            held.release_folio()
            folio = self.check_ptes_for_batched_move(
                move.src_vma, src_addr, src_pte, dst_pte, anon_vma
            )
            if folio is None:
                break
            held.lock(folio)
        moved = src_addr - move.src_addr
        if moved:
            self._kernel.tlbflush.flush_tlb_range(move.src_vma, move.src_addr, src_addr)
        held.release_folio()
        double_pt_unlock(pair.dst_ptl, pair.src_ptl)
        return moved or error

    def left_in_table(self, addr: int, length: int) -> int:
        """Return how much of *length* bytes from *addr* on is in one PTE table."""
        return (
            self._pgtable.addr_end(addr, addr + length, self._pgtable.pmd_shift) - addr
        )

    def check_present_pte(self, pair: PtePair, folio: Folio) -> int:
        """Return why a run cannot begin with *folio*, or 0; both locks are held."""
        stable = self.is_pte_pages_stable(pair)
        if not self._machine.holds("is_pte_pages_stable", stable):
            return -EAGAIN
        if folio.order or folio.maybe_dma_pinned():
            return -EBUSY
        exclusive = folio.page_exclusive(folio.pfn)
        if not self._machine.holds("PageAnonExclusive", exclusive):
            return -EBUSY
        return 0

    def check_ptes_for_batched_move(
        self,
        src_vma: VmArea,
        src_addr: int,
        src_pte: int,
        dst_pte: int,
        src_anon_vma: AnonVma,
    ) -> Folio | None:
        """Return the page that goes on a run, locked; ``None`` if the run ends here.

        No reference is taken: its table is locked until it has been moved.
        """
        pgtable = self._pgtable
        if not self._machine.holds("pte_none", pte_none(pgtable.ptep_get(dst_pte))):
            return None
        pte = pgtable.ptep_get(src_pte)
        if pte_none(pte) or not pte_present(pte) or self.is_zero_pfn(pte):
            return None
        folio = self._kernel.memory.vm_normal_folio(src_vma, src_addr, pte)
        if folio is None or not folio_trylock(folio):
            return None
        if (
            not folio.page_exclusive(folio.pfn)
            or folio.order
            or folio.mapping is not src_anon_vma
        ):
            folio_unlock(self._machine, folio)
            return None
        return folio

    def move_folio(self, dst_vma: VmArea, dst_addr: int, folio: Folio) -> None:
        """Let *folio* be found where it is from now on."""
        self._kernel.rmap.folio_move_anon_rmap(folio, dst_vma)
        folio.index = self._kernel.rmap.linear_page_index(dst_vma, dst_addr)

    def moved_pte(self, dst_vma: VmArea, folio: Folio, src_pte: int) -> int:
        """Return the destination's entry: writable, and dirty if the source's was."""
        pte = self._pgtable.pfn_pte(folio.pfn, dst_vma.page_prot)
        if pte_dirty(src_pte):
            pte = pte_mkdirty(pte)
        return self._pgtable.pte_mkwrite(pte)

    def move_zeropage_pte(self, move: Move, pair: PtePair) -> int:
        """Map the zero page at the destination instead; bytes or an error number."""
        pgtable = self._pgtable
        double_pt_lock(pair.dst_ptl, pair.src_ptl)
        stable = self.is_pte_pages_stable(pair)
        stable = self._machine.holds("is_pte_pages_stable", stable)
        if stable:
            zero = pgtable.pfn_pte(self._kernel.zero_pfn, move.dst_vma.page_prot)
            self._kernel.pgtable_generic.ptep_clear_flush(
                move.src_vma, move.src_addr, pair.src_pte
            )
            pgtable.set_pte(pair.dst_pte, pgtable.pte_mkspecial(zero))
        double_pt_unlock(pair.dst_ptl, pair.src_ptl)
        return pgtable.page_size if stable else -EAGAIN

    def move_nonpresent_pte(
        self, move: Move, pair: PtePair, held: HeldFolio
    ) -> int | None:
        """Move an entry whose page is in swap.

        If the swap cache has the page, it is locked first and moves along.

        Returns:
            Bytes moved, a negative error number, or ``None`` if the page had to be
            waited for: then the entries must be read again.
        """
        entry = pte_to_swp_entry(pair.orig_src_pte)
        if is_migration_entry(entry):
            self._kernel.migrate.migration_entry_wait(entry)
            return -EAGAIN
        if non_swap_entry(entry):
            return -EFAULT
        if not pte_swp_exclusive(pair.orig_src_pte):
            return -EBUSY
        if self._kernel.swapfile.get_swap_device(entry) is None:
            return -EAGAIN
        if held.folio is None:
            folio = self._kernel.swap_state.swap_cache_get_folio(entry)
            if folio is not None and folio.order:
                # A large folio that nothing maps cannot be split.
                self._kernel.swap.folio_put(folio)
                return -EBUSY
            if folio is not None:
                locked = folio_trylock(folio)
                if not locked:
                    folio_lock(self._machine, folio)
                held.take(folio, pair.orig_src_pte)
                if not locked:
                    return None
        return self.move_swap_pte(move, pair, held.folio, entry)

    def move_swap_pte(
        self, move: Move, pair: PtePair, folio: Folio | None, entry: SwpEntry
    ) -> int:
        """Move the entry of a page in swap, and its cached copy *folio*, if any.

        No TLB holds it, so nothing is flushed. If the cache has got a copy since it was
        looked at, that would be left behind.

        Returns:
            Bytes moved, or a negative error number.
        """
        pgtable = self._pgtable
        cached = self._kernel.swap_state.folios.get(entry)
        moved = folio is not None and cached is not folio
        if self._machine.sees("folio_matches_swap_entry", moved):
            return -EAGAIN
        double_pt_lock(pair.dst_ptl, pair.src_ptl)
        stable = self.is_pte_pages_stable(pair)
        stable = self._machine.holds("is_pte_pages_stable", stable)
        read_in = stable and folio is None and self._kernel.swapfile.has_cache(entry)
        if self._machine.sees("SWAP_HAS_CACHE", read_in):
            stable = False
        if stable:
            if folio is not None:
                self.move_folio(move.dst_vma, move.dst_addr, folio)
            pte = pgtable.ptep_get_and_clear(move.mm, move.src_addr, pair.src_pte)
            pgtable.set_pte(pair.dst_pte, pte)
        double_pt_unlock(pair.dst_ptl, pair.src_ptl)
        if read_in:
            self._kernel.swapfile.wait_for_reader(entry)
        return pgtable.page_size if stable else -EAGAIN
