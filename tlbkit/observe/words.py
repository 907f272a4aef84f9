"""Events in words, and whether two machines did the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tlbkit.arm64 import tlbi
from tlbkit.arm64.cached import CachedTable
from tlbkit.arm64.descriptor import (
    AF,
    AP_EL0,
    AP_READ_ONLY,
    DBM,
    PXN,
    UXN,
    VALID,
)
from tlbkit.arm64.fault import Fault

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tlbkit.arm64.cached import Entry
    from tlbkit.arm64.events import Event


_SOFTWARE = 1 << 63 | 0xF << 55
_RIGHTS = AF | AP_EL0 | AP_READ_ONLY | DBM | PXN | UXN


def describe(event: Event, *, lpa2: bool = False) -> str:
    """Return what happened as one line, without number and CPU.

    Args:
        event: From the stream of a machine.
        lpa2: Whether the operands of that machine's range TLBIs count 64 KiB units.
    """
    if event.kind == "tlbi":
        return tlbi.describe(event.what, event.new, lpa2=lpa2)
    in_words = _WORDS.get(event.kind)
    return in_words(event) if in_words else f"{event.kind} {event.what or ''}".rstrip()


def meaning(event: Event) -> str:
    """Return what follows from an event, as somebody who knows would say it.

    Nothing where the line of `describe` says it all.

    >>> from tlbkit.arm64.events import Event
    >>> meaning(Event(1, 0, "store", 0x1000, 0x743, 0, ""))
    'gone from the tables; a TLB that holds it still answers'
    """
    said = _MEANINGS.get(event.kind)
    if said is None or isinstance(said, str):
        return said or ""
    return said(event)


def same(one: Event, other: Event) -> bool:
    """Tell whether two events, of two machines, are the same deed.

    Running numbers do not count, and objects are compared by what they stand for.
    """
    return one[1:3] == other[1:3] and _deed(one) == _deed(other)


def _deed(event: Event) -> tuple[Any, ...]:
    """Return the event as values that mean the same on every machine."""
    if event.kind in {"lock", "no lock"}:
        return event.what.name, event.new
    if event.kind in {"notifier", "notifier range"}:
        return event.what, event.old, event.why
    if event.kind == "switch":
        return event.new.asid, event.new.ttbr0
    return event[3:]


def _what_a_store_means(event: Event) -> str:
    old, new = event.old, event.new
    if not old & VALID:
        if not new & VALID:
            return "hardware sees neither: nothing to flush"
        return "nothing was visible here, so no TLB can hold anything older"
    if not new & VALID:
        if new:
            return "hidden from hardware, there for software; a TLB may still hold it"
        return "gone from the tables; a TLB that holds it still answers"
    changed = old ^ new
    if not changed & ~_SOFTWARE:
        return "only bits that hardware does not read"
    if not changed & ~(_SOFTWARE | AF):
        return "the access flag alone: no right changes"
    if changed & ~(_SOFTWARE | _RIGHTS):
        return "another translation in place of a live one"
    if _granted(new) & ~_granted(old):
        return "more rights; a TLB with the strict entry faults once, and finds them"
    if _granted(old) & ~_granted(new):
        return "rights taken back; a TLB with the old entry still grants them"
    return "the same rights"


def _granted(descriptor: int) -> int:
    """Return rights as bits that are set where something is allowed."""
    writable = not descriptor & AP_READ_ONLY or descriptor & DBM
    return (
        bool(descriptor & AP_EL0)
        | bool(writable) << 1
        | (not descriptor & UXN) << 2
        | (not descriptor & PXN) << 3
    )


def _what_a_tlbi_means(event: Event) -> str:
    operation = event.what
    who = "every CPU" if operation.broadcast else "this CPU alone"
    if operation.by is tlbi.By.ALL or operation.by is tlbi.By.ASID:
        what = "all of it, tables too"
    elif operation.last_level:
        what = "leaf entries; walk caches keep their tables"
    else:
        what = "leaf entries, and the tables on the way to them"
    return f"asks {who} to forget {what}; done only after a DSB here"


_BARRIERS = {
    "ishst": "stores to descriptors are seen by every walker before what follows",
    "nshst": "stores to descriptors are seen by this CPU's walker before what follows",
    "ish": "waits until every CPU has done what the TLBIs of this one asked",
    "nsh": "waits for the local TLBIs of this CPU",
}


def _what_a_drop_means(event: Event) -> str:
    return "" if event.why in tlbi.OPERATIONS else "the tables are as they were"


def _what_an_irq_means(event: Event) -> str:
    if event.what == "off":
        return "no IPI is answered, so who waits for all CPUs waits for this one"
    return "what was held back is answered now"


_MEANINGS: Mapping[str, str | Callable[[Event], str]] = {
    "store": _what_a_store_means,
    "tlbi": _what_a_tlbi_means,
    "dsb": lambda event: _BARRIERS.get(event.what, ""),
    "isb": "what follows is fetched and translated anew",
    "hardware": "the walker marks the entry by itself, with no fault",
    "fill": "used from now on, whatever becomes of the tables, until it is dropped",
    "drop": _what_a_drop_means,
    "spurious": "the tables allow it: only this CPU's TLB is behind",
    "ipi": "goes on when each of them has answered",
    "irq": _what_an_irq_means,
    "free": "the next allocation may get it",
    "alloc": "it holds what its last owner left, until it is cleared or copied to",
    "switch": "entries of other ASIDs stay, and do not answer",
    "notifier": "devices that translate by these tables drop their copies",
}


def _call(event: Event) -> str:
    arguments = (hex(a) if isinstance(a, int) else repr(a) for a in event.new)
    return f"{event.what}({', '.join(arguments)})"


def _read(event: Event) -> str:
    return f"read {event.what.va:#x}: {event.new:#x}"


def _write(event: Event) -> str:
    return f"write {event.what.va:#x}: {event.old:#x} becomes {event.new:#x}"


def _execute(event: Event) -> str:
    return f"execute {event.what.va:#x}"


def _fault(event: Event) -> str:
    return f"{event.new} at {event.what:#x}"


def _walk(event: Event) -> str:
    start = f" from level {event.old.level}" if event.old else ""
    found = event.new
    end = str(found) if isinstance(found, Fault) else f"frame at {found.pa:#x}"
    return f"walk for {event.what:#x}{start}: {end}"


def _store(event: Event) -> str:
    return f"store at {event.what:#x}: {event.old:#x} becomes {event.new:#x}"


def _hardware(event: Event) -> str:
    return f"hardware update at {event.what:#x}: {event.old:#x} becomes {event.new:#x}"


def _switch(event: Event) -> str:
    return f"switch to asid {event.new.asid:#x}"


def _cached(what: Entry | CachedTable) -> str:
    if isinstance(what, CachedTable):
        table = what.table
        size = f"level {table.level} table for {table.va:#x}"
        return f"{size}, asid {what.asid:#x}"
    size = f"{1 << what.shift - 10} KiB"
    return f"{what.va:#x} to {what.pa:#x}, {size}, asid {what.asid:#x}"


def _fill(event: Event) -> str:
    return f"fill {event.new}: {_cached(event.what)}"


def _drop(event: Event) -> str:
    return f"drop from {event.old}: {_cached(event.what)} ({event.why})"


def _ipi(event: Event) -> str:
    targets = ", ".join(map(str, event.what)) or "none"
    return f"ipi to CPU {targets} ({event.why})"


def _gup_read(event: Event) -> str:
    level, place = event.what
    return f"lockless read of the {level} entry at {place:#x}: {event.new:#x}"


_LOCK_VERBS = {
    "acquired": "take",
    "read": "take for reading",
    "write": "take for writing",
    "released": "release",
}


def _lock(event: Event) -> str:
    return f"{_LOCK_VERBS[event.new]} {event.what.name}"


def _omitted(event: Event) -> str:
    return f"would {_LOCK_VERBS[event.new]} {event.what.name}, and does not"


def _alloc(event: Event) -> str:
    return f"allocate frame {event.what:#x}{_order(event.new)}"


def _free(event: Event) -> str:
    return f"free frame {event.what:#x}{_order(event.old)}"


def _order(order: int) -> str:
    return f" and the {(1 << order) - 1} after it" if order else ""


def _notifier(event: Event) -> str:
    return f"flush secondary TLBs for {_span(event.what)}"


def _notifier_range(event: Event) -> str:
    return f"{event.old} of change to {_span(event.what)} ({event.why})"


def _span(span: tuple[int, int]) -> str:
    return f"{span[0]:#x} to {span[1]:#x}"


_WORDS: Mapping[str, Callable[[Event], str]] = {
    "call": _call,
    "read": _read,
    "write": _write,
    "execute": _execute,
    "fault": _fault,
    "walk": _walk,
    "store": _store,
    "hardware": _hardware,
    "dsb": lambda event: f"dsb {event.what}",
    "isb": lambda _: "isb",
    "switch": _switch,
    "irq": lambda event: f"interrupts {event.what}",
    "fill": _fill,
    "drop": _drop,
    "ipi": _ipi,
    "gup read": _gup_read,
    "gup take": lambda event: f"take a reference to frame {event.what:#x}",
    "lock": _lock,
    "no lock": _omitted,
    "alloc": _alloc,
    "free": _free,
    "notifier": _notifier,
    "notifier range": _notifier_range,
    "warning": lambda event: f"warning in {event.what}: {event.why}",
    "stat": lambda event: f"{event.what}: {event.old} -> {event.new}",
    "spurious": lambda event: f"spurious fault at {event.what:#x}",
    "dax": lambda event: f"the file answers {event.what}: {event.new}",
    "printk": lambda event: f"the log says: {event.what}",
}
