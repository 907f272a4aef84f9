"""Who may have huge pages, and the huge page of zeros that all share.

The first part of mm/huge_memory.c: what /sys/kernel/mm/transparent_hugepage says, and
the huge zero folio with its shrinker.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Literal

from tlbkit.errors import InputError
from tlbkit.linux.arch.arm64.include.asm.pgtable import pte_present
from tlbkit.linux.include.linux.mm import VM_HUGEPAGE, VM_NOHUGEPAGE
from tlbkit.linux.include.linux.mm_types import LargeFolio
from tlbkit.linux.mm.page_alloc import BadPageError

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import Folio, MmStruct, VmArea
    from tlbkit.linux.kernel.kernel import Kernel

Enabled = Literal["always", "madvise", "never"]
EnabledSize = Literal["always", "inherit", "madvise", "never"]

SMALLEST_ORDER: Final = 2  # a folio of two pages has no room for its counts


_SIZE: Final = re.compile(r"([0-9]{1,12})\s*([kmg]?)(?:i?b)?", re.IGNORECASE)
_KIB: Final = {"": 0, "k": 0, "m": 10, "g": 20}


def kib_of(size: int | str) -> int:
    """Return a size in KiB: a number of them, or as the kernel writes it.

    Raises:
        InputError: It is no size.

    >>> kib_of(64), kib_of("64kB"), kib_of("2MB"), kib_of("1G")
    (64, 64, 2048, 1048576)

    Source: none; it reads what an administrator writes.
    """
    read = _SIZE.fullmatch(str(size))
    if read is None:
        raise InputError(f"{size!r}: write a size as 64 (KiB), '64kB', '2MB' or '1GB'")
    return int(read[1]) << _KIB[read[2].lower()]


class HugeSettings:
    """Settings, the huge zero folio, and what all of this part knows.

    Attributes:
        use_zero_page: A read of untouched memory may map the huge zero folio.
        huge_zero_folio: The huge page of zeros that everybody shares, while there is
            one.
        huge_zero_refcount: Processes that hold it, and one for the shrinker; 0 without.
        deferred_split_queue: Folios that may be split if memory becomes short.
        mthp_orders: Orders below that of a PMD for which any setting says more than
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

    def thp_vma_allowable_orders(
        self, vma: VmArea, orders: int, *, forced: bool = False
    ) -> int:
        """Return those of *orders*, a bit each, that *vma* may have.

        Args:
            vma: The VMA.
            orders: Bit n stands for folios of 2**n pages.
            forced: MADV_COLLAPSE asks, for which the settings do not matter.

        Source: mm/huge_memory.c, __thp_vma_allowable_orders()
        Deviates: Only anonymous VMAs have huge pages that these settings govern: shared
        memory of small pages is all that there is, and DAX asks nobody.
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
        """Tell whether an aligned folio of *order* around *addr* lies within *vma*.

        Source: include/linux/huge_mm.h, thp_vma_suitable_order()
        Deviates: The place in the file is not looked at: it matters for files only.
        """
        size = self._pgtable.page_size << order
        haddr = addr & -size
        return vma.start <= haddr and haddr + size <= vma.end

    # -- the huge zero folio ---------------------------------------------------------

    def is_huge_zero_folio(self, folio: Folio) -> bool:
        """Tell whether *folio* is the huge zero folio.

        Source: include/linux/huge_mm.h, is_huge_zero_folio()
        """
        return folio is self.huge_zero_folio

    def is_huge_zero_pfn(self, pfn: int) -> bool:
        """Tell whether a frame is any page of the huge zero folio.

        Source: include/linux/huge_mm.h, is_huge_zero_pfn()
        """
        zero = self.huge_zero_folio
        return zero is not None and pfn & -zero.nr_pages == zero.pfn

    def is_huge_zero_pmd(self, pmd: int) -> bool:
        """Tell whether a PMD entry maps the huge zero folio.

        Source: include/linux/huge_mm.h, is_huge_zero_pmd()
        """
        return pte_present(pmd) and self.is_huge_zero_pfn(self._pgtable.pte_pfn(pmd))

    def get_huge_zero_folio(self) -> bool:
        """Take a reference to the huge zero folio, made now if there is none.

        Its PMD entries are special, so nobody looks at its tags when it is mapped: they
        are cleared when it is allocated.

        Returns:
            False without memory.

        Source: mm/huge_memory.c, get_huge_zero_folio()
        """
        while not self.huge_zero_refcount:
            zero = self._kernel.page_alloc.alloc_zeroed(
                self._pgtable.hpage_pmd_order, zero_tags=True
            )
            if zero is None:
                return False
            if self.huge_zero_folio is not None:
                self._kernel.swap.folio_put(zero)  # another CPU was faster
                continue
            assert isinstance(zero, LargeFolio)
            self.huge_zero_folio = zero
            self.huge_zero_refcount = 2  # the other one is the shrinker's
            return True
        self.huge_zero_refcount += 1
        return True

    def put_huge_zero_folio(self) -> None:
        """Drop a reference; the last is the shrinker's to drop.

        Source: mm/huge_memory.c, put_huge_zero_folio()
        """
        self.huge_zero_refcount -= 1
        if not self.huge_zero_refcount:
            assert self.huge_zero_folio is not None
            raise BadPageError(
                self.huge_zero_folio, "only the shrinker may drop the last reference"
            )

    def mm_get_huge_zero_folio(self, mm: MmStruct) -> LargeFolio | None:
        """Return the huge zero folio, held until *mm* ends; ``None`` without memory.

        It counts processes, not mappings: the entries that map it hold nothing. One
        that was made at boot, to stay, is not counted at all.

        Source: mm/huge_memory.c, mm_get_huge_zero_folio()
        """
        if self._kernel.config.persistent_huge_zero_folio:
            return self.huge_zero_folio
        if mm.huge_zero:
            return self.huge_zero_folio
        if not self.get_huge_zero_folio():
            return None
        if mm.huge_zero:
            self.put_huge_zero_folio()  # another thread was faster
        mm.huge_zero = True
        return self.huge_zero_folio

    def mm_put_huge_zero_folio(self, mm: MmStruct) -> None:
        """Drop what `mm_get_huge_zero_folio` took, as *mm* goes away.

        Source: mm/huge_memory.c, mm_put_huge_zero_folio()
        """
        if self._kernel.config.persistent_huge_zero_folio:
            return
        if mm.huge_zero:
            self.put_huge_zero_folio()

    def shrink_huge_zero_folio_count(self) -> int:
        """Return how many pages `shrink_huge_zero_folio_scan` would free.

        Source: mm/huge_memory.c, shrink_huge_zero_folio_count()
        """
        return self._pgtable.hpage_pmd_nr if self.huge_zero_refcount == 1 else 0

    def shrink_huge_zero_folio_scan(self) -> int:
        """Free the huge zero folio unless a process holds it; return pages freed.

        Source: mm/huge_memory.c, shrink_huge_zero_folio_scan()
        """
        if self.huge_zero_refcount != 1:
            return 0
        self.huge_zero_refcount = 0
        zero = self.huge_zero_folio
        assert zero is not None
        self.huge_zero_folio = None
        self._kernel.swap.folio_put(zero)
        return self._pgtable.hpage_pmd_nr

    # -- sysfs -----------------------------------------------------------------------

    @property
    def enabled(self) -> Enabled:
        """Who gets huge pages: "always" everybody, "madvise" who asks, "never" nobody.

        Source: mm/huge_memory.c, enabled_show() and enabled_store()
        """
        return self._enabled

    @enabled.setter
    def enabled(self, how: Enabled) -> None:
        if how not in {"always", "madvise", "never"}:
            raise InputError(
                f"enabled={how!r}: known are 'always', 'madvise' and 'never'"
            )
        self._enabled = how

    def hugepages_order(self, size: int | str) -> int:
        """Return the order of a large folio by its size; `InputError` if none has it.

        Source: mm/huge_memory.c, thpsize_create()
        """
        kib = kib_of(size)
        pages, rest = divmod(kib << 10, self._pgtable.page_size)
        order = pages.bit_length() - 1
        top = self._pgtable.hpage_pmd_order
        if rest or pages != 1 << max(order, 0) or not SMALLEST_ORDER <= order <= top:
            low = self._pgtable.page_size << SMALLEST_ORDER >> 10
            high = self._pgtable.pmd_size >> 10
            raise InputError(
                f"{size!r}: a large folio has a power of two from {low} to {high} KiB; "
                f"write {low} or '{low}kB'"
            )
        return order

    def set_hugepages_enabled(self, size: int | str, how: EnabledSize) -> None:
        """Say who gets large folios of a size: hugepages-<size>/enabled.

        Args:
            size: In KiB, or as the kernel writes it, ``"64kB"``: a power of two, from
                four pages up to a huge page.
            how: As `enabled`, or "inherit" for what that says. At first, huge pages are
                "inherit" and all smaller sizes "never".

        Source: mm/huge_memory.c, anon_enabled_store()
        """
        order = self.hugepages_order(size)
        if how not in {"always", "inherit", "madvise", "never"}:
            raise InputError(
                f"how={how!r}: known are 'always', 'inherit', 'madvise' and 'never'"
            )
        self._by_size[order] = how
        self.mthp_orders = sum(
            1 << one
            for one, word in self._by_size.items()
            if one < self._pgtable.hpage_pmd_order and word != "never"
        )

    def thp_shrinker_init(self) -> None:
        """At boot, make the huge zero folio that stays, if the kernel is to have one.

        Without memory for it there never will be one.

        Source: mm/huge_memory.c, thp_shrinker_init()
        Deviates: No shrinker is registered, as nothing here becomes short of memory by
        itself: who wants a shrinker to run calls its scan.
        """
        if self._kernel.config.persistent_huge_zero_folio:
            self.get_huge_zero_folio()
