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
Move = Literal["add", "lazyfree"]
"""What a batch is on its way to the lists for."""
MOVES: Final[tuple[Move, ...]] = get_args(Move)


class Swap:
    """Takes and drops references; a page goes when the last one does."""

    __slots__ = ("_batches", "_kernel", "_machine")

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._machine = kernel.machine
        self._batches: list[dict[Move, list[Folio]]] = [
            {"add": [], "lazyfree": []} for _ in kernel.machine.cpus
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
        if folios:
            self.lru_add_drain()
        for folio in folios:
            if folio.flags & PG_swapcache:
                self._kernel.swap_state.free_swap_cache(folio)
            self.folio_put(folio)

    # -- batches ---------------------------------------------------------------------

    def folio_add_lru(self, folio: Folio) -> None:
        """Queue a folio for the LRU lists; until it gets there the queue holds it."""
        self._folio_batch_add(folio, "add")

    def folio_mark_lazyfree(self, folio: Folio) -> None:
        """Queue a folio to be one that reclaim may drop unless it is written again."""
        if self._may_be_lazyfree(folio) and folio.flags & PG_lru:
            folio.flags &= ~PG_lru
            self._folio_batch_add(folio, "lazyfree")

    @staticmethod
    def _may_be_lazyfree(folio: Folio) -> bool:
        return folio.anon and folio.flags & (PG_swapbacked | PG_swapcache) == (
            PG_swapbacked
        )

    def _folio_batch_add(self, folio: Folio, move: Move) -> None:
        """Queue a folio, off the lists; a large one does not wait, nor those before."""
        folio.refcount += 1
        number = self._machine.running.number
        batch = self._batches[number][move]
        batch.append(folio)
        if len(batch) >= FOLIO_BATCH_SIZE or folio.order:
            self._folio_batch_move_lru(number, move)

    def _folio_batch_move_lru(self, number: int, move: Move) -> None:
        """Put on the lists what CPU *number* has queued, and let go of it."""
        batch = self._batches[number][move]
        self._batches[number][move] = []
        for folio in batch:
            if move == "lazyfree" and self._may_be_lazyfree(folio):
                folio.flags &= ~(PG_active | PG_referenced | PG_swapbacked)
            folio.flags |= PG_lru
            self.folio_put(folio)

    def lru_add_drain(self) -> None:
        """Put on the LRU lists what this CPU has queued."""
        self._lru_add_drain_cpu(self._machine.running.number)

    def lru_add_drain_all(self) -> None:
        """Put on the LRU lists what any CPU has queued."""
        for cpu in self._machine.cpus:
            self._lru_add_drain_cpu(cpu.number)

    def _lru_add_drain_cpu(self, number: int) -> None:
        for move in MOVES:
            self._folio_batch_move_lru(number, move)

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
