"""Which locks each CPU holds, and orders of taking them that could deadlock.

A deadlock needs two flows and bad luck; the two orders that make it possible can be
seen in any run. Locks are told apart by class, as lockdep does: their name without the
address. Two of one class are taken by address, which their own code checks.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from tlbkit.errors import TlbkitError
from tlbkit.linux.kernel.locking import kind_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tlbkit.arm64.events import Event
    from tlbkit.arm64.machine import Machine


class LockOrderError(TlbkitError):
    """Two CPUs take two locks in opposite orders; lockdep would have reported it."""

    def __init__(self, cpu: int, first: str, second: str, other: int) -> None:
        super().__init__(
            f"CPU {cpu} takes {second!r} while it holds {first!r}; "
            f"CPU {other} takes them the other way round"
        )
        self.cpu = cpu
        self.first = first
        self.second = second
        self.other = other


class HeldLocks:
    """Follows who takes and releases what."""

    __slots__ = ("_after", "_held")

    def __init__(self) -> None:
        self._held: dict[int, list[str]] = {}
        # (first, second): the CPU that took the second while it held the first.
        self._after: dict[tuple[str, str], int] = {}

    def of(self, cpu: int) -> tuple[str, ...]:
        """Return the names of the locks that a CPU holds, the oldest first."""
        return tuple(self._held.get(cpu, ()))

    def hear(self, event: Event) -> None:
        """Take note of one event of the kind ``lock``.

        Raises:
            LockOrderError: somebody took the two locks the other way round.
        """
        held = self._held.setdefault(event.cpu, [])
        name = event.what.name
        if event.new == "released":
            if name in held:
                held.remove(name)
            return
        second = kind_of(name)
        for one in held:
            first = kind_of(one)
            if first == second:
                continue
            other = self._after.get((second, first))
            if other is not None and other != event.cpu:
                raise LockOrderError(event.cpu, first, second, other)
            self._after.setdefault((first, second), event.cpu)
        held.append(name)

    @contextmanager
    def listening(self, machine: Machine) -> Iterator[None]:
        """Listen to a machine until the end of the ``with`` block."""
        machine.events.listen(self.hear, {"lock"})
        try:
            yield
        finally:
            machine.events.leave(self.hear)
