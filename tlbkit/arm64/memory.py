"""Simulated physical memory: 64-bit words, of which unwritten ones are zero."""

from __future__ import annotations

from array import array

from tlbkit.errors import TlbkitError

_CHUNK_SHIFT = 9
_CHUNK_MASK = (1 << _CHUNK_SHIFT) - 1


class MemoryAccessError(TlbkitError):
    """A physical address is not that of an aligned 64-bit word."""

    def __init__(self, pa: int) -> None:
        super().__init__(
            f"physical address {pa:#x} is not a multiple of 8 from 0 up; "
            "read and write whole aligned words"
        )
        self.pa = pa


class WordError(TlbkitError):
    """What was to be stored does not fit into a word."""

    def __init__(self, pa: int, value: int) -> None:
        super().__init__(
            f"{value:#x} for physical address {pa:#x}: a word holds 0 to 2**64 - 1"
        )
        self.pa = pa
        self.value = value


class PhysicalMemory:
    """All frames of a machine, each with visible contents.

    A frame costs what it holds. One of which only the first word was ever written,
    as a data page of a large scenario, takes 8 bytes; any other is stored in full.

    Args:
        page_shift: log2 of the bytes of one frame: 12, 14 or 16.
    """

    __slots__ = ("_first", "_full", "_last", "page_shift", "words")

    def __init__(self, page_shift: int = 12) -> None:
        self.page_shift = page_shift
        self.words = 1 << page_shift - 3
        self._last = self.words - 1
        self._full: dict[int, array[int]] = {}
        self._first: dict[int, array[int]] = {}

    def read(self, pa: int) -> int:
        """Return the 64-bit word at physical address *pa*."""
        frame = self._full.get(pa >> self.page_shift)
        if frame is not None:
            if pa & 7:
                raise MemoryAccessError(pa)
            return frame[pa >> 3 & self._last]
        if pa & 7 or pa < 0:
            raise MemoryAccessError(pa)
        if pa >> 3 & self._last:
            return 0
        pfn = pa >> self.page_shift
        chunk = self._first.get(pfn >> _CHUNK_SHIFT)
        return chunk[pfn & _CHUNK_MASK] if chunk is not None else 0

    def write(self, pa: int, value: int) -> None:
        """Store the 64-bit word *value* at physical address *pa*."""
        self.swap(pa, value)

    def swap(self, pa: int, value: int) -> int:
        """Store *value* and return what was there, as one atomic step (SWP)."""
        if pa & 7 or pa < 0:
            raise MemoryAccessError(pa)
        pfn = pa >> self.page_shift
        index = pa >> 3 & self._last
        words = self._full.get(pfn)
        if words is None:
            if not index:
                words = self._first.get(pfn >> _CHUNK_SHIFT) or self._chunk(pfn)
                index = pfn & _CHUNK_MASK
            elif value:
                words = self.frame(pfn)
            else:
                return 0
        old = words[index]
        try:
            words[index] = value
        except OverflowError:
            raise WordError(pa, value) from None
        return old

    def load(self, pa: int, size: int) -> int:
        """Return the *size* bytes from *pa* on, the first of them the lowest.

        They need not be aligned; they lie in one frame.
        """
        first = pa & ~7
        word = self.read(first)
        if pa - first + size > 8:
            word |= self.read(first + 8) << 64
        return word >> 8 * (pa - first) & (1 << 8 * size) - 1

    def replace(self, pa: int, value: int, size: int) -> int:
        """Store the low *size* bytes of *value* from *pa* on; return what was there."""
        first = pa & ~7
        shift, mask = 8 * (pa - first), (1 << 8 * size) - 1
        words = self.load(first, 16) if pa - first + size > 8 else self.read(first)
        old = words >> shift & mask
        words ^= (old ^ value & mask) << shift
        self.swap(first, words & (1 << 64) - 1)
        if pa - first + size > 8:
            self.swap(first + 8, words >> 64)
        return old

    def compare_exchange(self, pa: int, expected: int, value: int) -> int:
        """Store *value* if *expected* is there; return what was there (CAS)."""
        words = self._full.get(pa >> self.page_shift)
        if words is None or pa & 7 or value >> 64:
            old = self.read(pa)
            if old == expected:
                self.swap(pa, value)
            return old
        index = pa >> 3 & self._last
        old = words[index]
        if old == expected:
            words[index] = value
        return old

    def frame(self, pfn: int) -> array[int]:
        """Return all words of frame *pfn*: the one array that holds them from now on.

        Page-table code works on it in place; only `clear_frame` ends its life.
        """
        frame = self._full.get(pfn)
        if frame is None:
            frame = array("Q", bytes(8 * self.words))
            chunk = self._first.get(pfn >> _CHUNK_SHIFT)
            if chunk is not None:
                frame[0] = chunk[pfn & _CHUNK_MASK]
            self._full[pfn] = frame
        return frame

    def clear_frame(self, pfn: int) -> None:
        """Make every word of frame *pfn* zero."""
        self._full.pop(pfn, None)
        chunk = self._first.get(pfn >> _CHUNK_SHIFT)
        if chunk is not None:
            chunk[pfn & _CHUNK_MASK] = 0

    def clear_frames(self, first: int, count: int) -> None:
        """Make every word of *count* frames from *first* on zero.

        What was never written costs no time.
        """
        last = first + count
        if count < len(self._full):
            gone = [pfn for pfn in range(first, last) if pfn in self._full]
        else:
            gone = [pfn for pfn in self._full if first <= pfn < last]
        for pfn in gone:
            del self._full[pfn]
        for place in range(first >> _CHUNK_SHIFT, (last - 1 >> _CHUNK_SHIFT) + 1):
            chunk = self._first.get(place)
            if chunk is not None:
                base = place << _CHUNK_SHIFT
                for pfn in range(max(first, base), min(last, base + len(chunk))):
                    chunk[pfn - base] = 0

    def is_clear(self, pfn: int) -> bool:
        """Tell whether every word of frame *pfn* is zero."""
        frame = self._full.get(pfn)
        return not (any(frame) if frame else self.read(pfn << self.page_shift))

    def zeros(self, pa: int) -> int:
        """Return how many words are zero from *pa* on, within its frame."""
        index = pa >> 3 & self._last
        frame = self._full.get(pa >> self.page_shift)
        if frame is None:
            return 0 if self.read(pa) else self.words - index
        rest = frame[index:].tobytes()
        return len(rest) - len(rest.lstrip(b"\0")) >> 3

    def copy_frame(self, source: int, target: int) -> None:
        """Make frame *target* hold what frame *source* holds."""
        full = self._full.get(source)
        if full is not None:
            self.frame(target)[:] = full
            return
        self._full.pop(target, None)
        first = self.read(source << self.page_shift)
        self._chunk(target)[target & _CHUNK_MASK] = first

    def save_frame(self, pfn: int) -> array[int]:
        """Return what frame *pfn* holds, in as few words as say it."""
        full = self._full.get(pfn)
        if full is not None:
            return array("Q", full)
        return array("Q", [self.read(pfn << self.page_shift)])

    def load_frame(self, pfn: int, saved: array[int]) -> None:
        """Make frame *pfn* hold again what `save_frame` returned."""
        if len(saved) > 1:
            self.frame(pfn)[:] = saved
        else:
            self._full.pop(pfn, None)
            self._chunk(pfn)[pfn & _CHUNK_MASK] = saved[0]

    def _chunk(self, pfn: int) -> array[int]:
        """Return the first words of the frames around *pfn*."""
        chunk = self._first.get(pfn >> _CHUNK_SHIFT)
        if chunk is None:
            chunk = array("Q", bytes(8 << _CHUNK_SHIFT))
            self._first[pfn >> _CHUNK_SHIFT] = chunk
        return chunk
