"""Taking pages out of files: mm/truncate.c.

Compared with: v6.19, in December 2026.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.include.linux.mm import ULONG_MAX
from tlbkit.linux.include.linux.mm_types import PG_dirty
from tlbkit.linux.include.linux.pagemap import (
    folio_lock,
    folio_trylock,
    folio_unlock,
)
from tlbkit.linux.include.uapi.asm_generic.errno import EIO

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

    def truncate_pagecache_range(self, inode: Inode, lstart: int, lend: int) -> None:
        """Unmap and free the pages from byte *lstart* to *lend*, which is included.

        Only parts of a page are cleared. Private copies of such pages stay.

        Source: mm/truncate.c, truncate_pagecache_range()
        """
        shift = self._pgtable.page_shift
        first, last = -(-lstart >> shift), lend + 1 >> shift
        if last > first:
            self._kernel.memory.unmap_mapping_pages(
                inode.mapping, first, last - first, even_cows=False
            )
        self.truncate_inode_pages_range(inode.mapping, lstart, lend)

    def truncate_inode_pages(self, mapping: AddressSpace, lstart: int) -> None:
        """Free the pages behind byte *lstart*; the rest of a page there is cleared.

        Source: mm/truncate.c, truncate_inode_pages()
        """
        self.truncate_inode_pages_range(mapping, lstart, ULONG_MAX)

    def truncate_inode_pages_range(
        self, mapping: AddressSpace, lstart: int, lend: int
    ) -> None:
        """Free the pages from byte *lstart* to *lend*; parts of pages are cleared.

        Source: mm/truncate.c, truncate_inode_pages_range()
        Deviates: it goes through the file once, and waits for the lock of each folio,
        where the kernel first takes those that nobody has locked.
        """
        shift = self._pgtable.page_shift
        for folio in mapping.folios(lstart >> shift, lend >> shift):
            if mapping.pages.get(folio.index) is not folio:
                continue
            folio.refcount += 1
            folio_lock(self._machine, folio)
            if folio.mapping is mapping:  # not reclaimed while this waited
                self.truncate_inode_partial_folio(folio, lstart, lend)
            folio_unlock(self._machine, folio)
            self._kernel.swap.folio_put(folio)
        self._kernel.swap.lru_add_drain()

    def truncate_inode_partial_folio(self, folio: Folio, start: int, end: int) -> None:
        """Clear bytes *start* to *end* of a locked folio, or take all of it out.

        Both are places in the file.

        Source: mm/truncate.c, truncate_inode_partial_folio()
        Deviates: a large folio stays as large as it is, cleared, where the kernel tries
        to split it.
        """
        shift = self._pgtable.page_shift
        pos = folio.index << shift
        size = folio.nr_pages << shift
        offset, until = max(start - pos, 0), min(end + 1 - pos, size)
        if until - offset == size:
            self.truncate_inode_folio(folio.mapping, folio)
            return
        memory = self._machine.memory
        first = folio.pfn << shift
        for place in range(offset & -8, until, 8):
            word = memory.read(first + place)
            begin, stop = max(offset - place, 0), min(until - place, 8)
            cleared = word & ~((1 << 8 * stop) - (1 << 8 * begin))
            if word != cleared:
                memory.write(first + place, cleared)

    def truncate_inode_folio(self, mapping: AddressSpace, folio: Folio) -> int:
        """Take a locked folio out of its file, and out of every table; 0 or ``-EIO``.

        Source: mm/truncate.c, truncate_inode_folio()
        """
        if folio.mapping is not mapping:
            return -EIO
        self.truncate_cleanup_folio(folio)
        self._kernel.filemap.filemap_remove_folio(folio)
        return 0

    def truncate_cleanup_folio(self, folio: Folio) -> None:
        """Unmap a locked folio, and forget that it was written.

        Source: mm/truncate.c, truncate_cleanup_folio()
        """
        if folio.mapcount:
            self._kernel.memory.unmap_mapping_folio(folio)
        folio.flags &= ~PG_dirty

    def mapping_evict_folio(self, mapping: AddressSpace, folio: Folio) -> int:
        """Drop a locked, clean folio that only its file and the caller hold.

        Returns:
            How many pages went.

        Source: mm/truncate.c, mapping_evict_folio()
        """
        if folio.mapping is not mapping or folio.flags & PG_dirty:
            return 0
        if folio.refcount > folio.nr_pages + 1:
            return 0
        self._kernel.filemap.filemap_remove_folio(folio)  # remove_mapping()
        return folio.nr_pages

    def invalidate_mapping_pages(self, mapping: AddressSpace) -> int:
        """Drop every clean page that nobody maps; return how many went.

        Source: mm/truncate.c, invalidate_mapping_pages()
        Deviates: it drains the batches of all CPUs first, as fs/drop_caches.c does,
        which is the only one that calls it here.
        """
        if mapping.ops.swap_backed:
            return 0  # there is nowhere to read them in from again
        self._kernel.swap.lru_add_drain_all()
        gone = 0
        for folio in mapping.folios(0, 1 << 64):
            if mapping.pages.get(folio.index) is not folio:
                continue
            folio.refcount += 1
            if folio_trylock(folio):
                gone += self.mapping_evict_folio(mapping, folio)
                folio_unlock(self._machine, folio)
            self._kernel.swap.folio_put(folio)
        return gone
