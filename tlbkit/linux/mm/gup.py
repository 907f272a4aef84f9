"""Pages that somebody outside the page tables holds: mm/gup.c."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.include.linux.mm_types import GUP_PIN_COUNTING_BIAS, LargeFolio

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import Folio, VmArea
    from tlbkit.linux.kernel.kernel import Kernel


class Gup:
    """Pins and their consequences."""

    __slots__ = ("_kernel", "has_pinned")

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.has_pinned = False

    def try_grab_folio(self, folio: Folio) -> None:
        """Pin *folio*: its contents may be read or written by a device from now on."""
        self.has_pinned = True
        if isinstance(folio, LargeFolio):
            folio.refcount += 1
            folio.pincount += 1
        else:
            folio.refcount += GUP_PIN_COUNTING_BIAS

    def unpin_user_page(self, folio: Folio) -> None:
        """Undo one pin."""
        if isinstance(folio, LargeFolio):
            folio.pincount -= 1
        else:
            folio.refcount -= GUP_PIN_COUNTING_BIAS - 1
        self._kernel.swap.folio_put(folio)

    def folio_needs_cow_for_dma(self, vma: VmArea, folio: Folio) -> bool:
        """Tell whether fork must copy *folio* at once, because it may be pinned."""
        del vma
        return self.has_pinned and folio.maybe_dma_pinned()
