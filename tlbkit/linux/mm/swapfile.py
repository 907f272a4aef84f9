"""Swap devices and their slots: mm/swapfile.c, v6.17 to v6.19.

A slot holds one page. It is counted how many page-table entries stand for it, and noted
whether a folio in memory has the same contents (the swap cache). The slot is free when
neither is left.

Compared with: v6.19, in December 2026.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from tlbkit.errors import InputError, TlbkitError
from tlbkit.linux.include.linux.mm_types import PG_dirty, PG_swapcache
from tlbkit.linux.include.linux.pagemap import folio_trylock, folio_unlock
from tlbkit.linux.include.linux.swapops import MAX_SWAPFILES, SwpEntry
from tlbkit.linux.include.uapi.asm_generic.errno import EEXIST, ENOENT, ENOMEM

if TYPE_CHECKING:
    from array import array

    from tlbkit.linux.include.linux.mm_types import Folio
    from tlbkit.linux.kernel.kernel import Kernel


class BadSwapError(TlbkitError):
    """A slot of a swap device was used in a way that the kernel reports as bad."""

    def __init__(self, entry: SwpEntry, problem: str) -> None:
        super().__init__(f"swap slot {entry.offset} of device {entry.type}: {problem}")
        self.entry = entry
        self.problem = problem


class SwapInfo:
    """One device: struct swap_info_struct.

    Attributes:
        type: Its number, as in swap entries.
        pages: Slots; the first has offset 1, because a header stands before it.
        synchronous_io: A read or write is over when it returns, as with zram. What one
            entry alone stands for is then read without the swap cache.
        swap_map: For each slot in use, how many entries stand for it.
        cached: Slots that the swap cache has, or that are just being read.
        contents: What was written to each slot.
    """

    __slots__ = (
        "_next",
        "cached",
        "contents",
        "pages",
        "swap_map",
        "synchronous_io",
        "type",
    )

    def __init__(self, number: int, pages: int, *, synchronous_io: bool) -> None:
        self.type = number
        self.pages = pages
        self.synchronous_io = synchronous_io
        self.swap_map: dict[int, int] = {}
        self.cached: set[int] = set()
        self.contents: dict[int, array[int]] = {}
        self._next = 1

    @property
    def free(self) -> int:
        """How many slots nobody uses.

        Source: none; the kernel counts them.
        """
        return self.pages - len(self.swap_map)

    def scan(self, nr: int) -> int | None:
        """Return the first of *nr* free slots, aligned to their number, or ``None``.

        The search goes on where the last one ended.

        Source: mm/swapfile.c, cluster_alloc_swap_entry()
        """
        if self.free < nr:
            return None
        start = -(-self._next // nr) * nr
        last = self.pages - nr + 1
        for first in chain(range(start, last + 1, nr), range(nr, start, nr)):
            slots = range(first, first + nr)
            if first <= last and not any(slot in self.swap_map for slot in slots):
                self._next = first + nr
                return first
        return None


class Swapfile:
    """Hands out slots, counts who stands for them, and takes them back.

    Attributes:
        devices: Those that are in use, by number; at first there is none.
    """

    __slots__ = ("_kernel", "devices")

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.devices: list[SwapInfo] = []

    def swapon(self, pages: int, *, synchronous_io: bool = True) -> SwapInfo:
        """Use a new device with room for *pages* pages, and return it.

        Args:
            pages: At least one.
            synchronous_io: As of zram or a RAM disk. A disk is as fast here, but the
                kernel treats it otherwise: see `SwapInfo`.

        Source: mm/swapfile.c, swapon()
        """
        if pages < 1:
            raise InputError(f"pages={pages}: a swap device has at least one page")
        if len(self.devices) >= MAX_SWAPFILES:
            raise InputError(f"there are {MAX_SWAPFILES} swap devices; no more can be")
        device = SwapInfo(len(self.devices), pages, synchronous_io=synchronous_io)
        self.devices.append(device)
        return device

    def get_swap_device(self, entry: SwpEntry) -> SwapInfo | None:
        """Return the device that *entry* names, or ``None`` if it is not in use.

        Source: mm/swapfile.c, get_swap_device()
        """
        if entry.type < len(self.devices):
            return self.devices[entry.type]
        return None

    def _device(self, entry: SwpEntry) -> SwapInfo:
        device = self.get_swap_device(entry)
        if device is None or entry.offset not in device.swap_map:
            raise BadSwapError(entry, "nothing is known of it")
        return device

    def vm_swap_full(self) -> bool:
        """Tell whether more than half of all slots are in use.

        Source: include/linux/swap.h, vm_swap_full()
        """
        total = sum(device.pages for device in self.devices)
        return sum(device.free for device in self.devices) * 2 < total

    # -- allocate --------------------------------------------------------------------

    def folio_alloc_swap(self, folio: Folio) -> int:
        """Give a folio slots in a row, and put it into the swap cache.

        The folio is locked, and not in the swap cache. 0, or ``-ENOMEM`` without slots.

        Source: mm/swapfile.c, folio_alloc_swap()
        """
        for device in self.devices:
            first = device.scan(folio.nr_pages)
            if first is None:
                continue
            for offset in range(first, first + folio.nr_pages):
                device.swap_map[offset] = 0
                device.cached.add(offset)
            entry = SwpEntry(device.type, first)
            self._kernel.swap_state.add_to_swap_cache(folio, entry)
            return 0
        return -ENOMEM

    # -- count -----------------------------------------------------------------------

    def swap_count(self, entry: SwpEntry) -> int:
        """Return how many page-table entries stand for a slot: __swap_count().

        0 for a free one: who asks may hold an entry that is out of date.

        Source: mm/swapfile.c, swap_count()
        """
        device = self.get_swap_device(entry)
        return 0 if device is None else device.swap_map.get(entry.offset, 0)

    def swap_duplicate(self, entry: SwpEntry) -> None:
        """Count one more entry that stands for a slot.

        Source: mm/swapfile.c, swap_duplicate()
        """
        self._device(entry).swap_map[entry.offset] += 1

    def swap_free(self, entry: SwpEntry) -> None:
        """Count one entry less; the slot goes with the last if no folio has it.

        Source: include/linux/swap.h, swap_free()
        """
        device = self._device(entry)
        if not device.swap_map[entry.offset]:
            raise BadSwapError(entry, "an entry is given up that nobody had")
        device.swap_map[entry.offset] -= 1
        self._slot_put(device, entry.offset)

    def swapcache_prepare(self, entry: SwpEntry) -> int:
        """Keep others from reading a slot in: 0, ``-EEXIST`` or ``-ENOENT``.

        The second says that somebody else is doing so or has it, the third that the
        slot is free.

        Source: mm/swapfile.c, swapcache_prepare()
        """
        device = self.get_swap_device(entry)
        if device is None or not device.swap_map.get(entry.offset):
            return -ENOENT
        cached = entry.offset in device.cached
        if self._kernel.machine.sees("SWAP_HAS_CACHE", cached):
            return -EEXIST
        device.cached.add(entry.offset)
        return 0

    def wait_for_reader(self, entry: SwpEntry) -> None:
        """Let others run until nobody is just reading a slot in.

        The kernel sleeps for a tick instead, and tries again.

        Source: none; the kernel sleeps for a tick and tries again.
        """
        device = self.get_swap_device(entry)
        cache = self._kernel.swap_state.folios
        if device is not None:
            self._kernel.machine.wait(
                lambda: entry.offset not in device.cached or entry in cache,
                f"whoever reads slot {entry.offset} of swap device {entry.type}",
            )

    def has_cache(self, entry: SwpEntry) -> bool:
        """Tell whether a folio has the contents of a slot, or is getting them.

        Source: mm/swapfile.c, swap_only_has_cache()
        """
        return entry.offset in self._device(entry).cached

    def swapcache_clear(self, entry: SwpEntry) -> None:
        """Note that no folio has, or is getting, the contents of a slot.

        Source: mm/swapfile.c, swapcache_clear()
        """
        device = self._device(entry)
        device.cached.discard(entry.offset)
        self._slot_put(device, entry.offset)

    @staticmethod
    def _slot_put(device: SwapInfo, offset: int) -> None:
        """Free a slot that nobody uses any more: swap_entries_free()."""
        if not device.swap_map[offset] and offset not in device.cached:
            del device.swap_map[offset]
            device.contents.pop(offset, None)

    # -- give up ---------------------------------------------------------------------

    def folio_swapped(self, folio: Folio) -> bool:
        """Tell whether any page-table entry stands for a page of a cached folio.

        Source: mm/swapfile.c, folio_swapped()
        """
        cache = self._kernel.swap_state
        return any(
            self.swap_count(cache.page_swap_entry(folio, folio.pfn + page))
            for page in range(folio.nr_pages)
        )

    def folio_free_swap(self, folio: Folio) -> bool:
        """Take a locked folio out of the swap cache unless an entry stands for it.

        Its slots are free then, and only it has the contents.

        Source: mm/swapfile.c, folio_free_swap()
        """
        if not folio.flags & PG_swapcache or self.folio_swapped(folio):
            return False
        self._kernel.swap_state.delete_from_swap_cache(folio)
        folio.flags |= PG_dirty
        return True

    def free_swap_and_cache(self, entry: SwpEntry) -> None:
        """Count one entry less, and drop what only the swap cache still has.

        Source: include/linux/swap.h, free_swap_and_cache()
        """
        device = self._device(entry)
        self.swap_free(entry)
        if device.swap_map.get(entry.offset, 1):
            return
        folio = self._kernel.swap_state.swap_cache_get_folio(entry)
        if folio is None:
            return
        if folio_trylock(folio):
            if not folio.mapcount or self.vm_swap_full():
                self.folio_free_swap(folio)
            folio_unlock(self._kernel.machine, folio)
        self._kernel.swap.folio_put(folio)
