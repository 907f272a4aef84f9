"""Instructions as events, and which event of a thread must wait for which.

A thread may do its events in any order that these rules leave open. The rules are
numbered as in the docstring of the package; each is one `if` of `waits_for`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from tlbkit.arm64.ordering.program import (
    Accesses,
    Branch,
    CompareAndSwap,
    Data,
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


# An access to data is four events in a row; the walk decides which will happen.
AFTER_WALK_UPDATE, AFTER_WALK_ACCESS, AFTER_WALK_FAULT = 1, 2, 3


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
        case Load(Table(page)):
            return (Kind.READ,), "", page
        case Store(Table(page)):
            return (Kind.WRITE,), "", page
        case Swap(Table(page)) | CompareAndSwap(Table(page)):
            return (Kind.READ, Kind.WRITE), "", page
        case Tlbi():
            return (Kind.INVALIDATE,), "", ""
        case Branch():
            return (Kind.BRANCH,), "", ""
    return (Kind.BARRIER,), "", ""


def waits_for(later: Event, earlier: Event, *, ets2: bool) -> bool:
    """Tell whether `later` may not happen before `earlier`, whatever the outcome.

    Both are of one thread, `earlier` first in program order. What depends on the
    outcome (which frame, which fault) is for the model to check as it runs.
    """
    if later.step == earlier.step:
        # Rules 2 and 4: translate, then access; an atomic reads, then writes.
        return earlier.kind is Kind.WALK or earlier.kind is Kind.READ
    first, second = earlier.instruction, later.instruction
    # Rule 3: nothing is written on the strength of an access that may yet fault.
    if earlier.kind is Kind.WALK and later.kind in (Kind.WRITE, Kind.UPDATE):
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
        return isinstance(first, Dsb | Branch) or earlier.kind is Kind.WALK
    # Rule 9: a branch waits for its register; writes and TLBI wait for the branch.
    if isinstance(second, Branch) and earlier.kind is Kind.READ:
        return getattr(first, "register", "") == second.register
    if isinstance(first, Branch):
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
    if isinstance(first, Load) and first.acquire and earlier.kind is Kind.READ:
        return later.kind in (Kind.READ, Kind.WRITE, Kind.FAULT)
    if isinstance(second, Store) and second.release and later.kind is Kind.WRITE:
        return earlier.kind in (Kind.READ, Kind.WRITE)
    if isinstance(second, Load) and second.acquire and later.kind is Kind.READ:
        released = isinstance(first, Store) and first.release
        return released and earlier.kind is Kind.WRITE
    return False


def _counts(event: Event, accesses: Accesses) -> bool:
    """Tell whether a barrier for these accesses waits for the event."""
    match accesses:
        case Accesses.ALL:
            return event.kind in (Kind.READ, Kind.WRITE)
        case Accesses.LOADS:
            return event.kind is Kind.READ
        case Accesses.STORES:
            return event.kind is Kind.WRITE
