"""Dirty pages of files, and how they are written back: mm/page-writeback.c.

Compared with: v6.19, in December 2026.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.include.linux.mm_types import PG_dirty
from tlbkit.linux.include.linux.pagemap import folio_lock, folio_unlock

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.fs import AddressSpace
    from tlbkit.linux.include.linux.mm_types import Folio
    from tlbkit.linux.kernel.kernel import Kernel


class PageWriteback:
    """Marks folios dirty, and writes back what is."""

    __slots__ = ("_kernel", "_machine")

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._machine = kernel.machine

    @staticmethod
    def folio_mark_dirty(folio: Folio) -> bool:
        """Note that a folio was written; tell whether that is new.

        Source: mm/page-writeback.c, folio_mark_dirty()
        """
        mapping: AddressSpace | None = folio.mapping
        if mapping is None or folio.anon:
            new = not folio.flags & PG_dirty
            folio.flags |= PG_dirty
            return new
        return mapping.ops.dirty_folio(mapping, folio)

    def folio_clear_dirty_for_io(self, folio: Folio) -> bool:
        """Make a locked folio clean before it is written; tell whether it was not.

        From here on nobody can write to it unnoticed: all that map it lose the right to
        write, and whoever writes next faults. Entries that were dirty make it so first.
        What has no file system to tell only loses the flag.

        Source: mm/page-writeback.c, folio_clear_dirty_for_io()
        """
        writeback = not folio.anon and folio.mapping.ops.can_writeback
        if writeback and self._kernel.rmap.folio_mkclean(folio):
            self.folio_mark_dirty(folio)
        dirty = bool(folio.flags & PG_dirty)
        folio.flags &= ~PG_dirty
        return dirty

    def filemap_write_and_wait_range(
        self, mapping: AddressSpace, start: int, end: int
    ) -> int:
        """Write back what is dirty in the bytes [start, end); 0 or an error number.

        Source: mm/filemap.c, filemap_write_and_wait_range()
        """
        if not mapping.ops.can_writeback or end <= start:
            return 0
        shift = self._kernel.pgtable.page_shift
        error = 0
        for folio in mapping.folios(start >> shift, end - 1 >> shift):
            if not folio.flags & PG_dirty:
                continue
            folio.refcount += 1
            folio_lock(self._machine, folio)
            if folio.mapping is mapping and self.folio_clear_dirty_for_io(folio):
                error = mapping.ops.writepage(mapping, folio) or error
            folio_unlock(self._machine, folio)
            self._kernel.swap.folio_put(folio)
        return error
