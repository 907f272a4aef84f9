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
    """For each value, how many of those before it are smaller."""
    count = len(values)
    smaller = np.zeros(count, dtype=np.int64)
    # Equal values stand in their order, so ranks are a permutation.
    order = np.argsort(values, kind="stable")
    rank = np.empty(count, dtype=np.int64)
    rank[order] = np.arange(count)
    ties = np.zeros(count, dtype=np.int64)
    ordered = values[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    ties[order] = np.arange(count) - np.repeat(starts, np.diff(np.r_[starts, count]))
    by_rank = order
    width = 1
    while width < count:
        # Within each block of 2 * width moments, those of the right half count the
        # members of the left half that come before them in the order of ranks.
        block = by_rank // (2 * width)
        right = (by_rank // width) % 2
        grouped = np.argsort(block, kind="stable")
        left_so_far = np.cumsum(1 - right[grouped])
        blocks = block[grouped]
        first = np.r_[True, blocks[1:] != blocks[:-1]]
        begins = np.flatnonzero(first)
        before = np.r_[0, left_so_far[begins[1:] - 1]]
        offset = np.repeat(before, np.diff(np.r_[begins, count]))
        moments = by_rank[grouped]
        smaller[moments] += np.where(right[grouped] == 1, left_so_far - offset, 0)
        width *= 2
    return smaller - ties


def miss_ratios(
    distances: NDArray[np.int64], sizes: NDArray[np.int64]
) -> NDArray[np.float64]:
    """The share of accesses that miss, for each size of a fully associative LRU TLB."""
    known = np.sort(distances[distances >= 0])
    hits = np.searchsorted(known, sizes, side="left")
    return np.asarray(1 - hits / len(distances), dtype=np.float64)
