"""Going through the entries of huge pages, one table after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tlbkit.linux.include.linux.mm_types import MmStruct, VmArea
    from tlbkit.linux.mm.hugetlb.share import HugetlbShare


class HugeEntries:
    """Walks the entries of a range of an area: ``(address, ptep)`` each.

    What no table is there for is stepped over. Who takes a table away says so, and the
    walk goes on behind all that it mapped; so does who finds empty entries and has
    nothing to do with them.

    Args:
        hugetlb: Knows the area.
        vma: The area.
        start: The first address, whole huge pages.
        end: The one behind the last.
        skip: The address bits to set to get to the last page of a table.
        empty: Returns how many pages have empty entries from a place on, in its table.
        jump: Where to go on, if empty entries above can be stepped over at once.
    """

    __slots__ = ("_at", "_empty", "_end", "_hugetlb", "_jump", "_size", "_skip", "_vma")

    def __init__(
        self,
        hugetlb: HugetlbShare,
        vma: VmArea,
        start: int,
        end: int,
        skip: int,
        empty: Callable[[int], int],
        jump: Callable[[MmStruct, int], int] | None,
    ) -> None:
        self._hugetlb = hugetlb
        self._vma = vma
        self._at = start
        self._end = end
        self._size = hugetlb.hstate_vma(vma).size
        self._skip = skip
        self._empty = empty
        self._jump = jump

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Go on from where the last step left off."""
        walk, vma, size = self._hugetlb.hugetlb_walk, self._vma, self._size
        skip, end, jump = self._skip, self._end, self._jump
        while self._at < end:
            addr = self._at
            ptep = walk(vma, addr, size)
            if ptep is None and jump is not None:
                self._at = jump(vma.mm, addr)
            elif ptep is None:
                self._at = (addr | skip) + size
            else:
                self._at = addr + size
                yield addr, ptep

    def skip_table(self) -> None:
        """Go on behind the table of the last entry.

        Source: mm/hugetlb.c, hugetlb_mask_last_page()
        """
        self._at = (self._at - self._size | self._skip) + self._size

    def skip_empty(self, ptep: int) -> None:
        """Go on behind the last entry, at *ptep*, and all empty ones that follow it.

        It is what as many steps would come to, of which each would take the table's
        lock and find nothing.

        Source: none; empty entries are passed at once to save time.
        """
        self._at += max(self._empty(ptep) - 1, 0) * self._size
