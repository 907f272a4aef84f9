"""Who else translates by a process's tables: mm/mmu_notifier.c.

Devices (an SMMU, a hypervisor) keep translations of their own. They are told of ranges
that change, before and after, and of each flush of a CPU's TLB.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tlbkit.linux.include.linux.mm_types import MmStruct
    from tlbkit.linux.kernel.kernel import Kernel


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
        """Call *subscriber*, once, before a range of any address space is unmapped."""
        if subscriber not in self._subscribers:
            self._subscribers.append(subscriber)

    def mmu_interval_notifier_remove(
        self, subscriber: Callable[[MmStruct, int, int], None]
    ) -> None:
        """Call it no more."""
        self._subscribers.remove(subscriber)

    def arch_invalidate_secondary_tlbs(
        self, mm: MmStruct, start: int, end: int
    ) -> None:
        """Tell devices that translations of [start, end) are being flushed."""
        machine = self._machine
        if "notifier" in machine.events.heard:
            machine.events.emit(
                machine.running.number, "notifier", (start, end), new=mm
            )

    @contextmanager
    def invalidate_range(
        self, mm: MmStruct, why: str, start: int, end: int
    ) -> Iterator[None]:
        """Bracket a change of [start, end): invalidate_range_start() and _end()."""
        self.invalidate_range_start(mm, why, start, end)
        try:
            yield
        finally:
            self.invalidate_range_end(mm, why, start, end)

    def invalidate_range_start(
        self, mm: MmStruct, why: str, start: int, end: int
    ) -> None:
        """Tell devices that [start, end) is about to change, and why."""
        self._range("start", mm, why, start, end)
        if why == "UNMAP":
            for subscriber in self._subscribers:
                subscriber(mm, start, end)

    def invalidate_range_end(
        self, mm: MmStruct, why: str, start: int, end: int
    ) -> None:
        """Tell devices that the change of [start, end) is over."""
        self._range("end", mm, why, start, end)

    def _range(self, when: str, mm: MmStruct, why: str, start: int, end: int) -> None:
        machine = self._machine
        if "notifier range" in machine.events.heard:
            cpu = machine.running.number
            machine.events.emit(
                cpu, "notifier range", (start, end), old=when, new=mm, why=why
            )
