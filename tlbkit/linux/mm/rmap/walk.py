"""From a folio to the VMAs that may map it, and flushes that are waited for later."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tlbkit.linux.arch.arm64.include.asm.pgtable import pte_dirty
from tlbkit.linux.include.linux.mm_types import (
    TLB_FLUSH_BATCH_FLUSHED_SHIFT,
    TLB_FLUSH_BATCH_PENDING_LARGE,
    TLB_FLUSH_BATCH_PENDING_MASK,
)
from tlbkit.linux.mm.rmap.hugetlb import RmapHugetlb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tlbkit.linux.include.linux.fs import AddressSpace
    from tlbkit.linux.include.linux.mm_types import AnonVma, Folio, MmStruct, VmArea


TTU_SPLIT_HUGE_PMD: Final = 0x4
TTU_IGNORE_MLOCK: Final = 0x8
TTU_SYNC: Final = 0x10
TTU_HWPOISON: Final = 0x20
TTU_BATCH_FLUSH: Final = 0x40
TTU_RMAP_LOCKED: Final = 0x80


class RmapWalk(RmapHugetlb):
    """Finds the VMAs that may map a folio, and flushes what reclaim unmapped."""

    __slots__ = ()

    # -- from a folio to its entries -------------------------------------------------

    def rmap_walk_anon(
        self, anon_vma: AnonVma, index: int, nr: int
    ) -> Iterator[tuple[VmArea, int, int]]:
        """Yield where *nr* pages from *index* on of an anon_vma may be mapped.

        Each item is a VMA and the addresses, end not included. The lock is held.

        Source: mm/rmap.c, rmap_walk_anon()
        Deviates: the kernel has a tree of the VMAs of each anon_vma; here those of all
        processes are looked through, in the order of their addresses, and one that is
        just being unmapped is not among them.
        """
        shift = self._kernel.pgtable.page_shift
        for mm in self._kernel.fork.mmlist:
            for vma in mm.vmas:
                if vma.anon_vma is None or vma.anon_vma.root is not anon_vma.root:
                    continue
                base = vma.start + (index - vma.pgoff << shift)
                start = max(base, vma.start)
                end = min(base + (nr << shift), vma.end)
                if start < end:
                    yield vma, start, end

    def rmap_walk_file(
        self, mapping: AddressSpace, index: int, nr: int
    ) -> Iterator[tuple[VmArea, int, int]]:
        """Yield where *nr* pages from *index* on of a file may be mapped.

        Each item is a VMA and the addresses, end not included. ``i_mmap_rwsem`` is
        held.

        Source: mm/rmap.c, __rmap_walk_file()
        """
        mapping.i_mmap_rwsem.assert_held()
        shift = self._kernel.pgtable.page_shift
        # A copy: where the gallery takes the lock away, VMAs come and go meanwhile.
        for vma in tuple(mapping.i_mmap):
            base = vma.start + (index - vma.pgoff << shift)
            start = max(base, vma.start)
            end = min(base + (nr << shift), vma.end)
            if start < end:
                yield vma, start, end

    def rmap_walk(
        self,
        folio: Folio,
        rmap_one: Callable[[VmArea, int], bool],
        *,
        done: Callable[[Folio], bool] | None = None,
        invalid_vma: Callable[[VmArea], bool] | None = None,
        locked: bool = False,
        try_lock: bool = False,
    ) -> bool:
        """Do something in each VMA that may map a folio, which is locked.

        Args:
            folio: The folio.
            rmap_one: What is done, given a VMA and the address in it at which the
                folio, or what *vma* may map of it, begins; false ends the walk.
            done: Is asked after each whether that is enough.
            invalid_vma: Whether a VMA is to be passed over.
            locked: The lock of all its VMAs is held by the caller.
            try_lock: Give up if somebody has that lock for writing.

        Returns:
            Whether it gave up.

        Source: mm/rmap.c, rmap_walk() and rmap_walk_locked(); with the lock,
        rmap_walk_anon() and rmap_walk_file()
        """
        if folio.mapping is None:
            return False
        lock = folio.mapping.root.lock if folio.anon else folio.mapping.i_mmap_rwsem
        if try_lock:
            if not lock.down_read_trylock():
                return True
        elif not locked:
            lock.down_read()
        walk = self.rmap_walk_anon if folio.anon else self.rmap_walk_file
        for vma, address, _ in walk(folio.mapping, folio.index, folio.nr_pages):
            if invalid_vma is not None and invalid_vma(vma):
                continue
            if not rmap_one(vma, address):
                break
            if done is not None and done(folio):
                break
        if not locked:
            lock.up_read()
        return False

    @staticmethod
    def folio_not_mapped(folio: Folio) -> bool:
        """Tell whether nothing maps a folio.

        Source: mm/rmap.c, folio_not_mapped()
        """
        return not folio.mapcount

    # -- flushes that are waited for later -------------------------------------------

    def set_tlb_ubc_flush_pending(
        self, mm: MmStruct, pte: int, start: int, end: int
    ) -> None:
        """Start the flush of an entry that was *pte*, and note that it is not over.

        Source: mm/rmap.c, set_tlb_ubc_flush_pending().
        Deviates: the counter is read and changed in one step, so no exchange is tried
        again.
        """
        if not self._kernel.pgtable_generic.pte_accessible(mm, pte):
            return
        self._kernel.tlbflush.arch_tlbbatch_add_pending(mm, start, end)
        tlb_ubc = self._tlb_ubc[self._kernel.machine.running.number]
        tlb_ubc.flush_required = True
        batch = mm.tlb_flush_batched
        if batch & TLB_FLUSH_BATCH_PENDING_MASK > TLB_FLUSH_BATCH_PENDING_LARGE:
            mm.tlb_flush_batched = 1
        else:
            mm.tlb_flush_batched += 1
        if pte_dirty(pte):
            tlb_ubc.writable = True

    def try_to_unmap_flush(self) -> None:
        """Wait for the flushes that this task has started, if there are any.

        Source: mm/rmap.c, try_to_unmap_flush().
        """
        tlb_ubc = self._tlb_ubc[self._kernel.machine.running.number]
        if not tlb_ubc.flush_required:
            return
        self._kernel.tlbflush.arch_tlbbatch_flush()
        tlb_ubc.flush_required = False
        tlb_ubc.writable = False

    def try_to_unmap_flush_dirty(self) -> None:
        """Do so if a CPU may still write to one of the pages: it is to be written out.

        An entry that was dirty lets a CPU write without looking at the table again.

        Source: mm/rmap.c, try_to_unmap_flush_dirty().
        """
        if self._tlb_ubc[self._kernel.machine.running.number].writable:
            self.try_to_unmap_flush()

    def flush_tlb_batched_pending(self, mm: MmStruct) -> None:
        """Make sure that no entry of *mm* is cleared and not flushed yet; PTL held.

        Another CPU may have started such flushes, for which only it can wait. Whoever
        takes a cleared entry for proof that nobody uses the page asks this first. A
        batch that begins while this flush is under way stays pending.

        Source: mm/rmap.c, flush_tlb_batched_pending().
        """
        batch = mm.tlb_flush_batched
        pending = batch & TLB_FLUSH_BATCH_PENDING_MASK
        flushed = batch >> TLB_FLUSH_BATCH_FLUSHED_SHIFT
        if pending == flushed:
            return
        self._kernel.tlbflush.flush_tlb_mm(mm)
        if mm.tlb_flush_batched == batch:
            mm.tlb_flush_batched = pending | pending << TLB_FLUSH_BATCH_FLUSHED_SHIFT

    def should_defer_flush(self, flags: int) -> bool:
        """Tell whether an unmap may leave the wait for its flush to its caller.

        Source: mm/rmap.c, should_defer_flush()
        """
        if not flags & TTU_BATCH_FLUSH:
            return False
        return self._kernel.tlbflush.arch_tlbbatch_should_defer()
