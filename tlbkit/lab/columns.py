"""Stack distances of long traces, by NumPy.

The same numbers as `tlbkit.lab.reuse`, for a million accesses in seconds. Nothing that
runs in a page imports this module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def previous_uses(pages: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each access, the number of the last access to the same page; -1 for none."""
    order = np.argsort(pages, kind="stable")
    ordered = pages[order]
    again = np.flatnonzero(ordered[1:] == ordered[:-1])
    previous = np.full(len(pages), -1, dtype=np.int64)
    previous[order[again + 1]] = order[again]
    return previous


def stack_distances(pages: NDArray[np.int64]) -> NDArray[np.int64]:
    """The stack distance of each access of a trace; -1 for a first use.

    Between the last use of its page and an access, as many pages were used as there
    are accesses whose own last use lies before that use. Counting "earlier and
    smaller" for all accesses at once is what the merging of a merge sort does.
    """
    previous = previous_uses(pages)
    distances = _earlier_and_smaller(previous) - (previous + 1)
    return np.where(previous < 0, -1, distances)


def _earlier_and_smaller(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each value, how many of those before it are smaller, or equal to it.

    The values here differ, except those of first uses, which nobody asks about.
    """
    count = len(values)
    smaller = np.zeros(count, dtype=np.int64)
    by_rank = np.argsort(values, kind="stable")
    width = 1
    while width < count:
        # Within each block of 2 * width moments, those of the right half count the
        # members of the left half that come before them in the order of ranks.
        block = by_rank // (2 * width)
        grouped = np.argsort(block, kind="stable")
        moments = by_rank[grouped]
        right = (moments // width) % 2
        left_so_far = np.cumsum(1 - right)
        blocks = block[grouped]
        begins = np.flatnonzero(np.r_[True, blocks[1:] != blocks[:-1]])
        before = np.r_[0, left_so_far[begins[1:] - 1]]
        offset = np.repeat(before, np.diff(np.r_[begins, count]))
        smaller[moments] += right * (left_so_far - offset)
        width *= 2
    return smaller


def miss_ratios(
    distances: NDArray[np.int64], sizes: NDArray[np.int64]
) -> NDArray[np.float64]:
    """The share of accesses that miss, for each size of a fully associative LRU TLB."""
    known = np.sort(distances[distances >= 0])
    hits = np.searchsorted(known, sizes, side="left")
    return np.asarray(1 - hits / len(distances), dtype=np.float64)
