"""Who else translates by a process's tables: mm/mmu_notifier.c.

Devices (an SMMU, a hypervisor) keep translations of their own. They are told of ranges
that change, before and after, and of each flush of a CPU's TLB.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from tlbkit.linux.include.linux.mm_types import MmStruct
    from tlbkit.linux.kernel.kernel import Kernel


class MmuNotifierEvent(IntEnum):
    """Why a range is about to change: enum mmu_notifier_event."""

    UNMAP = 0
    CLEAR = 1
    PROTECTION_VMA = 2
    PROTECTION_PAGE = 3
    SOFT_DIRTY = 4


MMU_NOTIFY_UNMAP: Final = MmuNotifierEvent.UNMAP
"""The range is unmapped, or moved away: its VMAs go."""

MMU_NOTIFY_CLEAR: Final = MmuNotifierEvent.CLEAR
"""Entries are cleared, or replaced by others; the VMAs stay."""

MMU_NOTIFY_PROTECTION_VMA: Final = MmuNotifierEvent.PROTECTION_VMA
"""All of the range takes the rights of its VMA, so nobody need read the entries."""

MMU_NOTIFY_PROTECTION_PAGE: Final = MmuNotifierEvent.PROTECTION_PAGE
"""Rights of single pages change: who mirrors them reads the entries at the end."""

MMU_NOTIFY_SOFT_DIRTY: Final = MmuNotifierEvent.SOFT_DIRTY
"""Soft dirty bits are cleared; pages and rights stay."""


@dataclass(slots=True)
class MmuNotifierRange:
    """A range of an address space that changes: struct mmu_notifier_range.

    In a ``with`` statement it is announced at the beginning and at the end, by
    mmu_notifier_invalidate_range_start() and mmu_notifier_invalidate_range_end().

    Attributes:
        notifier: Who is told.
        event: Why it changes.
        flags: None are modelled.
        mm: Whose addresses they are.
        start: The first address.
        end: The first that is not meant any more.
    """

    notifier: MmuNotifier
    event: MmuNotifierEvent
    flags: int
    mm: MmStruct
    start: int
    end: int

    def __enter__(self) -> None:
        """Announce the change."""
        self.notifier.mmu_notifier_invalidate_range_start(self)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Say that it is over."""
        self.notifier.mmu_notifier_invalidate_range_end(self)


class MmuNotifier:
    """Tells secondary translation caches; each call is an event.

    Events: ``notifier`` (a secondary TLB is flushed) and ``notifier range`` (start and
    end of a range that changes); ``what`` is ``(start, end)``.
    """

    __slots__ = ("_machine", "_subscribers")

    def __init__(self, kernel: Kernel) -> None:
        self._machine = kernel.machine
        self._subscribers: list[Callable[[MmStruct, int, int], None]] = []

    def mmu_interval_notifier_insert(
        self, subscriber: Callable[[MmStruct, int, int], None]
    ) -> None:
        """Call *subscriber*, once, before a range of any address space is unmapped.

        Source: mm/mmu_notifier.c, mmu_interval_notifier_insert()
        Deviates: A subscriber is a function, and names neither an address space nor a
        range: it looks for itself.
        """
        if subscriber not in self._subscribers:
            self._subscribers.append(subscriber)

    def mmu_interval_notifier_remove(
        self, subscriber: Callable[[MmStruct, int, int], None]
    ) -> None:
        """Call it no more.

        Source: mm/mmu_notifier.c, mmu_interval_notifier_remove()
        """
        self._subscribers.remove(subscriber)

    def mmu_notifier_range_init(
        self, event: MmuNotifierEvent, flags: int, mm: MmStruct, start: int, end: int
    ) -> MmuNotifierRange:
        """Return a range that is going to change; nobody is told yet.

        Source: include/linux/mmu_notifier.h, mmu_notifier_range_init()
        """
        return MmuNotifierRange(self, event, flags, mm, start, end)

    def mmu_notifier_invalidate_range_start(self, range_: MmuNotifierRange) -> None:
        """Tell devices that a range is about to change, and why.

        Source: include/linux/mmu_notifier.h, mmu_notifier_invalidate_range_start()
        Deviates: Every address space counts as one that devices listen to, so that
        what they would hear is seen.
        """
        self._tell(range_, "start")
        if range_.event == MMU_NOTIFY_UNMAP:
            for subscriber in self._subscribers:
                subscriber(range_.mm, range_.start, range_.end)

    def mmu_notifier_invalidate_range_end(self, range_: MmuNotifierRange) -> None:
        """Tell devices that the change of a range is over.

        Source: include/linux/mmu_notifier.h, mmu_notifier_invalidate_range_end()
        """
        self._tell(range_, "end")

    def mmu_notifier_arch_invalidate_secondary_tlbs(
        self, mm: MmStruct, start: int, end: int
    ) -> None:
        """Tell devices that translations of [start, end) are being flushed.

        Source: include/linux/mmu_notifier.h,
        mmu_notifier_arch_invalidate_secondary_tlbs()
        """
        machine = self._machine
        if "notifier" in machine.events.heard:
            machine.events.emit(
                machine.running.number, "notifier", (start, end), new=mm
            )

    def _tell(self, range_: MmuNotifierRange, when: str) -> None:
        machine = self._machine
        if "notifier range" in machine.events.heard:
            machine.events.emit(
                machine.running.number,
                "notifier range",
                (range_.start, range_.end),
                old=when,
                new=range_.mm,
                why=range_.event.name,
            )
