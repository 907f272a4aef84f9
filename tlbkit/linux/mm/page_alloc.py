"""Where frames come from and go to: mm/page_alloc.c, as a buddy allocator.

A freed frame is handed out again first, and keeps its contents until then, so that a
translation that should have been flushed shows what it leads to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from tlbkit.errors import TlbkitError
from tlbkit.linux.include.linux.mm_types import (
    Folio,
    LargeFolio,
    PG_table,
    PG_zone_device,
)
from tlbkit.linux.kernel.locking import SpinLock
from tlbkit.linux.mm.fail_page_alloc import FailPageAlloc

if TYPE_CHECKING:
    from collections.abc import Callable

    from tlbkit.linux.kernel.kernel import Kernel

RAM_BASE: Final = 0x8000_0000
"""Physical address of the first frame, as on many arm64 boards."""
RAM_SIZE: Final = 64 << 30
"""How much memory there is; below and above it are devices."""


class BadPageError(TlbkitError):
    """A page was freed, or used, in a state that the kernel reports as "Bad page"."""

    def __init__(self, folio: Folio, problem: str) -> None:
        super().__init__(f"bad page {folio!r}: {problem}")
        self.folio = folio
        self.problem = problem


class Blocks(NamedTuple):
    """Frames that the buddy allocator does not manage, cut into equal blocks.

    Attributes:
        first, last: The frames, *last* not included.
        order: log2 of the frames of a block.
        folios: The folio of each block that is in use, by number of the block.
    """

    first: int
    last: int
    order: int
    folios: dict[int, Folio]


class PageAlloc:
    """The frames of one kernel.

    Attributes:
        fail: Asked before each allocation, if it is given; a true answer makes it fail.
        fail_page_alloc: The plan by which allocations fail.
        in_use: Frames handed out and not freed.
        init_on_free: Frames are zeroed as they are freed, and not when they are handed
            out: the boot option of that name.
        highest_memmap_pfn: The last frame that is memory: mm/mm_init.c.
    """

    __slots__ = (
        "_base",
        "_blocks",
        "_folios",
        "_free",
        "_kernel",
        "_machine",
        "_sizes",
        "_top_order",
        "fail",
        "fail_page_alloc",
        "highest_memmap_pfn",
        "in_use",
        "init_on_free",
    )

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._machine = kernel.machine
        self.init_on_free = False
        shift = kernel.machine.model.page_shift
        self._base = RAM_BASE >> shift
        self.highest_memmap_pfn = (RAM_BASE + RAM_SIZE >> shift) - 1
        self._top_order = 2 * (shift - 3)
        self._blocks: list[Blocks] = []
        self._folios: list[Folio | None] = []
        self._free: list[list[int]] = [[] for _ in range(self._top_order + 1)]
        self._sizes = 0  # a bit for each order of which some block is free
        self.fail: Callable[[], bool] | None = None
        self.fail_page_alloc = FailPageAlloc()
        self.in_use = 0

    def pfn_valid(self, pfn: int) -> bool:
        """Tell whether frame *pfn* is memory, so that there is a page to speak of.

        Source: include/linux/mmzone.h, pfn_valid()
        """
        return self._base <= pfn <= self.highest_memmap_pfn

    def folio(self, pfn: int) -> Folio | None:
        """Return the folio that frame *pfn* belongs to: pfn_folio().

        Source: include/linux/mm.h, pfn_folio()
        """
        index = pfn - self._base
        if 0 <= index < len(self._folios):
            return self._folios[index]
        for blocks in self._blocks:
            if blocks.first <= pfn < blocks.last:
                return blocks.folios.get(pfn - blocks.first >> blocks.order)
        return None

    def folio_of(self, pfn: int) -> Folio:
        """Return the folio that frame *pfn* must belong to.

        Source: include/linux/mm.h, pfn_folio()
        """
        index = pfn - self._base
        folio = self._folios[index] if 0 <= index < len(self._folios) else None
        folio = folio or self.folio(pfn)
        if folio is None:
            raise BadPageError(Folio(pfn), "this frame is not in use")
        return folio

    def folios(self) -> list[Folio]:
        """Return every folio of memory in use, by frame.

        Source: none; tests and rules look at all of them.
        """
        return list(dict.fromkeys(folio for folio in self._folios if folio is not None))

    def should_fail_alloc_page(self, order: int = 0) -> bool:
        """Tell whether an allocation of 2**order pages fails, and count it.

        Source: mm/fail_page_alloc.c, should_fail_alloc_page()
        """
        if self.fail is not None and self.fail():
            return True
        plan = self.fail_page_alloc
        return plan.times != 0 and plan.should_fail_alloc_page(order)

    def alloc(self, order: int = 0) -> Folio | None:
        """Return a new folio with one reference, or ``None`` without memory.

        Its contents are whatever the frames held last.

        Source: include/linux/gfp.h, folio_alloc()
        """
        if self.should_fail_alloc_page(order):
            return None
        pfn = self._take(order)
        folio = LargeFolio(pfn, order) if order else Folio(pfn)
        first = pfn - self._base
        if order:
            self._folios[first : first + (1 << order)] = [folio] * (1 << order)
        else:
            self._folios[first] = folio
        self.in_use += 1 << order
        if "alloc" in self._machine.events.heard:
            self._machine.events.emit(
                self._machine.running.number, "alloc", pfn, new=order
            )
        return folio

    def alloc_zeroed(self, order: int = 0, *, zero_tags: bool = False) -> Folio | None:
        """Return a new folio full of zeros, or ``None`` without memory.

        With *zero_tags* its memory tags are 0 as well: __GFP_ZEROTAGS.

        Source: include/linux/highmem.h, vma_alloc_zeroed_movable_folio()
        """
        folio = self.alloc(order)
        if folio is not None:
            self.post_alloc_hook(folio, zero_tags=zero_tags)
        return folio

    def post_alloc_hook(self, folio: Folio, *, zero_tags: bool) -> None:
        """Fill a new folio with zeros, unless that was done when it was freed.

        Tags are asked for apart from that: nothing has cleared them before.

        Source: mm/page_alloc.c, post_alloc_hook()
        """
        init = not self.init_on_free
        if zero_tags and self._kernel.mte.supported:
            mte = self._kernel.mte
            mte.tag_clear_highpages(folio.pfn, folio.nr_pages, clear_pages=init)
        elif init:
            self.kernel_init_pages(folio)

    def kernel_init_pages(self, folio: Folio) -> None:
        """Fill a folio with zeros; its tags stay.

        Source: mm/page_alloc.c, kernel_init_pages()
        """
        clear_frame = self._machine.memory.clear_frame
        if not folio.order:
            clear_frame(folio.pfn)
            return
        for pfn in range(folio.pfn, folio.pfn + folio.nr_pages):
            clear_frame(pfn)

    def alloc_table(self, name: str) -> Folio | None:
        """Return a zeroed frame for a page table, with its own lock, or ``None``.

        Source: include/linux/mm.h, pagetable_alloc() and pagetable_pte_ctor()
        """
        folio = self.alloc_zeroed()
        if folio is not None:
            folio.flags |= PG_table
            folio.mapping = SpinLock(self._machine, f"{name} {folio.pfn:#x}", folio.pfn)
        return folio

    def free(self, folio: Folio) -> None:
        """Give all frames of *folio* back; nothing may map or hold it any more.

        Source: mm/page_alloc.c, free_frozen_pages()
        """
        if folio.mapcount:
            raise BadPageError(folio, "freed while page tables map it")
        if folio.refcount > 0 and not folio.flags & PG_table:
            raise BadPageError(folio, "freed while somebody holds a reference")
        order, pfn = folio.order, folio.pfn
        if order and folio.anon:
            self._kernel.vmstat.mod_mthp_stat(order, -1)
        if self.init_on_free:
            self.kernel_init_pages(folio)
        nr = 1 << order
        if self._kernel.mte.supported:
            self._kernel.mte.pages_freed(pfn, nr)
        first = pfn - self._base
        if order:
            self._folios[first : first + nr] = [None] * nr
        else:
            self._folios[first] = None
        self._put(pfn, order)
        self.in_use -= nr
        if "free" in self._machine.events.heard:
            self._machine.events.emit(
                self._machine.running.number, "free", folio.pfn, old=folio.order
            )

    # -- blocks of somebody else's ---------------------------------------------------

    def add_blocks(self, order: int, count: int) -> int | None:
        """Put in *count* blocks of memory above all that there is, for one user.

        So pools of huge pages are filled: at boot, before anything else has memory, or
        from memory that happens to be free in such blocks. Here there always is some,
        up to what the CPU can address.

        Returns:
            The first frame, or ``None`` if the physical address space ends.

        Source: none; memory for huge pages is put in where the kernel would take some
        away.
        """
        first = -(-(self.highest_memmap_pfn + 1) >> order) << order
        last = first + (count << order)
        if last << self._machine.model.page_shift > 1 << self._machine.model.pa_bits:
            return None
        if count:
            self.highest_memmap_pfn = last - 1
            self._blocks.append(Blocks(first, last, order, {}))
        return first

    def put_block(self, folio: Folio) -> None:
        """Let the frames of one such block lead to *folio*, which is in use now.

        Source: none; such memory is described when it is used.
        """
        blocks = self._blocks_of(folio)
        blocks.folios[folio.pfn - blocks.first >> blocks.order] = folio

    def take_block(self, folio: Folio) -> None:
        """Let them lead nowhere, as *folio* is not in use any more.

        Source: none; such memory is described while it is used.
        """
        blocks = self._blocks_of(folio)
        del blocks.folios[folio.pfn - blocks.first >> blocks.order]

    def _blocks_of(self, folio: Folio) -> Blocks:
        for blocks in self._blocks:
            if blocks.first <= folio.pfn < blocks.last:
                return blocks
        raise BadPageError(folio, "it is in no block that was put in")

    def split(self, folio: Folio) -> list[Folio]:
        """Make each page of *folio* a folio of its own; callers move the state over.

        Source: mm/huge_memory.c, __split_folio_to_order()
        """
        first = folio.pfn - self._base
        pages = [Folio(folio.pfn + n) for n in range(folio.nr_pages)]
        self._folios[first : first + len(pages)] = pages
        return pages

    def device_folio(self, pfn: int, order: int) -> Folio:
        """Describe frames of a device as one folio that nobody holds.

        Its last reference frees nothing: the frames stay the device's.

        Source: mm/memremap.c, memremap_pages()
        """
        folio = LargeFolio(pfn, order) if order else Folio(pfn)
        folio.refcount = 0
        folio.flags |= PG_zone_device
        first = pfn - self._base
        self._folios[first : first + (1 << order)] = [folio] * (1 << order)
        return folio

    def _take(self, order: int) -> int:
        """Return the first frame of a free, aligned block."""
        sizes = self._sizes >> order << order
        if not sizes:
            return self._grow(order)
        size = (sizes & -sizes).bit_length() - 1
        blocks = self._free[size]
        pfn = blocks.pop()
        if not blocks:
            self._sizes ^= 1 << size
        while size > order:
            size -= 1
            self._put(pfn + (1 << size), size)
        return pfn

    def _put(self, pfn: int, order: int) -> None:
        """Let a block be taken again."""
        self._free[order].append(pfn)
        self._sizes |= 1 << order

    def _grow(self, order: int) -> int:
        """Open RAM that was never used; what alignment leaves over becomes free."""
        pfn = self._base + len(self._folios)
        while pfn & ((1 << order) - 1):
            gap = (pfn & -pfn).bit_length() - 1
            self._put(pfn, gap)
            self._folios += [None] * (1 << gap)
            pfn += 1 << gap
        self._folios += [None] * (1 << order)
        return pfn
