"""References to pages, and the batches on their way to the LRU lists: mm/swap.c."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, get_args

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
    from tlbkit.linux.include.linux.mm_types import Folio, MmStruct
    from tlbkit.linux.kernel.kernel import Kernel

FOLIO_BATCH_SIZE: Final = 31
Move = Literal["lru_add", "lru_deactivate", "lru_lazyfree"]
"""What a batch is on its way to the lists for."""
MOVES: Final[tuple[Move, ...]] = get_args(Move)


class Swap:
    """Takes and drops references; a page goes when the last one does."""

    __slots__ = ("_batches", "_kernel", "_machine")

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._machine = kernel.machine
        self._batches: list[dict[Move, list[Folio]]] = [
            {"lru_add": [], "lru_deactivate": [], "lru_lazyfree": []}
            for _ in kernel.machine.cpus
        ]

    def folio_put(self, folio: Folio) -> None:
        """Drop one reference, and the folio with the last."""
        if folio.refcount <= 0:
            raise BadPageError(folio, "a reference was dropped that nobody had")
        folio.refcount -= 1
        if not folio.refcount and not folio.flags & PG_zone_device:
            if folio.flags & PG_reserved:
                raise BadPageError(folio, "the zero page lost its last reference")
            if isinstance(folio, HugetlbFolio):
                self._kernel.hugetlb.free_huge_folio(folio)
                return
            if folio.order:
                self._kernel.huge_memory.folio_unqueue_deferred_split(folio)
                if folio.anon:
                    self._kernel.vmstat.mod_mthp_stat(folio.order, -1)
            self._kernel.page_alloc.free(folio)

    def free_pages_and_swap_cache(self, folios: list[Folio]) -> None:
        """Drop one reference for each entry of *folios*."""
        for folio in folios:
            if folio.flags & PG_swapcache:
                self._kernel.swap_state.free_swap_cache(folio)
            self.folio_put(folio)

    # -- batches ---------------------------------------------------------------------

    def folio_batch_move_lru(self, number: int, move: Move) -> None:
        """Move on the lists what CPU *number* has queued, and let go of it.

        A folio that was taken off the lists meanwhile is left alone.

        Source: mm/swap.c, folio_batch_move_lru()
        """
        batch = self._batches[number][move]
        self._batches[number][move] = []
        for folio in batch:
            if move == "lru_add":
                folio.flags |= PG_lru
            elif folio.flags & PG_lru:
                if move == "lru_deactivate":
                    self.lru_deactivate(folio)
                else:
                    self.lru_lazyfree(folio)
        for folio in batch:
            self.folio_put(folio)

    def folio_batch_add_and_move(self, folio: Folio, move: Move) -> None:
        """Queue a folio, which is held until it is moved; a full queue is moved.

        Large folios do not wait, nor do those that were queued before them.

        Source: mm/swap.c, __folio_batch_add_and_move()
        """
        folio.refcount += 1
        number = self._machine.running.number
        batch = self._batches[number][move]
        batch.append(folio)
        if len(batch) >= FOLIO_BATCH_SIZE or not self.folio_may_be_lru_cached(folio):
            self.folio_batch_move_lru(number, move)

    @staticmethod
    def folio_may_be_lru_cached(folio: Folio) -> bool:
        """Tell whether a batch may hold a folio for a while.

        Source: include/linux/swap.h, folio_may_be_lru_cached()
        """
        return not folio.order

    def folio_add_lru(self, folio: Folio) -> None:
        """Queue a folio for the LRU lists; until it gets there the queue holds it.

        Source: mm/swap.c, folio_add_lru()
        """
        self.folio_batch_add_and_move(folio, "lru_add")

    @staticmethod
    def lru_deactivate(folio: Folio) -> None:
        """Let a folio on the lists count as not used.

        Source: mm/swap.c, lru_deactivate()
        """
        folio.flags &= ~(PG_active | PG_referenced)

    @classmethod
    def lru_lazyfree(cls, folio: Folio) -> None:
        """Let a folio on the lists be one that reclaim may drop.

        Source: mm/swap.c, lru_lazyfree()
        """
        if cls._may_be_lazyfree(folio):
            folio.flags &= ~(PG_active | PG_referenced | PG_swapbacked)

    def lru_add_drain_cpu(self, number: int) -> None:
        """Move on the LRU lists what CPU *number* has queued.

        Source: mm/swap.c, lru_add_drain_cpu()
        """
        for move in MOVES:
            self.folio_batch_move_lru(number, move)

    def folio_deactivate(self, folio: Folio) -> None:
        """Queue a folio to be taken by reclaim before others; its queue holds it.

        Source: mm/swap.c, folio_deactivate()
        Deviates: the generations of CONFIG_LRU_GEN are not kept: a page of a file
        counts as one of the oldest, which needs no move, and all others as younger.
        """
        if not folio.flags & PG_lru:
            return
        folio.flags &= ~PG_referenced
        if folio.flags & PG_swapbacked:
            self.folio_batch_add_and_move(folio, "lru_deactivate")

    def folio_mark_lazyfree(self, folio: Folio) -> None:
        """Queue a folio to be one that reclaim may drop unless it is written again.

        Source: mm/swap.c, folio_mark_lazyfree()
        """
        if self._may_be_lazyfree(folio) and folio.flags & PG_lru:
            self.folio_batch_add_and_move(folio, "lru_lazyfree")

    @staticmethod
    def _may_be_lazyfree(folio: Folio) -> bool:
        """Tell whether a folio is anonymous memory that has no slot in swap."""
        kept = PG_swapbacked | PG_swapcache
        return folio.anon and folio.flags & kept == PG_swapbacked

    def lru_add_drain(self) -> None:
        """Move on the LRU lists what this CPU has queued.

        Source: mm/swap.c, lru_add_drain()
        """
        self.lru_add_drain_cpu(self._machine.running.number)

    def lru_add_drain_all(self) -> None:
        """Move on the LRU lists what any CPU has queued.

        Source: mm/swap.c, lru_add_drain_all()
        Deviates: the other CPUs do it themselves in the kernel, each in a worker.
        """
        for cpu in self._machine.cpus:
            self.lru_add_drain_cpu(cpu.number)

    # -- counters --------------------------------------------------------------------

    @staticmethod
    def inc_file_counter(mm: MmStruct, folio: Folio, nr: int = 1) -> None:
        """Count *nr* resident pages of a file, or of shared memory."""
        if folio.flags & PG_swapbacked:
            mm.shmempages += nr
        else:
            mm.filepages += nr

    @staticmethod
    def dec_file_counter(mm: MmStruct, folio: Folio, nr: int = 1) -> None:
        """Count *nr* resident pages of a file, or of shared memory, less."""
        if folio.flags & PG_swapbacked:
            mm.shmempages -= nr
        else:
            mm.filepages -= nr
