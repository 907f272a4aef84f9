"""How far apart the uses of a page are, which says what every size of TLB would hit.

The stack distance of an access is the number of different pages used since the last
use of the same page. A fully associative TLB of *n* entries that replaces the oldest
use holds the page if and only if the distance is less than *n*, so one pass over a
trace gives the hits of all sizes at once.

Source: R. Mattson and others, "Evaluation techniques for storage hierarchies", 1970.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

FIRST_USE = -1
"""The distance of an access to a page that was not used before."""


def stack_distances(pages: Sequence[int]) -> list[int]:
    """The stack distance of each access of a trace.

    Args:
        pages: The pages used, in order.

    >>> stack_distances([1, 2, 1, 1, 3, 2])
    [-1, -1, 1, 0, -1, 2]
    """
    # A tree of partial sums (Fenwick) over the moments, in which only the last use of
    # each page counts: the sum behind a moment is the number of pages used since.
    size = len(pages)
    sums = [0] * (size + 1)
    last: dict[int, int] = {}
    distances = []
    for now, used in enumerate(pages):
        before = last.get(used)
        last[used] = now
        if before is None:
            distances.append(FIRST_USE)
        else:
            since = len(last)
            i = before + 1
            while i:
                since -= sums[i]
                i &= i - 1
            distances.append(since)
            i = before + 1
            while i <= size:
                sums[i] -= 1
                i += i & -i
        i = now + 1
        while i <= size:
            sums[i] += 1
            i += i & -i
    return distances


def miss_ratios(distances: Iterable[int], sizes: Sequence[int]) -> list[float]:
    """The share of accesses that miss, for each size of a fully associative LRU TLB.

    >>> miss_ratios([-1, -1, 1, 0, -1, 2], [1, 2, 4])
    [0.8333333333333334, 0.6666666666666666, 0.5]
    """
    counts = Counter(distances)
    total = counts.total()
    return [
        sum(n for far, n in counts.items() if not 0 <= far < size) / total
        for size in sizes
    ]
