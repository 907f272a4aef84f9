"""Instructions as events, and which event of a thread must wait for which.

A thread may do its events in any order that these rules leave open. The rules are
numbered as in the docstring of the package; each is one `if` of `waits_for`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from tlbkit.arm64.ordering.program import (
    NOTHING,
    Accesses,
    Atomic,
    Branch,
    Choice,
    CompareAndSwap,
    Data,
    Depends,
    Dmb,
    Dsb,
    Instruction,
    Isb,
    Load,
    Store,
    Swap,
    Table,
    Tlbi,
)


class Kind(Enum):
    """What an event does."""

    WALK = auto()  # take a translation, from a TLB or from the table in memory
    UPDATE = auto()  # hardware writes access flag or dirty state to the entry
    READ = auto()  # the load takes its value
    WRITE = auto()  # the store reaches memory
    FAULT = auto()  # the access faults and ends its thread
    BARRIER = auto()  # a DMB, DSB or ISB is done
    INVALIDATE = auto()  # a TLBI is sent
    BRANCH = auto()  # a branch is decided


AFTER_WALK_UPDATE = 1
"""The update of an access to data is the event after its walk, if it happens at all."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event of one instruction.

    Attributes:
        kind: What it does.
        step: Index of the instruction in its thread.
        instruction: The instruction.
        page: The page whose data the instruction accesses, else "".
        table: The page whose table word the instruction accesses, else "".
    """

    kind: Kind
    step: int
    instruction: Instruction
    page: str = ""
    table: str = ""


def events_of(thread: tuple[Instruction, ...]) -> tuple[Event, ...]:
    """List the events of a thread in program order."""
    return tuple(
        Event(kind, step, instruction, page, table)
        for step, instruction in enumerate(thread)
        for kinds, page, table in [_anatomy(instruction)]
        for kind in kinds
    )


def _anatomy(instruction: Instruction) -> tuple[tuple[Kind, ...], str, str]:
    """Return the kinds of an instruction's events, its data page, its table page."""
    match instruction:
        case Load(Data(page)):
            return (Kind.WALK, Kind.UPDATE, Kind.READ, Kind.FAULT), page, ""
        case Store(Data(page)):
            return (Kind.WALK, Kind.UPDATE, Kind.WRITE, Kind.FAULT), page, ""
        case Atomic(Data(page)):
            return (Kind.WALK, Kind.UPDATE, Kind.READ, Kind.WRITE, Kind.FAULT), page, ""
        case Load(Table(page)):
            return (Kind.READ,), "", page
        case Store(Table(page)):
            return (Kind.WRITE,), "", page
        case Atomic(Table(page)) | Swap(Table(page)) | CompareAndSwap(Table(page)):
            return (Kind.READ, Kind.WRITE), "", page
        case Tlbi():
            return (Kind.INVALIDATE,), "", ""
        case Branch() | Choice(branch=True):
            return (Kind.BRANCH,), "", ""
        case Choice():
            return (), "", ""
    return (Kind.BARRIER,), "", ""


def order_of(events: tuple[Event, ...], *, ets2: bool) -> tuple[frozenset[int], ...]:
    """Return for each event of a thread the earlier ones that it may not overtake.

    Beside the rules for two events (`waits_for`) these are the ones that lead through a
    third: what comes after an access whose address depends on a read, and what is
    written after anything that a read picked.
    """
    rows = [
        {
            earlier
            for earlier in range(index)
            if waits_for(event, events[earlier], ets2=ets2)
        }
        for index, event in enumerate(events)
    ]
    reads = {
        register: index
        for index, event in enumerate(events)
        if event.kind is Kind.READ
        and (register := getattr(event.instruction, "register", ""))
    }
    # Rule 4: an exclusive store comes after its load.
    for index, event in enumerate(events):
        if event.kind is Kind.WRITE and (
            exclusive := getattr(event.instruction, "exclusive", "")
        ):
            rows[index].add(reads[exclusive])
    # Rule 3: a write, and an ISB, wait for the address of every access before them.
    through: set[int] = set()
    for index, event in enumerate(events):
        if event.kind in (Kind.WRITE, Kind.UPDATE) or isinstance(
            event.instruction, Isb
        ):
            rows[index] |= through
        if event.kind in (Kind.READ, Kind.WRITE):
            on = depends_of(event.instruction)
            names = on.address | on.picked_address
            if not _surely_faults(event):
                through |= {reads[name] for name in names}
            elif index + 2 < len(events):  # its fault, and then the exception entry
                rows[index + 2] |= {reads[name] for name in names}
    # Rule 12: a write comes after the reads that picked what it comes after.
    picks = {
        index: {reads[name] for name in names}
        for index, event in enumerate(events)
        if (names := _picked(event))
    }
    if picks:
        for index, event in enumerate(events):
            if event.kind is Kind.WRITE:
                before = _all_before(rows, index)
                for third in before & picks.keys():
                    rows[index] |= picks[third]
    return tuple(frozenset(earlier for earlier in row) for row in rows)


def _all_before(rows: list[set[int]], index: int) -> set[int]:
    """Return all that comes before an event, by one step or by several."""
    found: set[int] = set()
    stack = [index]
    while stack:
        for earlier in rows[stack.pop()]:
            if earlier not in found:
                found.add(earlier)
                stack.append(earlier)
    return found


def _picked(event: Event) -> frozenset[str]:
    """Return the registers whose reads picked what an event is about."""
    on = depends_of(event.instruction)
    if event.kind is Kind.WRITE:
        return on.picked_address | on.picked_data
    return on.picked_address | on.picked_read


def _surely_faults(event: Event) -> bool:
    """Tell whether the program goes on only if this access faults."""
    return getattr(event.instruction, "faults", None) is True


def depends_of(instruction: Instruction) -> Depends:
    """Return what an instruction depends on."""
    depends = getattr(instruction, "depends", NOTHING)
    return depends if isinstance(depends, Depends) else NOTHING


def waits_for(later: Event, earlier: Event, *, ets2: bool) -> bool:
    """Tell whether `later` may not happen before `earlier`, whatever the outcome.

    Both are of one thread, `earlier` first in program order. What depends on the
    outcome (which frame, which fault) is for the model to check as it runs.
    """
    if later.step == earlier.step:
        # Rules 2 and 4: translate, then access; an atomic reads, then writes.
        return earlier.kind is Kind.WALK or (
            earlier.kind is Kind.READ and later.kind is Kind.WRITE
        )
    first, second = earlier.instruction, later.instruction
    # Rule 3: nothing is written on the strength of an access that may yet fault.
    if earlier.kind is Kind.WALK and later.kind in (Kind.WRITE, Kind.UPDATE):
        return True
    # Rule 12: dependencies.
    if earlier.kind is Kind.READ and _depends(later, earlier):
        return True
    # Rule 4: a table word is written after the earlier own accesses to it.
    if later.kind is Kind.WRITE and later.table:
        if earlier.kind is Kind.UPDATE and earlier.page == later.table:
            return True
        if earlier.table == later.table:
            return True
    # Rule 8: ISB.
    if isinstance(first, Isb):
        return True
    if isinstance(second, Isb):
        return earlier.kind in (Kind.WALK, Kind.BRANCH) or isinstance(first, Dsb)
    # Rule 9: a branch waits for its register; writes and TLBI wait for the branch.
    if isinstance(second, Branch) and earlier.kind is Kind.READ:
        return getattr(first, "register", "") == second.register
    if earlier.kind is Kind.BRANCH:
        return later.kind in (Kind.WRITE, Kind.UPDATE, Kind.INVALIDATE)
    # Rule 7: DSB.
    if isinstance(second, Dsb):
        return _counts(earlier, second.accesses) or (
            second.accesses is Accesses.ALL
            and earlier.kind in (Kind.WALK, Kind.UPDATE, Kind.INVALIDATE)
        )
    if isinstance(first, Dsb):
        # Rule 10: only with ETS2 does a walk wait for a DSB that no ISB follows.
        return ets2 or later.kind not in (Kind.WALK, Kind.UPDATE)
    # Rule 6: DMB, acquire and release.
    if isinstance(second, Dmb):
        return _counts(earlier, second.accesses)
    if isinstance(first, Dmb) and first.accesses is Accesses.STORES:
        return later.kind in (Kind.WRITE, Kind.FAULT)
    if isinstance(first, Dmb):
        return later.kind in (Kind.READ, Kind.WRITE, Kind.FAULT)
    if _acquires(earlier) or _swaps_with_order(earlier):
        return later.kind in (Kind.READ, Kind.WRITE, Kind.FAULT)
    if _releases(later):
        return earlier.kind in (Kind.READ, Kind.WRITE)
    return _releases(earlier) and _acquires(later) and not getattr(second, "weak", 0)


def _acquires(event: Event) -> bool:
    """Tell whether an event is the read of a load-acquire."""
    return event.kind is Kind.READ and getattr(event.instruction, "acquire", False)


def _releases(event: Event) -> bool:
    """Tell whether an event is the write of a store-release."""
    return event.kind is Kind.WRITE and getattr(event.instruction, "release", False)


def _swaps_with_order(event: Event) -> bool:
    """Tell whether an event is the write of an atomic that acquires and releases."""
    return _releases(event) and getattr(event.instruction, "acquire", False)


def _depends(later: Event, read: Event) -> bool:
    """Tell whether an event depends on what a read of its thread has found."""
    register = getattr(read.instruction, "register", "")
    on = depends_of(later.instruction)
    match later.kind:
        case Kind.WALK | Kind.READ:
            return register in on.address
        case Kind.UPDATE | Kind.INVALIDATE:
            return register in on.address | on.picked_address
        case Kind.WRITE:
            return register in (
                on.address | on.data | on.picked_address | on.picked_data
            )
        case Kind.BRANCH:
            return register in on.data | on.picked_data
        case _:
            return False


def _counts(event: Event, accesses: Accesses) -> bool:
    """Tell whether a barrier for these accesses waits for the event."""
    match accesses:
        case Accesses.ALL:
            return event.kind in (Kind.READ, Kind.WRITE)
        case Accesses.LOADS:
            return event.kind is Kind.READ and getattr(
                event.instruction, "returns", True
            )
        case Accesses.STORES:
            return event.kind is Kind.WRITE
