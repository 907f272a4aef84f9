"""References to pages, and the batches on their way to the LRU lists: mm/swap.c."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tlbkit.linux.include.linux.mm_types import (
    PG_lru,
    PG_reserved,
    PG_swapbacked,
)
from tlbkit.linux.mm.page_alloc import BadPageError

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import Folio, MmStruct
    from tlbkit.linux.kernel.kernel import Kernel

FOLIO_BATCH_SIZE: Final = 31


class Swap:
    """Takes and drops references; a page goes when the last one does."""

    __slots__ = ("_batches", "_kernel", "_machine")

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._machine = kernel.machine
        self._batches: list[list[Folio]] = [[] for _ in kernel.machine.cpus]

    def folio_put(self, folio: Folio) -> None:
        """Drop one reference, and the folio with the last."""
        if folio.refcount <= 0:
            raise BadPageError(folio, "a reference was dropped that nobody had")
        folio.refcount -= 1
        if not folio.refcount:
            if folio.flags & PG_reserved:
                raise BadPageError(folio, "the zero page lost its last reference")
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
            self.folio_put(folio)

    def folio_add_lru(self, folio: Folio) -> None:
        """Queue a folio for the LRU lists; until it gets there the queue holds it.

        A large folio does not wait, and neither does what was queued before it.
        """
        folio.refcount += 1
        batch = self._batches[self._machine.running.number]
        batch.append(folio)
        if len(batch) >= FOLIO_BATCH_SIZE or folio.order:
            self.lru_add_drain()

    def lru_add_drain(self) -> None:
        """Put what this CPU has queued on the LRU lists."""
        number = self._machine.running.number
        batch, self._batches[number] = self._batches[number], []
        for folio in batch:
            folio.flags |= PG_lru
            self.folio_put(folio)

    def lru_add_drain_all(self) -> None:
        """Put what any CPU has queued on the LRU lists."""
        for number, batch in enumerate(self._batches):
            self._batches[number] = []
            for folio in batch:
                folio.flags |= PG_lru
                self.folio_put(folio)

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
