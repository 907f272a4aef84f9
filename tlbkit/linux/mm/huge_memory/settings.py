"""Who may have blocks: the settings below /sys/kernel/mm/transparent_hugepage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from tlbkit.errors import InputError
from tlbkit.linux.include.linux.mm import VM_HUGEPAGE, VM_NOHUGEPAGE

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import LargeFolio, VmArea
    from tlbkit.linux.kernel.kernel import Kernel

Enabled = Literal["always", "madvise", "never"]
EnabledSize = Literal["always", "inherit", "madvise", "never"]

SMALLEST_ORDER: Final = 2  # a folio of two pages has no room for its counts


class HugeSettings:
    """Who may have blocks and large folios, and what all of this part knows.

    The settings are those below /sys/kernel/mm/transparent_hugepage.

    Attributes:
        use_zero_page: A read of untouched memory may map the huge zero folio.
        huge_zero_folio: The block of zeros that everybody shares, while there is one.
        huge_zero_refcount: Processes that hold it, and one for the shrinker; 0 without.
        deferred_split_queue: Folios that may be split if memory becomes short.
        mthp_orders: Orders below that of a block for which any setting says more than
            "never"; 0 spares every fault the question.
    """

    __slots__ = (
        "_by_size",
        "_enabled",
        "_kernel",
        "_machine",
        "_pgtable",
        "deferred_split_queue",
        "huge_zero_folio",
        "huge_zero_refcount",
        "mthp_orders",
        "use_zero_page",
    )

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._machine = kernel.machine
        self._pgtable = kernel.pgtable
        self._enabled: Enabled = "madvise"
        self._by_size: dict[int, EnabledSize] = {
            kernel.pgtable.hpage_pmd_order: "inherit"
        }
        self.mthp_orders = 0
        self.use_zero_page = True
        self.huge_zero_folio: LargeFolio | None = None
        self.huge_zero_refcount = 0
        self.deferred_split_queue: list[LargeFolio] = []

    # -- settings --------------------------------------------------------------------

    @property
    def enabled(self) -> Enabled:
        """Who gets blocks: "always" everybody, "madvise" who asks, "never" nobody."""
        return self._enabled

    @enabled.setter
    def enabled(self, how: Enabled) -> None:
        if how not in {"always", "madvise", "never"}:
            raise InputError(
                f"enabled={how!r}: known are 'always', 'madvise' and 'never'"
            )
        self._enabled = how

    def set_hugepages_enabled(self, kib: int, how: EnabledSize) -> None:
        """Say who gets large folios of *kib* KiB: hugepages-<kib>kB/enabled.

        Args:
            kib: A power of two, from four pages up to a block.
            how: As `enabled`, or "inherit" for what that says. At first, blocks are
                "inherit" and all smaller sizes "never".
        """
        pages, rest = divmod(kib << 10, self._pgtable.page_size)
        order = pages.bit_length() - 1
        top = self._pgtable.hpage_pmd_order
        if rest or pages != 1 << max(order, 0) or not SMALLEST_ORDER <= order <= top:
            low = self._pgtable.page_size << SMALLEST_ORDER >> 10
            high = self._pgtable.pmd_size >> 10
            raise InputError(
                f"kib={kib}: a large folio has a power of two from {low} to {high} KiB"
            )
        if how not in {"always", "inherit", "madvise", "never"}:
            raise InputError(
                f"how={how!r}: known are 'always', 'inherit', 'madvise' and 'never'"
            )
        self._by_size[order] = how
        self.mthp_orders = sum(
            1 << size
            for size, value in self._by_size.items()
            if size < top and value != "never"
        )

    def thp_vma_allowable_orders(
        self, vma: VmArea, orders: int, *, forced: bool = False
    ) -> int:
        """Return those of *orders*, a bit each, that *vma* may have.

        Args:
            vma: The area.
            orders: Bit n stands for folios of 2**n pages.
            forced: User space has asked for this very range: settings do not matter.
        """
        if not vma.anonymous or vma.flags & VM_NOHUGEPAGE:
            return 0
        if forced:
            return orders
        asked = bool(vma.flags & VM_HUGEPAGE)
        allowed = 0
        for order, setting in self._by_size.items():
            how = self._enabled if setting == "inherit" else setting
            if how == "always" or (how == "madvise" and asked):
                allowed |= 1 << order
        return allowed & orders

    def thp_vma_suitable_order(self, vma: VmArea, addr: int, order: int) -> bool:
        """Tell whether an aligned folio of *order* around *addr* lies within *vma*."""
        size = self._pgtable.page_size << order
        start = addr & -size
        return vma.start <= start and start + size <= vma.end
