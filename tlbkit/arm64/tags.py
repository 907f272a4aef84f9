"""Allocation tags: what FEAT_MTE keeps of 16 bytes of memory, besides the bytes."""

from __future__ import annotations

from typing import Final

from tlbkit.errors import InputError

TAG_GRANULE: Final = 16
"""Bytes that share one tag."""
ATTR_TAGGED: Final = 0xF0
"""The MAIR byte of Normal memory with tags; of any other memory they are not seen."""


class Tags:
    """The tags of all frames; of one that was never tagged they are 0.

    Clearing a frame's bytes does not touch its tags, and freeing it does not either.

    Args:
        page_shift: log2 of the bytes of one frame.
    """

    __slots__ = ("_frames", "_page_shift")

    def __init__(self, page_shift: int) -> None:
        self._page_shift = page_shift
        self._frames: dict[int, bytearray] = {}

    def load(self, pa: int) -> int:
        """Return the tag of the granule that holds physical address *pa*."""
        frame = self._frames.get(pa >> self._page_shift)
        return frame[self._granule(pa)] if frame else 0

    def store(self, pa: int, tag: int) -> None:
        """Give the granule that holds *pa* another tag, of four bits.

        Raises:
            InputError: A tag is 0 to 15.
        """
        if not 0 <= tag < 16:
            raise InputError(f"tag={tag}: a tag is 0 to 15")
        granules = (1 << self._page_shift) // TAG_GRANULE
        frame = self._frames.setdefault(pa >> self._page_shift, bytearray(granules))
        frame[self._granule(pa)] = tag

    def clear_frame(self, pfn: int) -> None:
        """Give every granule of a frame the tag 0."""
        self._frames.pop(pfn, None)

    def _granule(self, pa: int) -> int:
        return (pa & ((1 << self._page_shift) - 1)) // TAG_GRANULE
