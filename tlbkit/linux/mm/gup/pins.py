"""References and pins, and who may take which."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.include.linux.fs import AddressSpace
from tlbkit.linux.include.linux.mm import (
    FOLL_GET,
    FOLL_LONGTERM,
    FOLL_PIN,
    FOLL_WRITE,
    is_cow_mapping,
)
from tlbkit.linux.include.linux.mm_types import (
    GUP_PIN_COUNTING_BIAS,
    LargeFolio,
    PG_zone_device,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tlbkit.linux.include.linux.mm_types import Folio, MmStruct, Page, VmArea
    from tlbkit.linux.kernel.kernel import Kernel


class GupPins:
    """Pins and their consequences.

    A reference keeps a page from being freed; a pin says besides that its contents may
    be read or written at any time without the page tables.
    """

    __slots__ = ("_kernel", "_machine", "_pgtable")

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._machine = kernel.machine
        self._pgtable = kernel.pgtable

    # -- rules of the headers --------------------------------------------------------

    def folio_needs_cow_for_dma(self, vma: VmArea, folio: Folio) -> bool:
        """Tell whether fork must copy *folio* at once, because it may be pinned.

        Source: include/linux/mm.h, folio_needs_cow_for_dma()
        """
        return vma.mm.has_pinned and folio.maybe_dma_pinned()

    @staticmethod
    def folio_is_fsdax(folio: Folio) -> bool:
        """Tell whether *folio* is persistent memory that a file system gives to files.

        Source: include/linux/memremap.h, folio_is_fsdax()
        Deviates: the file that a folio belongs to is asked, for there is no pagemap.
        """
        mapping = folio.mapping
        return (
            bool(folio.flags & PG_zone_device)
            and isinstance(mapping, AddressSpace)
            and not mapping.host.fops.is_chrdev
        )

    def folio_is_longterm_pinnable(self, folio: Folio) -> bool:
        """Tell whether *folio* may be pinned for as long as user space likes.

        A file system bears only short delays when it truncates a file.

        Source: include/linux/mm.h, folio_is_longterm_pinnable()
        Deviates: no memory is movable only, in CMA, or a device's own.
        """
        return not self.folio_is_fsdax(folio)

    @staticmethod
    def gup_must_unshare(
        vma: VmArea | None, flags: int, folio: Folio, page: Page
    ) -> bool:
        """Tell whether a read-only pin of a page that is mapped so would go stale.

        A private page that others map as well is copied at the next write, and the pin
        would stay with the old one: it must be made exclusive first. Of a file's page
        that matters only to long pins in a VMA that copies.

        Args:
            vma: The VMA, or ``None`` in the fast walk, which does not know it.
            flags: The ``FOLL_`` bits.
            folio: Of *page*.
            page: Whose PageAnonExclusive counts: of a huge mapping its first page.

        Source: mm/internal.h, gup_must_unshare()
        """
        if flags & (FOLL_WRITE | FOLL_PIN) != FOLL_PIN:
            return False
        if not folio.anon:
            if not flags & FOLL_LONGTERM:
                return False
            return vma is None or is_cow_mapping(vma.flags)
        return not folio.page_exclusive(page)

    # -- taking and giving back ------------------------------------------------------

    def try_get_folio(self, page: Page, refs: int) -> Folio | None:
        """Take references to the folio of a frame, unless it is free by now.

        Source: mm/gup.c, try_get_folio()
        """
        folio = self._kernel.page_alloc.folio(page)
        if folio is None or folio.refcount <= 0:
            return None
        folio.refcount += refs
        return folio

    def gup_put_folio(self, folio: Folio, refs: int, flags: int) -> None:
        """Give references or pins back.

        Source: mm/gup.c, gup_put_folio()
        """
        if flags & FOLL_PIN:
            if folio.pfn == self._kernel.zero_pfn:
                return
            if isinstance(folio, LargeFolio):
                folio.pincount -= refs
            else:
                refs *= GUP_PIN_COUNTING_BIAS
        folio.refcount -= refs - 1
        self._kernel.swap.folio_put(folio)

    def try_grab_folio(
        self, folio: Folio, refs: int = 1, flags: int = FOLL_PIN
    ) -> None:
        """Take *refs* references or pins, or nothing if *flags* want neither.

        Somebody holds the folio already: the table that maps it is locked. A pin of the
        zero page is not counted, for that never changes and never goes.

        Source: mm/gup.c, try_grab_folio()
        Deviates: it cannot fail, as no page is of peer-to-peer memory, and answers
        nothing.
        """
        if flags & FOLL_GET:
            folio.refcount += refs
        elif flags & FOLL_PIN and folio.pfn != self._kernel.zero_pfn:
            folio.refcount += refs
            self._count_pins(folio, refs)

    @staticmethod
    def _count_pins(folio: Folio, refs: int) -> None:
        """Make pins of *refs* references that were just taken."""
        if isinstance(folio, LargeFolio):
            folio.pincount += refs
        else:
            folio.refcount += refs * (GUP_PIN_COUNTING_BIAS - 1)

    def unpin_user_page(self, folio: Folio) -> None:
        """Undo one pin.

        Source: mm/gup.c, unpin_user_page()
        """
        self.gup_put_folio(folio, 1, FOLL_PIN)

    def unpin_user_pages(self, pages: Iterable[Page]) -> None:
        """Undo one pin of each page.

        Source: mm/gup.c, unpin_user_pages()
        """
        for page in pages:
            self.unpin_user_page(self._kernel.page_alloc.folio_of(page))

    def put_pages(self, pages: Iterable[Page]) -> None:
        """Drop one reference to each page.

        Source: include/linux/mm.h, put_page()
        """
        for page in pages:
            self._kernel.swap.folio_put(self._kernel.page_alloc.folio_of(page))

    @staticmethod
    def mm_set_has_pinned_flag(mm: MmStruct) -> None:
        """Note that pages of *mm* are being pinned, so that fork looks for them.

        Source: mm/gup.c, mm_set_has_pinned_flag()
        """
        mm.has_pinned = True

    def try_grab_folio_fast(self, page: Page, refs: int, flags: int) -> Folio | None:
        """Take *refs* references or pins to what a frame was when it was read of.

        No lock keeps it from having become something else: callers look again.

        Source: mm/gup.c, try_grab_folio_fast()
        """
        if flags & FOLL_GET:
            folio = self.try_get_folio(page, refs)
        elif page == self._kernel.zero_pfn:
            return self._kernel.page_alloc.folio_of(page)
        else:
            folio = self.try_get_folio(page, refs)
            if folio is None:
                return None
            if flags & FOLL_LONGTERM and not self.folio_is_longterm_pinnable(folio):
                folio.refcount -= refs - 1
                self._kernel.swap.folio_put(folio)
                return None
            self._count_pins(folio, refs)
        if folio is not None and "gup take" in self._machine.events.heard:
            self._machine.events.emit(
                self._machine.running.number, "gup take", page, new=refs
            )
        return folio
