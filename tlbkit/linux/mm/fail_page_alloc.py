"""Allocations that fail by plan: mm/fail_page_alloc.c and lib/fault-inject.c."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class FailPageAlloc:
    """Which page allocations fail, stated beforehand: fail_page_alloc.

    A kernel has one, as ``kernel.page_alloc.fail_page_alloc``; its fields are set as
    those below debugfs are, at any time. Nothing is random: the same program meets the
    same failures each time. Memory in which no two free pages lie side by side, so that
    large folios cannot be had and single pages can::

        kernel.page_alloc.fail_page_alloc = FailPageAlloc(times=-1)

    The third of all allocations fails, whatever its size, and no other::

        kernel.page_alloc.fail_page_alloc = FailPageAlloc(
            times=1, interval=3, min_order=0
        )

    Attributes:
        times: How many allocations fail; 0 for none, -1 for no limit.
        interval: Only each *interval*-th allocation that could fail does.
        space: Pages that can still be had before any fails.
        min_order: log2 of the pages of the smallest allocation that fails. Tables and
            single pages are spared unless it is 0.
        count: How many were asked for so far, as far as *interval* counts them.

    Source: mm/fail_page_alloc.c, and should_fail_ex() of lib/fault-inject.c
    Deviates: there is no probability, which is 100 percent. Whether an allocation may
    sleep, or is of memory for user space, makes no difference.
    """

    times: int = 0
    interval: int = 1
    space: int = 0
    min_order: int = 1
    count: int = 0

    def should_fail_alloc_page(self, order: int) -> bool:
        """Tell whether an allocation of 2**order pages is to fail, and count it.

        Source: mm/fail_page_alloc.c, should_fail_alloc_page()
        """
        if order < self.min_order:
            return False
        if not self.times:
            return False
        size = 1 << order
        if self.space > size:
            self.space -= size
            return False
        if self.interval > 1:
            self.count += 1
            if self.count % self.interval:
                return False
        if self.times != -1:
            self.times -= 1
        return True
