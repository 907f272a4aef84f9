"""No CPU may use what the tables took back, once nobody owes the flush any more.

A store that leaves some TLB with more than the tables grant makes a debt. The debt is
allowed while the one who stored still holds a lock that it held at the store, and in
the named cases of `STALE`. It is paid when the item is gone from that TLB, or when the
tables grant it again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from tlbkit.arm64.cached import CachedTable
from tlbkit.arm64.conflicts import needs_break
from tlbkit.arm64.tlb import names_entry, names_table
from tlbkit.arm64.tlbi import decode, describe
from tlbkit.observe.calls import path
from tlbkit.observe.rules.holdings import SINCE_BEFORE, Held, Holdings
from tlbkit.observe.rules.rule import Allowance, Report, Rule, Section, sections

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tlbkit.arm64.events import Event
    from tlbkit.arm64.tlbi import Operation, Target
    from tlbkit.linux.include.linux.mm_types import MmStruct
    from tlbkit.linux.kernel.kernel import Kernel
    from tlbkit.observe.calls import Call
    from tlbkit.observe.rules.locks import Lock, Locks
    from tlbkit.observe.rules.tables import Table

_MAINTENANCE: Final = 'Arm ARM (DDI 0487) D8.14 "TLB maintenance"'

_CACHETLB: Final = (
    "Documentation/core-api/cachetlb.rst: the flush follows the change, and is over "
    "when it returns"
)
_HOW: Final = {"read": "reading", "write": "writing"}

YOUNG: Final = Allowance(
    "young flag",
    "a cleared access flag takes no right away; who goes on using the old entry only "
    "makes the page look idle (ptep_clear_flush_young)",
)
UNDER_LOCK: Final = Allowance(
    "owed under a lock",
    "who changed the entry still holds a lock that it held then; whoever could be "
    "misled must take that lock first, and finds the flush done",
)
GATHER: Final = Allowance(
    "gather pending",
    "an mmu_gather of this address space is open; mm_tlb_flush_pending() tells others, "
    "and pages and tables are freed behind its flush",
)
BATCHED: Final = Allowance(
    "batched unmap",
    "reclaim has issued the TLBI and waits once for many pages, before any of them is "
    "freed; flush_tlb_batched_pending() makes others wait",
)
LESS_ONLY: Final = Allowance(
    "lacks permission",
    "an entry that grants less than the tables makes its CPU fault, and the fault "
    "drops it (flush_tlb_fix_spurious_fault)",
)
DEAD: Final = Allowance(
    "address space gone",
    "nobody runs in it any more, and its ASID is not given out before a rollover has "
    "flushed every CPU",
)
ENDED: Final = Allowance(
    "ASID outdated",
    "after a rollover the address space takes another number; what is held under the "
    "old one is flushed by each CPU before it runs under a new number",
)

STALE: Final = Rule(
    "stale-translation",
    "No CPU holds a translation that grants more than the tables do, unless a flush "
    "for it is still owed.",
    (_MAINTENANCE, _CACHETLB),
    (YOUNG, UNDER_LOCK, GATHER, BATCHED, LESS_ONLY, DEAD, ENDED),
)
NO_DSB: Final = Rule(
    "tlbi-without-dsb",
    "Whoever issues a TLBI waits for it with a DSB before it relies on it.",
    (
        f"{_MAINTENANCE}: a TLBI is complete after a DSB of the CPU that issued it",
        "arch/arm64/include/asm/tlbflush.h: the form of every flush",
    ),
    (YOUNG, BATCHED),
)
FREED: Final = Rule(
    "freed-frame",
    "No TLB and no walk cache reaches a frame that was freed.",
    (
        "mm/mmu_gather.c: pages and tables are freed after the flush",
        _MAINTENANCE,
    ),
    (DEAD, ENDED),
)
BREAK_FIRST: Final = Rule(
    "break-before-make",
    "A live entry is replaced by way of an invalid one, and the flush comes between.",
    ('Arm ARM (DDI 0487) D8.16.1 "Using break-before-make"',),
    (
        Allowance(
            "FEAT_BBM level 2",
            "such a CPU lets the size of a translation and its Contiguous bit change "
            "in place",
        ),
    ),
)
REUSED_ASID: Final = Rule(
    "asid-reuse",
    "A CPU that begins to use an ASID holds nothing of another address space under it.",
    ("arch/arm64/mm/context.c: a rollover makes every CPU owe a flush of its own TLB",),
)

GIVEN_UP: Final = Rule(
    "returned-call",
    "When a call that takes a range back returns, no TLB holds what was taken out of "
    "that range before the call began.",
    (
        (
            "mm/rmap.c: flush_tlb_batched_pending() makes a call wait for the batch of "
            "reclaim"
        ),
        "mm/mmu_gather.c: tlb_finish_mmu() flushes for others whose gather is open",
    ),
    (DEAD, ENDED),
)

_TAKING_BACK: Final = frozenset({"madvise", "mprotect", "mremap", "munmap"})
"""Calls that wait for who unmapped pages before them and owes the flush."""


class Promise:
    """What a system call at work says of its ranges once it returns.

    Attributes:
        event: Its beginning.
        ranges: What it has announced: address space, first address, end.
    """

    __slots__ = ("event", "ranges")

    def __init__(self, event: Event) -> None:
        self.event = event
        self.ranges: list[tuple[MmStruct, int, int]] = []

    def covers(self, debt: Debt) -> bool:
        """Tell whether what is owed is of a range, and older than the call."""
        store, va = debt.of.store, debt.held.va
        return (
            store is not None
            and store.number < self.event.number
            and any(
                mm is debt.of.mm and start <= va < end for mm, start, end in self.ranges
            )
        )


class Debt:
    """One item that a TLB should have lost.

    Attributes:
        held: The item.
        excess: What it grants too much, in words.
        of: Who made it, and owes the flush.
    """

    __slots__ = ("excess", "held", "of")

    def __init__(self, held: Held, excess: str, of: Obligation) -> None:
        self.held = held
        self.excess = excess
        self.of = of


class Obligation:
    """What one CPU owes to one address space for what it did under the same locks.

    Attributes:
        cpu: The CPU.
        mm: The address space.
        locks: Those held at the stores that are held still.
        names: Of all that were held at the stores.
        debts: What is owed.
        store: The first store that made one of them.
        calls: What was at work then.
        released: The step in which the last lock was released.
    """

    __slots__ = (
        "calls",
        "cpu",
        "debts",
        "locks",
        "mm",
        "names",
        "released",
        "store",
    )

    def __init__(
        self, cpu: int, mm: MmStruct, locks: frozenset[Lock], names: list[str]
    ) -> None:
        self.cpu = cpu
        self.mm = mm
        self.locks = set(locks)
        self.names = names
        self.debts: dict[Held, Debt] = {}
        self.store: Event | None = None
        self.calls: tuple[Call, ...] = ()
        self.released: int | None = None


class Owed(NamedTuple):
    """Something that a TLB still grants too much, and that is allowed for now.

    Attributes:
        cpu: Who owes the flush.
        what: Who can still use what, in words.
        allowance: The exception.
    """

    cpu: int
    what: str
    allowance: Allowance


class Flush:
    """One TLBI that was issued while something was owed.

    Attributes:
        event: The TLBI.
        target: What it names.
        calls: What was at work then.
        completed: The step of the DSB that waits for it.
    """

    __slots__ = ("calls", "completed", "event", "target")

    def __init__(self, event: Event, target: Target, calls: tuple[Call, ...]) -> None:
        self.event = event
        self.target = target
        self.calls = calls
        self.completed: int | None = None

    def names(self, held: Held) -> bool:
        """Tell whether it names an item, on whatever CPU."""
        operation: Operation = self.event.what
        if isinstance(held.what, CachedTable):
            return not operation.last_level and names_table(
                operation, self.target, held.what
            )
        return names_entry(operation, self.target, held.what)


class Coherence:
    """Watches what TLBs hold against the tables.

    Args:
        kernel: Whose.
        locks: Knows who has which.
        report: Called with what is wrong.
    """

    def __init__(
        self,
        kernel: Kernel,
        locks: Locks,
        report: Callable[[Report], None],
    ) -> None:
        self._kernel = kernel
        self._machine = kernel.machine
        self._memory = kernel.machine.memory
        self._shift = kernel.pgtable.page_shift
        self._resizes = kernel.machine.model.bbml2_noabort
        self._locks = locks
        self._report = report
        regimes = [
            regime
            for mm in kernel.fork.mmlist
            for regime in mm.regimes or ()
            if mm.users
        ]
        self.holdings = Holdings(kernel.machine, regimes)
        self._debts: dict[Held, Debt] = {}
        self._obligations: dict[int, list[Obligation]] = {}
        self._loose: list[Obligation] = []
        self._flushes: list[Flush] = []
        self._stale_tables = 0
        self._promises: dict[int, Promise] = {}

    # -- what TLBs hold --------------------------------------------------------------

    def fill(self, event: Event) -> None:
        """Note what a TLB took in; by way of a stale table it is stale as well."""
        held = self.holdings.fill(event, path(3, 8))
        if held is not None and self._stale_tables:
            excess = held.excess(self._memory)
            if excess:
                for debt in tuple(self._debts.values()):
                    if debt.held.cpu == held.cpu and isinstance(
                        debt.held.what, CachedTable
                    ):
                        self._owe(held, excess, debt.of)
                        break

    def drop(self, event: Event) -> None:
        """Note what a TLB lost, which pays what was owed for it."""
        held = self.holdings.drop(event)
        if held is not None and held in self._debts:
            self._pay(held)

    # -- changes of the tables -------------------------------------------------------

    def store(self, event: Event, gone: Table | None) -> None:
        """Look at everything that was made from the descriptor that changed.

        Args:
            event: The store.
            gone: The table that it unhooked, if it did.
        """
        pa = event.what
        made = self.holdings.by_descriptor.get(pa)
        if made:
            self._check_break(event, made.values())
            self._recheck(event, tuple(made.values()), pa)
        if gone is not None:
            for at in tuple(self.holdings.by_frame.get(gone.pfn, ())):
                below = tuple(self.holdings.by_descriptor[at].values())
                self._recheck(event, below, at)

    def _check_break(self, event: Event, made: Iterable[Held]) -> None:
        new = event.new
        if not new & 1:
            return
        for held in made:
            old = held.descriptor(event.what)
            if needs_break(old, new, resizes=self._resizes):
                headline = (
                    f"CPU {held.cpu} still holds {held} from {old:#x}, which becomes "
                    f"{new:#x}"
                )
                debt = self._debts.get(held)
                report = Report(
                    BREAK_FIRST,
                    headline,
                    event.cpu,
                    event.number,
                    sections(
                        Section(
                            f"Made by CPU {event.cpu} at step {event.number}",
                            (f"descriptor at {event.what:#x} becomes {new:#x}",),
                            path(4),
                        ),
                        self._changed(debt.of) if debt else None,
                        self._filled(held),
                        self._flushed(debt) if debt else None,
                    ),
                )
                self._report(report)
                return

    def _recheck(self, event: Event, items: Iterable[Held], pa: int) -> None:
        """Find out which of *items* grant too much now."""
        obligation = None
        for held in items:
            excess = held.excess(self._memory, pa)
            debt = self._debts.get(held)
            if not excess:
                if debt is not None and not held.excess(self._memory):
                    self._pay(held)
                continue
            if debt is not None:
                continue
            if obligation is None:
                obligation = self._obligation(event, held)
            if obligation is None:
                return
            self._owe(held, excess, obligation)
        if obligation is not None and not obligation.locks:
            self._loosen(obligation)
            self.settle(event.number)

    def _obligation(self, event: Event, held: Held) -> Obligation | None:
        """Return what the one who stored owes from now on; nothing to the dead."""
        mm = self._owner(held)
        if mm is None:
            return None
        cpu = event.cpu
        locks = self._locks.held.get(cpu, {})
        exclusive = frozenset(lock for lock, how in locks.items() if how != "read")
        for known in self._obligations.setdefault(cpu, []):
            if known.mm is mm and known.locks == exclusive and exclusive:
                return known
        names = [_lock_in_words(lock, how) for lock, how in locks.items()]
        new = Obligation(cpu, mm, exclusive, names)
        new.store = event
        new.calls = path(5)
        self._obligations[cpu].append(new)
        return new

    def _owner(self, held: Held) -> MmStruct | None:
        """Return the address space that an item belongs to, if it can still be used."""
        for mm in self._kernel.fork.mmlist:
            if any(regime is held.regime for regime in mm.regimes or ()):
                return mm if mm.users else None
        return None

    def _owe(self, held: Held, excess: str, obligation: Obligation) -> None:
        debt = Debt(held, excess, obligation)
        self._debts[held] = debt
        obligation.debts[held] = debt
        if isinstance(held.what, CachedTable):
            self._stale_tables += 1

    def _pay(self, held: Held) -> None:
        debt = self._debts.pop(held)
        del debt.of.debts[held]
        if isinstance(held.what, CachedTable):
            self._stale_tables -= 1
        if not debt.of.debts:
            self._close(debt.of)

    def _close(self, obligation: Obligation) -> None:
        self._obligations[obligation.cpu].remove(obligation)
        if obligation in self._loose:
            self._loose.remove(obligation)
        if not self._debts:
            self._flushes.clear()

    def _loosen(self, obligation: Obligation) -> None:
        if obligation not in self._loose:
            self._loose.append(obligation)

    # -- flushes ---------------------------------------------------------------------

    def tlbi(self, event: Event) -> None:
        """Remember a TLBI while anything is owed, to tell what was wrong with it."""
        if self._debts:
            model = self._machine.model
            target = decode(
                event.what,
                event.new,
                lpa2=model.lpa2,
                asid_bits=self._machine.cpus[event.cpu].asid_bits,
            )
            self._flushes.append(Flush(event, target, path(3)))

    def dsb(self, event: Event) -> None:
        """Remember which of them a barrier completed."""
        kind = event.what
        if kind.endswith(("st", "ld")):
            return
        for flush in self._flushes:
            one = flush.event
            if (
                one.cpu == event.cpu
                and flush.completed is None
                and (kind != "nsh" or not one.what.broadcast)
            ):
                flush.completed = event.number

    # -- what a call promises --------------------------------------------------------

    def call(self, event: Event) -> None:
        """A CPU begins a system call: the one before has returned."""
        self._returned(event.cpu, event.number)
        if event.what in _TAKING_BACK and "collapse" not in event.new:
            self._promises[event.cpu] = Promise(event)
        self.settle(event.number)

    def announced(self, event: Event) -> None:
        """A call at work tells of a range that changes."""
        promise = self._promises.get(event.cpu)
        if promise is not None:
            promise.ranges.append((event.new, *event.what))

    def _returned(self, cpu: int, step: int) -> None:
        """Hold a call that has returned to what it promised."""
        promise = self._promises.pop(cpu, None)
        if promise is None or not self._debts:
            return
        for debt in tuple(self._debts.values()):
            if not promise.covers(debt) or self._owner(debt.held) is not debt.of.mm:
                continue
            held = debt.held
            headline = (
                f"{promise.event.what} has returned on CPU {cpu}, and CPU {held.cpu} "
                f"can still use {held}: {debt.excess}"
            )
            report = Report(
                GIVEN_UP,
                headline,
                cpu,
                step,
                sections(
                    self._changed(debt.of), self._filled(held), self._flushed(debt)
                ),
            )
            self._pay(held)
            self._report(report)

    # -- when a debt is due ----------------------------------------------------------

    def released(self, lock: Lock, event: Event) -> None:
        """A lock was released: what was owed under it alone is due."""
        for obligation in tuple(self._obligations.get(event.cpu, ())):
            if lock in obligation.locks:
                obligation.locks.discard(lock)
                if not obligation.locks:
                    obligation.released = event.number
                    self._loosen(obligation)
        self.settle(event.number)

    def settle(self, step: int) -> None:
        """Report what nobody owes any more and a TLB still holds."""
        for obligation in tuple(self._loose):
            if self.excuse(obligation) is None:
                self._complain(obligation, step)

    def excuse(self, obligation: Obligation) -> Allowance | None:
        """Return the exception under which a debt is still allowed, if there is one."""
        mm = obligation.mm
        if obligation.locks:
            return UNDER_LOCK
        if not mm.users:
            return self._forgive(obligation, obligation.debts, DEAD)
        if mm.tlb_flush_pending:
            return GATHER
        outdated = [held for held in obligation.debts if self._owner(held) is not mm]
        if len(outdated) == len(obligation.debts):
            return self._forgive(obligation, outdated, ENDED)
        if mm.tlb_flush_batched_pending and all(
            self._in_flight(debt.held, obligation.cpu)
            for debt in obligation.debts.values()
        ):
            return BATCHED
        return None

    def owed(self) -> list[Owed]:
        """Return what is owed now, and why it may be."""
        return [
            Owed(
                obligation.cpu,
                f"CPU {debt.held.cpu} can still use {debt.held}: {debt.excess}",
                allowance,
            )
            for obligations in tuple(self._obligations.values())
            for obligation in tuple(obligations)
            if (allowance := self.excuse(obligation)) is not None
            for debt in obligation.debts.values()
        ]

    def _forgive(
        self, obligation: Obligation, items: Iterable[Held], why: Allowance
    ) -> Allowance:
        for held in tuple(items):
            if held in obligation.debts:
                self._pay(held)
        return why

    def _in_flight(self, held: Held, cpu: int) -> bool:
        """Tell whether a TLBI of *cpu* that names an item has yet to take it out.

        A DSB that has begun may still wait for it, so the CPU itself is asked.
        """
        return any(
            flush.event.cpu == cpu and self._flies(flush) and flush.names(held)
            for flush in self._flushes
        )

    def _flies(self, flush: Flush) -> bool:
        event = flush.event
        return (event.what, event.new) in self._machine.cpus[event.cpu].in_flight

    def _complain(self, obligation: Obligation, step: int) -> None:
        """Report one debt of an obligation, another CPU's if any, and end them all."""
        debts = obligation.debts.values()
        elsewhere = (debt for debt in debts if debt.held.cpu != obligation.cpu)
        debt = next(elsewhere, None) or next(iter(debts))
        held = debt.held
        rule = NO_DSB if self._in_flight(held, obligation.cpu) else STALE
        excess = held.excess(self._memory) or debt.excess
        headline = f"CPU {held.cpu} can still use {held}: {excess}"
        report = Report(
            rule,
            headline,
            obligation.cpu,
            step,
            sections(
                self._changed(obligation),
                self._filled(held),
                self._due(obligation),
                self._flushed(debt),
            ),
        )
        self._forgive(obligation, obligation.debts, DEAD)
        self._report(report)

    # -- new owners of an ASID and of a frame ----------------------------------------

    def switch(self, event: Event) -> None:
        """A CPU begins to use an ASID: nobody else's entries may answer for it."""
        tlb = self._machine.cpus[event.cpu].tlb.cpu
        others = self.holdings.of_others(tlb, event.new)
        if others is None:
            return
        headline = (
            f"CPU {event.cpu} begins to use asid {event.new.asid:#x}, and still holds "
            f"{others} of another address space"
        )
        now = Section(f"Switched at step {event.number}", (), path(4))
        self._report(
            Report(
                REUSED_ASID,
                headline,
                event.cpu,
                event.number,
                (now, self._filled(others)),
            )
        )

    def free(self, event: Event) -> None:
        """A frame was freed: nothing stale may lead there."""
        if not self._debts:
            return
        first = event.what << self._shift
        last = first + (1 << self._shift + event.old)
        for held, debt in tuple(self._debts.items()):
            if held.pa < last and first < held.pa + held.size:
                if self._owner(held) is not debt.of.mm:
                    self._pay(held)
                    continue
                kind = "table" if isinstance(held.what, CachedTable) else "page"
                report = Report(
                    FREED,
                    f"CPU {held.cpu} can still use {held}, and the {kind} is free",
                    event.cpu,
                    event.number,
                    sections(
                        Section(
                            f"Freed by CPU {event.cpu} at step {event.number}",
                            (),
                            path(4),
                        ),
                        self._changed(debt.of),
                        self._filled(held),
                        self._flushed(debt),
                    ),
                )
                self._pay(held)
                self._report(report)

    def audit(self, step: int) -> None:
        """Compare everything that is held, at a moment when nobody owes anything."""
        for cpu in tuple(self._promises):
            self._returned(cpu, step)
        self.settle(step)
        for held in self.holdings.held.values():
            if held in self._debts or self._owner(held) is None:
                continue
            excess = held.excess(self._memory)
            if excess:
                headline = f"CPU {held.cpu} can still use {held}: {excess}"
                self._report(
                    Report(STALE, headline, held.cpu, step, (self._filled(held),))
                )

    # -- the sections of a report ----------------------------------------------------

    @staticmethod
    def _changed(obligation: Obligation) -> Section | None:
        store = obligation.store
        if store is None:
            return None
        return Section(
            f"Taken back by CPU {store.cpu} at step {store.number}, with "
            f"{', '.join(obligation.names) or 'no lock'}",
            (f"descriptor at {store.what:#x}: {store.old:#x} becomes {store.new:#x}",),
            obligation.calls,
        )

    @staticmethod
    def _filled(held: Held) -> Section:
        filled = held.filled
        where = ", ".join(held.where)
        if filled.step == SINCE_BEFORE:
            title = f"Held by CPU {held.cpu} ({where}) since before the first step"
        else:
            title = f"Filled by CPU {filled.cpu} at step {filled.step} ({where})"
        return Section(title, (), filled.calls)

    @staticmethod
    def _due(obligation: Obligation) -> Section | None:
        if obligation.released is None:
            return Section(f"CPU {obligation.cpu} owed the flush, under no lock")
        return Section(
            f"CPU {obligation.cpu} owed the flush until step {obligation.released}, "
            "when it released the last lock of those",
        )

    def _flushed(self, debt: Debt) -> Section:
        """Say what was wrong with the flush, or that there was none."""
        held, lpa2 = debt.held, self._machine.model.lpa2
        for flush in reversed(self._flushes):
            if not flush.names(held):
                continue
            event = flush.event
            done = flush.completed
            cpus = range(held.cpu, held.cpu + self._machine.model.shared_tlb)
            if not event.what.broadcast and event.cpu not in cpus:
                problem = f"it is local to CPU {event.cpu}"
            elif done is None:
                problem = "no DSB of that CPU completed it"
            elif self._flies(flush):
                problem = f"the DSB of step {done} still waits for it"
            else:
                problem = (
                    f"completed at step {done}, but no DSB came between the store and "
                    "it, so the walker could still read the old descriptor"
                )
            operand = describe(event.what, event.new, lpa2=lpa2)
            return Section(
                f"{operand} by CPU {event.cpu} at step {event.number}",
                (problem,),
                flush.calls,
            )
        if self._flushes:
            others = [
                f"step {flush.event.number}: "
                + describe(flush.event.what, flush.event.new, lpa2=lpa2)
                for flush in self._flushes[-3:]
            ]
            return Section("No TLBI since then named it", tuple(others))
        return Section("No TLBI was issued since then")


def _lock_in_words(lock: Lock, how: str) -> str:
    return lock.name if how == "acquired" else f"{lock.name} for {_HOW[how]}"
