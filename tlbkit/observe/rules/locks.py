"""Entries change under their lock, and locks are taken in one order."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from tlbkit.observe.calls import path
from tlbkit.observe.rules.rule import Allowance, Report, Rule, Section
from tlbkit.observe.rules.tables import LEAVES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tlbkit.arm64.events import Event
    from tlbkit.arm64.machine import Machine
    from tlbkit.linux.kernel.locking import RwSemaphore, SpinLock
    from tlbkit.observe.calls import Call
    from tlbkit.observe.rules.tables import Table

    Lock = SpinLock | RwSemaphore

ENTRY: Final = Rule(
    "entry-lock",
    "Whoever changes an entry of a live page table holds the lock of that table.",
    (
        "Documentation/mm/split_page_table_lock.rst",
        "Documentation/mm/process_addrs.rst: page table locks",
    ),
    (
        Allowance(
            "not hooked",
            "a table that no table points to is nobody's but the one's who has it",
        ),
        Allowance("address space gone", "nobody else can reach what has no user left"),
        Allowance(
            "tables of a new range",
            "an upper-level entry is filled under the page_table_lock of the address "
            "space",
        ),
        Allowance(
            "shared tables",
            "who lets go of a table that others go on using holds the lock of that "
            "table, and the lock of the file's areas (huge_pmd_unshare)",
        ),
        Allowance(
            "tables of an empty range",
            "munmap unhooks tables under the mmap lock, when no area is left that "
            "could bring anybody there",
        ),
        Allowance(
            "a shared table is left",
            "the entry above a shared table of huge pages is emptied under the lock of "
            "the file, which keeps those away who would fill it",
        ),
    ),
)
ORDER: Final = Rule(
    "lock-order",
    "Two locks are always taken in the same order.",
    (
        "Documentation/locking/lockdep-design.rst",
        "mm/rmap.c: the order of the locks of memory management",
    ),
    (
        Allowance(
            "behind another lock",
            "whoever takes the two in either order holds a third one that excludes the "
            "other: mremap takes two tables as they come, under the mmap lock",
        ),
        Allowance(
            "both for reading",
            "readers do not wait for each other, and no writer can come between while "
            "the mmap lock is held",
        ),
        Allowance("trylock", "who does not wait for a lock is in no deadlock"),
    ),
)

_ABOVE_SHARED: Final = 1
"""The level of the tables whose entries may lead to a shared table."""
_ADDRESS = re.compile(r" (0x)?[0-9a-f]+$")


class Taken(NamedTuple):
    """One lock that was taken while another was held.

    Attributes:
        cpu: By whom.
        step: The event.
        calls: What was at work.
        gates: What else was held, and not just for reading.
    """

    cpu: int
    step: int
    calls: tuple[Call, ...]
    gates: frozenset[Lock]


def lock_class(name: str) -> str:
    """Return the kind of a lock, which all of that name share.

    >>> lock_class("PTE table 0x80005")
    'PTE table'
    """
    return _ADDRESS.sub("", name)


class Locks:
    """Watches locks and what is done under them.

    Attributes:
        held: For each CPU, the locks that it has, with how it has them.
    """

    def __init__(self, machine: Machine, report: Callable[[Report], None]) -> None:
        self._machine = machine
        self._report = report
        self.held: dict[int, dict[Lock, str]] = {}
        self._after: dict[Lock | str, set[Lock | str]] = {}
        self._taken: dict[tuple[Lock | str, Lock | str], list[Taken]] = {}
        self._classes: dict[str, str] = {}

    def take(self, event: Event) -> None:
        """Note that a lock was taken, and after which others."""
        lock: Lock = event.what
        held = self.held.setdefault(event.cpu, {})
        if event.why != "trylock":
            for earlier in held:
                if earlier is not lock:
                    self._in_order(earlier, lock, held, event)
        held[lock] = event.new

    @staticmethod
    def _has_file(held: Mapping[Lock, str]) -> bool:
        """Tell whether the lock of a file's areas is held for writing."""
        return any(
            how == "write" and lock.name.startswith("i_mmap_rwsem")
            for lock, how in held.items()
        )

    def release(self, event: Event) -> None:
        """Note that a lock was released."""
        self.held.setdefault(event.cpu, {}).pop(event.what, None)

    def has_any(self, cpu: int) -> bool:
        """Tell whether a CPU has any lock that it took since this listens."""
        return bool(self.held.get(cpu))

    def _class(self, name: str) -> str:
        known = self._classes.get(name)
        if known is None:
            known = self._classes[name] = lock_class(name)
        return known

    def _in_order(
        self, earlier: Lock, lock: Lock, held: Mapping[Lock, str], event: Event
    ) -> None:
        """Complain if the two were ever taken in the other order."""
        if event.new == "read" == held[earlier]:
            return
        one: Lock | str = self._class(earlier.name)
        other: Lock | str = self._class(lock.name)
        if one == other:
            one, other = earlier, lock
        gates = frozenset(
            gate for gate, how in held.items() if how != "read" and gate is not earlier
        )
        known = self._taken.setdefault((one, other), [])
        if any(taken.gates <= gates for taken in known):
            return
        now = Taken(event.cpu, event.number, path(4), gates)
        known.append(now)
        self._after.setdefault(one, set()).add(other)
        for before in self._reversed(one, other):
            if not before.gates & gates:
                self._complain(earlier.name, lock.name, before, event)
                return

    def _reversed(self, one: Lock | str, other: Lock | str) -> list[Taken]:
        """Return when *other*, or what came after it, was held as *one* was taken."""
        ways: list[tuple[Lock | str, ...]] = [(other,)]
        seen = {other}
        while ways:
            way = ways.pop(0)
            for following in self._after.get(way[-1], ()):
                if following == one:
                    return self._taken[way[-1], one]
                if following not in seen:
                    seen.add(following)
                    ways.append((*way, following))
        return []

    def _complain(self, one: str, other: str, before: Taken, event: Event) -> None:
        now = Section(
            f"CPU {event.cpu} takes {other} with {one} held, at step {event.number}",
            (),
            path(5),
        )
        then = Section(
            f"The other order was CPU {before.cpu}'s at step {before.step}",
            (),
            before.calls,
        )
        headline = f"{one} and {other} are taken in both orders: two CPUs can wait for "
        self._report(
            Report(
                ORDER,
                headline + "each other",
                event.cpu,
                event.number,
                (now, then),
            )
        )

    def store(self, event: Event, table: Table, gone: Table | None) -> None:
        """An entry was changed: whoever did so needs its lock.

        Args:
            event: The store.
            table: In which the entry stands.
            gone: The table that it let go of, if it did.
        """
        mm = table.mm
        cpu = self._machine.cpus[event.cpu]
        if table.lock.held_by(cpu) or mm is None or not mm.users:
            return
        if table.level and not table.parents:
            return
        if gone is not None and gone.lock.holder is cpu:
            return
        if table.level != LEAVES and (
            mm.page_table_lock.held_by(cpu) or mm.mmap_lock.written_by(cpu)
        ):
            return
        held: Mapping[Lock, str] = self.held.get(event.cpu, {})
        if table.level == _ABOVE_SHARED and not event.new and self._has_file(held):
            return
        change = f"{event.old:#x} becomes {event.new:#x}"
        names = ", ".join(lock.name for lock in held) or "no lock"
        stored = Section(
            f"Stored by CPU {event.cpu} at step {event.number}, with {names}",
            (f"descriptor at {event.what:#x}: {change}",),
            path(4),
        )
        self._report(
            Report(
                ENTRY,
                f"an entry of {table.lock.name} changes, and CPU {event.cpu} has not "
                "locked it",
                event.cpu,
                event.number,
                (stored,),
            )
        )
