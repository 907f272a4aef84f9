"""References to folios, and the batches on their way to the LRU lists: mm/swap.c.

Each CPU has a batch for each thing that can be done to the LRU lists. A folio in a
batch has one reference more until the batch is drained, which is what makes the batches
visible: whoever counts references finds one that no entry accounts for.

The lists themselves are left out. Of the generations of CONFIG_LRU_GEN, which is taken
to be enabled, there are two, the oldest and all others: ``PG_active`` says that a folio
is in a younger one, also while it is on a list.

Compared with: v6.19, in December 2026.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tlbkit.linux.include.linux.hugetlb import HugetlbFolio
from tlbkit.linux.include.linux.mm_types import (
    PG_active,
    PG_lru,
    PG_referenced,
    PG_reserved,
    PG_swapbacked,
    PG_swapcache,
    PG_zone_device,
)
from tlbkit.linux.mm.page_alloc import BadPageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tlbkit.linux.include.linux.mm_types import Folio, MmStruct
    from tlbkit.linux.kernel.kernel import Kernel

FOLIO_BATCH_SIZE: Final = 31


def lru_add(folio: Folio) -> None:
    """Put a folio on a list for the first time, or again after it was isolated.

    What has no file, and no copy in swap, goes to a younger generation.

    Source: mm/swap.c, lru_add(), and lru_gen_folio_seq() of include/linux/mm_inline.h.
    Deviates: a folio of a file that a fault reads in starts in the oldest generation;
    it is never aged here.
    """
    if folio.flags & (PG_swapbacked | PG_swapcache) == PG_swapbacked:
        folio.flags |= PG_active


def lru_deactivate(folio: Folio) -> None:
    """Move a folio to where reclaim looks before it looks elsewhere.

    Source: mm/swap.c, lru_deactivate().
    """
    folio.flags &= ~(PG_active | PG_referenced)
    lru_add(folio)


def lru_lazyfree(folio: Folio) -> None:
    """Let reclaim drop a folio unless it is written again; it counts as a file's now.

    Source: mm/swap.c, lru_lazyfree().
    """
    if not folio.anon or folio.flags & (PG_swapbacked | PG_swapcache) != PG_swapbacked:
        return
    folio.flags &= ~(PG_active | PG_referenced | PG_swapbacked)


class CpuFbatches:
    """The batches of one CPU, in the order in which they are drained: cpu_fbatches."""

    __slots__ = ("lru_add", "lru_deactivate", "lru_lazyfree")

    def __init__(self) -> None:
        self.lru_add: list[Folio] = []
        self.lru_deactivate: list[Folio] = []
        self.lru_lazyfree: list[Folio] = []


class Swap:
    """Takes and drops references; a folio goes when the last one does."""

    __slots__ = ("_fbatches", "_kernel", "_machine")

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._machine = kernel.machine
        self._fbatches = tuple(CpuFbatches() for _ in kernel.machine.cpus)

    def folio_put(self, folio: Folio) -> None:
        """Drop one reference, and the folio with the last.

        Source: mm/swap.c, __folio_put(), and folio_put() of include/linux/mm.h.
        """
        if folio.refcount <= 0:
            raise BadPageError(folio, "a reference was dropped that nobody had")
        folio.refcount -= 1
        if folio.refcount or folio.flags & PG_zone_device:
            return
        if folio.flags & PG_reserved:
            raise BadPageError(folio, "the zero page lost its last reference")
        if isinstance(folio, HugetlbFolio):
            self._kernel.hugetlb.free_huge_folio(folio)
            return
        folio.flags &= ~PG_lru
        if folio.order:
            self._kernel.huge_memory.folio_unqueue_deferred_split(folio)
        self._kernel.page_alloc.free(folio)

    # -- batches ---------------------------------------------------------------------

    def folio_batch_move_lru(
        self, fbatch: list[Folio], move_fn: Callable[[Folio], None]
    ) -> None:
        """Do to all folios of a batch what they wait for, and let go of them.

        A folio that somebody isolated meanwhile is left alone.

        Source: mm/swap.c, folio_batch_move_lru().
        """
        moved = fbatch[:]
        fbatch.clear()
        for folio in moved:
            if move_fn is not lru_add and not folio.flags & PG_lru:
                continue
            move_fn(folio)
            folio.flags |= PG_lru
        for folio in moved:
            self.folio_put(folio)

    def folio_batch_add_and_move(
        self, fbatch: list[Folio], folio: Folio, move_fn: Callable[[Folio], None]
    ) -> None:
        """Queue a folio; a full batch is moved at once, and one with a large folio.

        Source: mm/swap.c, __folio_batch_add_and_move().
        """
        folio.refcount += 1
        fbatch.append(folio)
        if len(fbatch) >= FOLIO_BATCH_SIZE or folio.order:
            self.folio_batch_move_lru(fbatch, move_fn)

    def folio_add_lru(self, folio: Folio) -> None:
        """Queue a folio for the LRU lists.

        Source: mm/swap.c, folio_add_lru().
        Deviates: whether a fault reads it in makes no difference: see `lru_add`.
        """
        fbatches = self._fbatches[self._machine.running.number]
        self.folio_batch_add_and_move(fbatches.lru_add, folio, lru_add)

    def lru_add_drain_cpu(self, cpu: int) -> None:
        """Move all that CPU number *cpu* has queued.

        Source: mm/swap.c, lru_add_drain_cpu().
        """
        fbatches = self._fbatches[cpu]
        self.folio_batch_move_lru(fbatches.lru_add, lru_add)
        self.folio_batch_move_lru(fbatches.lru_deactivate, lru_deactivate)
        self.folio_batch_move_lru(fbatches.lru_lazyfree, lru_lazyfree)

    def folio_deactivate(self, folio: Folio) -> None:
        """Queue a folio to be the first that reclaim looks at, if it is not that.

        Source: mm/swap.c, folio_deactivate().
        """
        if not folio.flags & PG_lru or self.lru_gen_clear_refs(folio):
            return
        fbatches = self._fbatches[self._machine.running.number]
        self.folio_batch_add_and_move(fbatches.lru_deactivate, folio, lru_deactivate)

    @staticmethod
    def lru_gen_clear_refs(folio: Folio) -> bool:
        """Forget that a folio was used; true if it is in the oldest generation.

        Source: mm/swap.c, lru_gen_clear_refs().
        """
        folio.flags &= ~PG_referenced
        return not folio.flags & PG_active

    def folio_mark_lazyfree(self, folio: Folio) -> None:
        """Queue a folio to be one that reclaim may drop unless it is written again.

        Source: mm/swap.c, folio_mark_lazyfree().
        """
        backed = folio.flags & (PG_swapbacked | PG_swapcache | PG_lru)
        if not folio.anon or backed != PG_swapbacked | PG_lru:
            return
        fbatches = self._fbatches[self._machine.running.number]
        self.folio_batch_add_and_move(fbatches.lru_lazyfree, folio, lru_lazyfree)

    def lru_add_drain(self) -> None:
        """Move all that this CPU has queued.

        Source: mm/swap.c, lru_add_drain().
        """
        self.lru_add_drain_cpu(self._machine.running.number)

    def lru_add_drain_all(self) -> None:
        """Move all that any CPU has queued.

        Source: mm/swap.c, lru_add_drain_all().
        Deviates: the caller does the work of the other CPUs, which each do it in a
        worker while the caller waits.
        """
        self.lru_add_drain()
        for cpu in self._machine.cpus:
            self.lru_add_drain_cpu(cpu.number)

    def folio_batch_release(self, folios: list[Folio]) -> None:
        """Drop a reference to each folio, drained first so that they are really freed.

        Source: mm/swap.c, __folio_batch_release().
        """
        if not folios:
            return
        self.lru_add_drain()
        for folio in folios:
            self.folio_put(folio)

    # -- counters --------------------------------------------------------------------

    @staticmethod
    def inc_file_counter(mm: MmStruct, folio: Folio, nr: int = 1) -> None:
        """Count *nr* resident pages of a file, or of shared memory.

        Source: include/linux/mm.h, mm_counter_file() and add_mm_counter().
        """
        if folio.flags & PG_swapbacked:
            mm.shmempages += nr
        else:
            mm.filepages += nr

    @staticmethod
    def dec_file_counter(mm: MmStruct, folio: Folio, nr: int = 1) -> None:
        """Count *nr* resident pages of a file, or of shared memory, less.

        Source: include/linux/mm.h, mm_counter_file() and add_mm_counter().
        """
        if folio.flags & PG_swapbacked:
            mm.shmempages -= nr
        else:
            mm.filepages -= nr
