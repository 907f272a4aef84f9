"""What may be a slip in a test: it runs, but perhaps does not ask what was meant."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.arm64.ordering import (
    CompareAndSwap,
    Data,
    Entry,
    Hardware,
    Load,
    Store,
    Swap,
    named_page,
)
from tlbkit.explore.litmus.conditions import Equal, Faulted, Register, TableWord, atoms

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tlbkit.arm64.ordering import Program, Value
    from tlbkit.explore.litmus.form import LitmusTest


def doubts(test: LitmusTest) -> list[str]:
    r"""Return a sentence for each thing in a test that may be a slip.

    >>> from tlbkit.explore.litmus import load
    >>> doubts(load("test t\n P0: x := 1; r := x\n exists P0.r = 2")[0])
    ['nothing in the test puts 2 into P0.r']
    """
    return [*_impossible(test), *_alone(test.program)]


def _impossible(test: LitmusTest) -> Iterator[str]:
    """Tell which parts of the condition nothing in the test can make true."""
    program = test.program
    for atom in atoms(test.condition):
        match atom:
            case Equal(place, value):
                if value != 0 and value not in _values(program, table=_is_table(atom)):
                    match place:
                        case Register(thread, name):
                            where = f"P{thread}.{name}"
                        case TableWord(page):
                            where = f"pte({page})"
                        case _:
                            where = f"frame({place.name})"
                    yield f"nothing in the test puts {value} into {where}"
            case Faulted(thread, _, page):
                used = {
                    step.target.page
                    for step in program.threads[thread]
                    if isinstance(step, Load | Store) and isinstance(step.target, Data)
                }
                if not used or (page is not None and page not in used):
                    what = f"page {page}" if page else "the data of any page"
                    yield f"P{thread} does not access {what}, so it cannot fault there"


def _is_table(equal: Equal) -> bool:
    return isinstance(equal.place, TableWord) or isinstance(equal.value, Entry)


def _values(program: Program, *, table: bool) -> set[Value]:
    """Return all that a frame, or a table word, can come to hold."""
    if not table:
        found: set[Value] = {value for _, value in program.frames}
        for thread in program.threads:
            found |= {
                step.value
                for step in thread
                if isinstance(step, Store) and isinstance(step.value, int)
            }
        return found
    entries = set(program.entries())
    entries |= {
        step.value
        for thread in program.threads
        for step in thread
        if isinstance(step, Store | Swap | CompareAndSwap)
        and isinstance(step.value, Entry)
    }
    if program.hardware is not Hardware.NONE:
        entries |= {entry._replace(young=True) for entry in entries if entry.valid}
    if program.hardware is Hardware.DIRTY:
        entries |= {entry._replace(writable=True) for entry in entries if entry.dbm}
    return set(entries)


def _alone(program: Program) -> Iterator[str]:
    """Tell which pages are data of one thread, and nothing to the others."""
    if len(program.threads) == 1:
        return
    tables = dict(program.tables)
    users: dict[str, set[int]] = {}
    changed: set[str] = set()
    for number, thread in enumerate(program.threads):
        for step in thread:
            page = named_page(step)
            if page is None:
                continue
            if isinstance(getattr(step, "target", None), Data):
                users.setdefault(tables[page].frame, set()).add(number)
            else:
                changed |= {tables[page].frame}
    reached = {entry.frame for entry in program.entries()} - {
        entry.frame for entry in tables.values()
    }
    for page, entry in program.tables:
        threads = users.get(entry.frame, set())
        if len(threads) == 1 and entry.valid and entry.frame not in changed | reached:
            (only,) = threads
            yield f"no thread but P{only} has to do with page {page}"
