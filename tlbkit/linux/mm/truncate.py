"""Taking pages out of files: mm/truncate.c."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.include.linux.mm_types import PG_dirty
from tlbkit.linux.include.linux.pagemap import folio_lock, folio_unlock

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.fs import AddressSpace, Inode
    from tlbkit.linux.include.linux.mm_types import Folio
    from tlbkit.linux.kernel.kernel import Kernel


class Truncate:
    """Truncates files, and drops pages that need not be in memory."""

    __slots__ = ("_kernel", "_machine", "_pgtable")

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._machine = kernel.machine
        self._pgtable = kernel.pgtable

    def truncate_setsize(self, inode: Inode, size: int) -> None:
        """Give a file another size, in bytes, and take away what lies behind it.

        Source: mm/truncate.c, truncate_setsize()
        """
        smaller = size < inode.size
        inode.size = size
        if smaller:
            self.truncate_pagecache(inode, size)

    def truncate_pagecache(self, inode: Inode, size: int) -> None:
        """Unmap and free what lies behind byte *size*.

        Private copies of such pages go too. A fault may still make one while pages are
        being freed, hence the second round.

        Source: mm/truncate.c, truncate_pagecache()
        """
        hole = -(-size >> self._pgtable.page_shift)
        unmap = self._kernel.memory.unmap_mapping_pages
        unmap(inode.mapping, hole, even_cows=True)
        self.truncate_inode_pages(inode.mapping, size)
        unmap(inode.mapping, hole, even_cows=True)

    def truncate_inode_pages(self, mapping: AddressSpace, start: int) -> None:
        """Free the pages behind byte *start*; the rest of a page there is cleared.

        A large folio that *start* lies in stays, cleared behind it; the kernel would
        try to split it.

        Source: mm/truncate.c, truncate_inode_pages()
        """
        shift = self._pgtable.page_shift
        for folio in mapping.folios(start >> shift, 1 << 64):
            folio.refcount += 1
            folio_lock(self._machine, folio)
            keep = start - (folio.index << shift)
            if keep > 0:
                self._clear_behind(folio, keep)
            else:
                self.truncate_inode_folio(mapping, folio)
            folio_unlock(self._machine, folio)
            self._kernel.swap.folio_put(folio)
        self._kernel.swap.lru_add_drain()

    def truncate_inode_folio(self, mapping: AddressSpace, folio: Folio) -> None:
        """Take a locked folio out of its file, and out of every table.

        Source: mm/truncate.c, truncate_inode_folio()
        """
        if folio.mapcount:
            self._kernel.memory.unmap_mapping_pages(
                mapping, folio.index, folio.nr_pages, even_cows=False
            )
        self._kernel.filemap.filemap_remove_folio(folio)

    def _clear_behind(self, folio: Folio, offset: int) -> None:
        """Clear a folio from byte *offset* on."""
        memory = self._machine.memory
        size = self._pgtable.page_size
        first = folio.pfn << self._pgtable.page_shift
        for place in range(-(-offset // 8) * 8, folio.nr_pages * size, 8):
            if memory.read(first + place):
                memory.write(first + place, 0)

    def invalidate_mapping_pages(self, mapping: AddressSpace) -> int:
        """Drop every clean page that nobody maps; return how many went.

        Source: also fs/drop_caches.c, which does it for every file.
        """
        if mapping.ops.swap_backed:
            return 0  # there is nowhere to read them in from again
        self._kernel.swap.lru_add_drain_all()
        gone = 0
        for folio in mapping.folios(0, 1 << 64):
            if (
                folio.flags & PG_dirty
                or folio.mapcount
                or folio.refcount > folio.nr_pages
            ):
                continue
            folio_lock(self._machine, folio)
            folio.refcount += 1
            self._kernel.filemap.filemap_remove_folio(folio)
            folio_unlock(self._machine, folio)
            self._kernel.swap.folio_put(folio)
            gone += folio.nr_pages
        return gone
