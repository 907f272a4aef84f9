"""Which pages of a range are spoken for: the reserve map of mm/hugetlb.c.

The map of a file holds the places for which a page was set aside, whoever maps them.
The map of a private mapping, whose pages are all set aside from the start, holds those
that were used up.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tlbkit.linux.kernel.locking import RwSemaphore


class ResvMap:
    """Places of a file or a mapping, in huge pages, as few intervals as possible.

    Attributes:
        refs: Areas that use it; a private mapping that is cut in two shares its map.
        rw_sema: Of a private mapping's, held by its faults against truncation.
    """

    __slots__ = ("_ends", "_starts", "refs", "rw_sema")

    def __init__(self, rw_sema: RwSemaphore | None = None) -> None:
        self.rw_sema = rw_sema
        self._starts: list[int] = []
        self._ends: list[int] = []
        self.refs = 1

    @property
    def regions(self) -> list[tuple[int, int]]:
        """The intervals, first place and the one after the last.

        Source: none; tests look at them.
        """
        return list(zip(self._starts, self._ends, strict=True))

    def region_count(self, start: int, end: int) -> int:
        """Return how many places of [start, end) are in the map.

        Source: mm/hugetlb.c, region_count()
        """
        first, last = self._touching(start, end)
        return sum(
            max(0, min(self._ends[n], end) - max(self._starts[n], start))
            for n in range(first, last)
        )

    def region_chg(self, start: int, end: int) -> int:
        """Return how many places of [start, end) an addition would add.

        Source: mm/hugetlb.c, region_chg()
        """
        return end - start - self.region_count(start, end)

    def region_add(self, start: int, end: int) -> int:
        """Add [start, end) and return how many places are new.

        Source: mm/hugetlb.c, region_add()
        """
        added = self.region_chg(start, end)
        first, last = self._touching(start, end)
        if first < last:
            start = min(start, self._starts[first])
            end = max(end, self._ends[last - 1])
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]
        return added

    def region_del(self, start: int, end: int) -> int:
        """Take [start, end) out and return how many places were there.

        Source: mm/hugetlb.c, region_del()
        """
        gone = self.region_count(start, end)
        first, last = self._touching(start, end)
        rest = []
        if first < last:
            if self._starts[first] < start:
                rest.append((self._starts[first], start))
            if self._ends[last - 1] > end:
                rest.append((end, self._ends[last - 1]))
            if not gone:
                return 0  # they only touch
        self._starts[first:last] = [a for a, _ in rest]
        self._ends[first:last] = [b for _, b in rest]
        return gone

    def _touching(self, start: int, end: int) -> tuple[int, int]:
        """Return the intervals, as a slice, that overlap [start, end) or adjoin it."""
        return bisect_left(self._ends, start), bisect_right(self._starts, end)
