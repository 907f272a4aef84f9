"""Which accesses hit in a cache that replaces the least recently used entry.

An access hits if fewer distinct others than the cache has entries came since the last
one like it. That is known without running the cache, for all accesses at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Indices = NDArray[np.int32]

_CHUNK = 1 << 16  # accesses looked at together: what fits a core's own caches
_CELLS = 1 << 22  # of a step in two dimensions


def lru_hits(keys: NDArray[np.int64], ways: int) -> NDArray[np.bool_]:
    """Tell which accesses hit in an LRU cache of *ways* entries.

    Args:
        keys: What is accessed, in order: numbers from 0 up.
        ways: How many entries there are; the cache is empty at first.

    The n-th access after one is distinct from those in between if it has no like among
    them, which is one comparison. So the windows from each access to the next like it
    grow by one step at a time, all at once; most are decided by two times *ways* steps,
    the rest in longer strides.
    """
    previous = _previous(keys)
    horizon = 2 * ways
    times, distinct = _fill_times(previous, ways, horizon)
    gap = np.arange(len(keys), dtype=np.int32) - previous
    time = times[previous]
    seen = previous >= 0
    hits = seen & (gap <= time)
    access = np.flatnonzero(seen & (time > horizon) & (gap > horizon + 1))
    first = previous[access]
    known = distinct[first].astype(np.int32)
    at = first + (horizon + 1)
    width = ways
    while len(access):
        width = max(1, min(2 * width, _CELLS // len(access)))
        windows = sliding_window_view(_padded(previous, width), width)[at]
        inside = np.arange(width, dtype=np.int32) < (access - at)[:, None]
        known += ((windows <= first[:, None]) & inside).sum(axis=1)
        at += width
        hits[access] = known < ways
        going_on = (known < ways) & (at < access)
        access, first = access[going_on], first[going_on]
        known, at = known[going_on], at[going_on]
    return hits


def _previous(keys: NDArray[np.int64]) -> Indices:
    """For each access the one before it with the same key, or -1."""
    size = len(keys)
    bits = size.bit_length()
    # One sort of key and index together; a stable sort of the keys costs far more.
    joined = keys << bits | np.arange(size)
    joined.sort()
    order = joined.astype(np.int32) & (1 << bits) - 1
    joined >>= bits
    before = order[:-1].copy()
    before[joined[1:] != joined[:-1]] = -1
    previous = np.full(size, -1, np.int32)
    previous[order[1:]] = before
    return previous


def _fill_times(
    previous: Indices, ways: int, horizon: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    """For each access, after how many more ones *ways* distinct ones have come.

    Returns:
        That number, or one more than *horizon* if it is larger; and for those how many
        distinct ones came within the horizon.
    """
    size = len(previous)
    padded = _padded(previous, horizon)
    small = np.min_scalar_type(horizon + 1)
    times, distinct = np.empty((2, size), small)
    for start in range(0, size, _CHUNK):
        at = np.arange(start, min(start + _CHUNK, size), dtype=np.int32)
        time = times[start : start + _CHUNK]
        come = distinct[start : start + _CHUNK]
        time[:], come[:] = ways, 0
        for step in range(1, horizon + 1):
            come += (padded[start + step :][: len(at)] <= at).view(np.uint8)
            if step >= ways:
                missing = come < ways
                if not missing.any():
                    break
                time += missing.view(np.uint8)
    return times, distinct


def _padded(previous: Indices, more: int) -> Indices:
    """Continue *previous* by accesses that are distinct from none."""
    return np.concatenate([previous, np.full(more, len(previous), np.int32)])
