"""Where a table descriptor leads, apart from where it is.

There are few tables beside the pages they map, and walks meet the same ones again and
again. `Links` takes each table descriptor apart when it is first met and keeps what it
said: a walk then follows it with one look-up.
"""

from __future__ import annotations

from typing import TypeAlias

from tlbkit.arm64 import descriptor as d

Link: TypeAlias = tuple[int, int]
"""The address of a table, and what its descriptor withholds from all below.

A plain tuple, because unpacking a named one takes three times as long.
"""


class Links(dict[int, Link | None]):
    """For one half, levels above 3: descriptor to the table it leads to, or ``None``.

    ``None`` is for what is no table (a block, or invalid) and for a table whose address
    exceeds the output size. A descriptor says the same at all levels that have tables.
    Nothing but tables is kept, so this never grows beyond them.
    """

    __slots__ = ("_layout", "_limits", "_page_shift", "_tested")

    def __init__(
        self,
        layout: d.AddressFormat,
        *,
        page_shift: int,
        too_large: int,
        limits: int,
    ) -> None:
        """Nothing has been met yet.

        Args:
            layout: where descriptors keep their address.
            page_shift: log2 of the bytes of a table.
            too_large: descriptor bits of addresses beyond the output size.
            limits: descriptor bits that limit what is below.
        """
        super().__init__()
        self._layout = layout
        self._page_shift = page_shift
        self._tested = d.TYPE_MASK | too_large
        self._limits = limits

    def __missing__(self, descriptor: int) -> Link | None:
        """Take *descriptor* apart, and keep what it says if it is a table's."""
        if descriptor & self._tested != d.TYPE_TABLE:
            return None
        table = self._layout.address(descriptor, self._page_shift)
        link = self[descriptor] = table, descriptor & self._limits
        return link
