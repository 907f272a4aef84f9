"""The objects of hugetlb: pools of huge pages, their folios, and what areas remember.

Source: include/linux/hugetlb.h, v6.19.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Final

from tlbkit.linux.include.linux.mm import VM_HUGETLB
from tlbkit.linux.include.linux.mm_types import Folio, LargeFolio
from tlbkit.linux.kernel.locking import RwSemaphore

if TYPE_CHECKING:
    from tlbkit.arm64.machine import Machine
    from tlbkit.linux.include.linux.mm_types import MmStruct, VmArea
    from tlbkit.linux.mm.hugetlb.resv_map import ResvMap

HPAGE_RESV_OWNER: Final = 1 << 0
"""The private area whose pages were set aside when it was made; a child has none."""
HPAGE_RESV_UNMAPPED: Final = 1 << 1
"""A page was taken from the area for the owner; it must never see a fresh one."""


class Hstate:
    """One size of huge pages and its pool: struct hstate.

    Attributes:
        order: log2 of the pages of one.
        size: Its bytes.
        shift: log2 of them.
        nr_huge_pages: Huge pages that there are, in use or not.
        free_huge_pages: Those that are in the pool, also if spoken for.
        resv_huge_pages: How many of them are spoken for.
        surplus_huge_pages: Huge pages over the number that was asked for, made when the
            pool was empty; they go when they are freed.
        nr_overcommit_huge_pages: How many of those there may be.
        free: The pool: folios, the last freed first.
        fresh: Runs of frames that belong to the pool and were never used: the first
            frame, and how many huge pages.
        spare: Frames of huge pages that were given back.
    """

    __slots__ = (
        "free",
        "free_huge_pages",
        "fresh",
        "nr_huge_pages",
        "nr_overcommit_huge_pages",
        "order",
        "resv_huge_pages",
        "shift",
        "size",
        "spare",
        "surplus_huge_pages",
    )

    def __init__(self, size: int, page_shift: int) -> None:
        self.size = size
        self.shift = size.bit_length() - 1
        self.order = self.shift - page_shift
        self.nr_huge_pages = 0
        self.free_huge_pages = 0
        self.resv_huge_pages = 0
        self.surplus_huge_pages = 0
        self.nr_overcommit_huge_pages = 0
        self.free: list[HugetlbFolio] = []
        self.fresh: list[tuple[int, int]] = []
        self.spare: list[int] = []

    @property
    def available_huge_pages(self) -> int:
        """How many free ones nobody has spoken for.

        Source: mm/hugetlb.c, available_huge_pages()
        """
        return self.free_huge_pages - self.resv_huge_pages

    def __repr__(self) -> str:
        """Name it by size and counts."""
        return (
            f"<Hstate {self.size >> 10} kB total={self.nr_huge_pages} "
            f"free={self.free_huge_pages} resv={self.resv_huge_pages} "
            f"surplus={self.surplus_huge_pages}>"
        )


class HugetlbFolio(LargeFolio):
    """One huge page.

    It is mapped as a whole or not at all, so nothing is kept for each of its pages.

    Attributes:
        hstate: Of its size.
        restore_reserve: A reservation was used for it, which is given back if the folio
            is freed before anybody could use it.
    """

    __slots__ = ("hstate", "restore_reserve")

    def __init__(self, pfn: int, hstate: Hstate) -> None:
        Folio.__init__(self, pfn, hstate.order)
        self.refcount = 0  # it is in the pool
        self.hstate = hstate
        self.restore_reserve = False
        self.entire_mapcount = 0
        self.page_mapcount = array("i")
        self.nr_pages_mapped = 0
        self.exclusive = bytearray(1)
        self.pincount = 0
        self.deferred_split = False
        self.partially_mapped = False
        self.mm_id = [None, None]
        self.mm_id_mapcount = [0, 0]
        self.maybe_mapped_shared = False

    def page_exclusive(self, pfn: int) -> bool:
        """Tell whether it belongs to one process; its pages share one mark.

        Source: include/linux/page-flags.h, PageAnonExclusive()
        """
        del pfn
        return bool(self.exclusive[0])

    def add_mapcount(self, nr: int, mm: MmStruct) -> None:
        """Count *nr* more entries; who has them is not kept.

        Source: include/linux/rmap.h, hugetlb_add_file_rmap()
        """
        del mm
        self.mapcount += nr
        self.maybe_mapped_shared = self.mapcount > 1

    def sub_mapcount(self, nr: int, mm: MmStruct) -> None:
        """Count *nr* entries less.

        Source: include/linux/rmap.h, hugetlb_remove_rmap()
        """
        self.add_mapcount(-nr, mm)


class HugetlbVmaLock:
    """The lock of an area whose tables may be shared: struct hugetlb_vma_lock.

    Without one an area takes no part in sharing.

    Attributes:
        rw_sema: Held for reading by faults, which use the tables, and for writing by
            who takes shared tables away.
        vma: The area.
    """

    __slots__ = ("rw_sema", "vma")

    def __init__(self, machine: Machine, vma: VmArea) -> None:
        self.rw_sema = RwSemaphore(machine, f"hugetlb vma lock {vma.start:#x}")
        self.vma: VmArea | None = vma


class PrivateReservation:
    """What a private area knows of its reservations.

    Attributes:
        resv_map: What was used up, shared with areas that were cut off it; ``None``
            for an area without reservations of its own, such as a child's.
        flags: ``HPAGE_RESV_OWNER`` and ``HPAGE_RESV_UNMAPPED``.
    """

    __slots__ = ("flags", "resv_map")

    def __init__(self, resv_map: ResvMap | None, flags: int = 0) -> None:
        self.resv_map = resv_map
        self.flags = flags


def is_vm_hugetlb_page(vma: VmArea) -> bool:
    """Tell whether an area maps huge pages of hugetlb.

    Source: include/linux/hugetlb_inline.h, is_vm_hugetlb_page()
    """
    return bool(vma.flags & VM_HUGETLB)
