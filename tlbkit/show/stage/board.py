"""What there is to see of a machine after so many steps of a recording.

A board is a mapping from slots, which are places to draw at, to what stands there. A
slot that holds nothing is absent.

- ``("page", space, column)``: the `Cell` that the page tables of an address space have.
- ``("tlb", cpu, space, column)``: the `Cell` that a CPU remembers, with its verdict.
- ``("walk", cpu, space, column)``: the verdict on the last table that its walk cache
  knows on the way to that page.
- ``("flies", cpu)``: each `Flight` that the CPU has sent and not waited for; at the
  step of its DSB they are still there.
- ``("waits", cpu)``: at the step of a DSB, the CPUs that it waits for.
- ``("strikes", cpu)``: at the step of an IPI, the CPUs that it interrupts.
- ``("lock", label)``: who holds it, and who waits for it: two tuples.
- ``("irqs", cpu)``: ``"off"`` if the CPU holds interrupts off.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tlbkit.arm64.permission import EL0_EXECUTE, EL0_READ, EL0_WRITE
from tlbkit.arm64.tlb import Entry
from tlbkit.arm64.tlbi import OPERATIONS, decode
from tlbkit.lab.stale import Verdict
from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pte_dirty,
    pte_present_invalid,
    pte_special,
    pte_uffd_wp,
    pte_young,
)
from tlbkit.linux.include.linux.swapops import (
    SWP_PTE_MARKER,
    is_migration_entry,
    pte_to_swp_entry,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from tlbkit.arm64.leaf import Leaf
    from tlbkit.arm64.walk import Table
    from tlbkit.observe.recording import Key, Recording, Step

Slot = tuple[Any, ...]
"""A place to draw at; see the module."""

_USER: Final = EL0_READ | EL0_WRITE | EL0_EXECUTE
_LETTERS: Final = ((EL0_READ, "r"), (EL0_WRITE, "w"), (EL0_EXECUTE, "x"))
_KINDS: Final = {1: "PUD", 2: "PMD", 3: "page"}
_WORST_FIRST: Final = (Verdict.HOLE, Verdict.SPURIOUS, Verdict.IDLE, Verdict.AGREES)

MARKS: Final = {
    "d": "dirty",
    "o": "not accessed since the flag was cleared",
    "u": "write-protected by userfaultfd",
    "s": "special",
}
"""What the letters of `Cell.marks` mean."""


class Cell(NamedTuple):
    """A page as the tables, or one TLB, have it.

    Attributes:
        rights: What user space may do; a ``w`` in brackets once hardware has set the
            dirty state. In an entry that is not valid, what it is.
        frame: The frame that it leads to, by a letter; nothing if to none.
        marks: Letters, by `MARKS`.
        kind: ``"page"``, ``"contiguous"``, ``"PMD"``, ``"PUD"`` or ``"invalid"``.
        first: Address from which it covers ...
        shift: ... so many bytes, as a power of two.
        verdict: How a TLB's cell stands to the tables; of the tables' own ``None``.
        raw: The descriptor.
    """

    rights: str
    frame: str
    marks: str
    kind: str
    first: int
    shift: int
    verdict: Verdict | None
    raw: int


class Flight(NamedTuple):
    """A TLBI that was sent and not waited for.

    Attributes:
        name: The operation.
        space: The address space that it names; ``None`` for all.
        columns: The first and the last column that it names; ``None`` if it names none
            of the watched pages.
        everywhere: Whether it reaches all CPUs, and not only the one that sent it.
        tables: Whether walk caches forget their tables too.
    """

    name: str
    space: int | None
    columns: tuple[int, int] | None
    everywhere: bool
    tables: bool


def verdict(held: Entry, said: Entry | int | None) -> Verdict:
    """Judge what a TLB holds of a page by what the tables say of it."""
    if not isinstance(said, Entry) or held.pa - held.va != said.pa - said.va:
        return Verdict.HOLE
    held_leaf, said_leaf = held.leaf, said.leaf
    may = said_leaf.permissions | said_leaf.permissions_dirty
    if held_leaf.permissions & ~may & _USER:
        return Verdict.HOLE
    if may & ~(held_leaf.permissions | held_leaf.permissions_dirty) & _USER:
        return Verdict.SPURIOUS
    unnoticed = held_leaf.permissions & ~said_leaf.permissions & _USER
    return Verdict.IDLE if unnoticed or not said_leaf.young else Verdict.AGREES


def rights(leaf: Leaf) -> str:
    """Write what user space may do; a right that hardware grants last in brackets."""
    now = "".join(letter for bit, letter in _LETTERS if leaf.permissions & bit)
    later = leaf.permissions_dirty & ~leaf.permissions & EL0_WRITE
    return f"{now}(w)" if later else now or "-"


class Rows(NamedTuple):
    """What the rows and columns of all boards of a recording are.

    Attributes:
        columns: Addresses of the pages, in order.
        spaces: ASIDs of the address spaces, in the order in which they are met.
        holders: Which CPU has a row for which address space, in order.
        others: CPUs that have no row: they never do or hold anything.
        frames: The letters of frames, by size and number.
        page_shift: log2 of the bytes of a page.
    """

    columns: tuple[int, ...]
    spaces: tuple[int, ...]
    holders: tuple[tuple[int, int], ...]
    others: tuple[int, ...]
    frames: Mapping[tuple[int, int], str]
    page_shift: int

    def covered(self, va: int, shift: int) -> range:
        """Return the columns that lie in the ``1 << shift`` bytes from *va*."""
        return range(len(self.columns))[_slice(self.columns, va, shift)]

    def column(self, va: int) -> int | None:
        """Return the column in which an address lies, if there is one."""
        gaps = [b - a for a, b in pairwise(self.columns)]
        size = min(gaps, default=1 << self.page_shift)
        column = bisect_right(self.columns, va) - 1
        near = column >= 0 and va < self.columns[column] + size
        return column if near else None


FEW: Final = 12
"""So many CPUs all have rows, whatever they do."""

MOST_COLUMNS: Final = 64
"""More pages than that are not drawn."""


def rows(recording: Recording) -> Rows:
    """Find out what takes part in a recording, and so has a place on its boards."""
    changes = [change for step in recording.steps for change in step.changes]
    said = [
        *recording.start.items(),
        *((change.key, value) for change in changes for value in change[1:]),
    ]
    pages = recording.place.pages
    used = {key[2] for key, value in said if key[0] == "page" and value is not None}
    used |= {step.about for step in recording.steps if step.about in pages}
    columns = tuple(sorted(used))[:MOST_COLUMNS]
    spaces = tuple(
        dict.fromkeys(
            key[1] for key, value in said if key[0] == "page" and value is not None
        )
    )
    held: set[tuple[int, int]] = set()
    frames: dict[tuple[int, int], str] = {}
    for key, value in said:
        if not isinstance(value, Entry):
            continue
        for va in columns[_slice(columns, value.va, value.shift)]:
            frames.setdefault(_frame(value, va), _letter(len(frames)))
            if key[0] == "tlb" and value.asid in spaces:
                held.add((key[1], spaces.index(value.asid)))
    active = {step.cpu for step in recording.steps} | {cpu for cpu, _ in held}
    everyone = range(recording.place.cpus)
    shown = everyone if len(everyone) <= FEW else sorted(active)[:FEW]
    holders = [
        place
        for cpu in shown
        for place in (sorted(one for one in held if one[0] == cpu) or [(cpu, 0)])
    ]
    others = tuple(cpu for cpu in everyone if cpu not in shown)
    return Rows(
        columns,
        spaces,
        tuple(holders),
        others,
        frames,
        recording.place.page_shift,
    )


def _slice(columns: tuple[int, ...], va: int, shift: int) -> slice:
    """Which columns lie in the ``1 << shift`` bytes from *va*."""
    return slice(bisect_left(columns, va), bisect_left(columns, va + (1 << shift)))


def _frame(entry: Entry, va: int) -> tuple[int, int]:
    """The frame, or the block, that an entry leads *va* to: its size and number."""
    shift = entry.leaf.shift
    return shift, (entry.pa + va - entry.va) >> shift


def _letter(number: int) -> str:
    """Name things A to Z, then AA and so on.

    >>> [_letter(n) for n in (0, 25, 26, 52)]
    ['A', 'Z', 'AA', 'BA']
    """
    more, last = divmod(number, 26)
    return (_letter(more - 1) if more else "") + chr(ord("A") + last)


class Board:
    """The board of a recording, which moves along it.

    Args:
        recording: With watched pages.
        position: Where to begin: how many steps lie behind.
        shared: Rows and columns that several recordings are drawn in; its own if not
            given.

    Attributes:
        recording: As given.
        rows: What its rows and columns are.
        position: Where it stands.
    """

    def __init__(
        self, recording: Recording, position: int = 0, shared: Rows | None = None
    ) -> None:
        self.recording = recording
        self.rows = shared or rows(recording)
        self.position = position
        self._lasting: dict[Slot, Any] = {}
        self._passing: dict[Slot, Any] = {}
        self._touched: set[Slot] = set()
        self._pages: dict[tuple[int, int], Entry | int] = {}
        self._tables: dict[tuple[int, int], tuple[Table, ...]] = {}
        self._held: defaultdict[tuple[int, int, int], dict[Key, Any]]
        self._held = defaultdict(dict)
        self._waiting = _lock_waits(recording)
        for key, value in recording.state(position).items():
            self._take(key, value)
        for space, _ in enumerate(self.rows.spaces):
            for column, _ in enumerate(self.rows.columns):
                self._redraw(space, column)
        self._pass()

    @property
    def slots(self) -> dict[Slot, Any]:
        """What there is to see; see the module."""
        return self._lasting | self._passing

    def at(self, slot: Slot) -> Any:
        """Return what stands at one place, ``None`` if nothing does."""
        return self._passing.get(slot, self._lasting.get(slot))

    def touched(self) -> set[Slot]:
        """Return the slots that may look different since this was asked last."""
        touched, self._touched = self._touched, set()
        return touched

    def advance(self) -> None:
        """Go on by one step."""
        step = self.recording.steps[self.position]
        self.position += 1
        touched: set[tuple[int, int]] = set()
        for change in step.changes:
            touched |= self._take(change.key, change.after)
        for space, column in touched:
            self._redraw(space, column)
        self._pass()

    def _pass(self) -> None:
        """Show what is there during the last step only."""
        self._touched.update(self._passing)
        self._passing = {}
        for lock, waiters in self._waiting.get(self.position, {}).items():
            holders, _ = self._lasting.get(("lock", lock), ((), ()))
            self._passing["lock", lock] = holders, waiters
        if not self.position:
            return
        step = self.recording.steps[self.position - 1]
        if step.kind == "ipi" and step.about:
            self._passing["strikes", step.cpu] = step.about
        for change in step.changes:
            if change.key[0] == "in flight" and step.kind == "dsb" and change.before:
                flying = self._flights(change.before)
                self._passing["flies", step.cpu] = flying
                self._passing["waits", step.cpu] = self._heard(step.cpu, flying)
        self._touched.update(self._passing)

    def _heard(self, cpu: int, flying: Iterable[Flight]) -> tuple[int, ...]:
        """Return the CPUs that a DSB of *cpu* waits for."""
        if not any(flight.everywhere for flight in flying):
            return (cpu,)
        return tuple(n for n in range(self.recording.place.cpus) if n != cpu)

    def _take(self, key: Key, value: Any) -> set[tuple[int, int]]:
        """Take over one value of the state; return which pages look different."""
        spaces, columns = self.rows.spaces, self.rows.columns
        match key:
            case ("page" | "tables", asid, va) if asid in spaces and va in columns:
                place = spaces.index(asid), columns.index(va)
                kept = self._pages if key[0] == "page" else self._tables
                _put(kept, place, value)
                return {place}
            case ("tlb", cpu, _, va, shift, asid) if asid in spaces:
                space = spaces.index(asid)
                named = self.rows.covered(va, shift)
                for column in named:
                    _put(self._held[cpu, space, column], key, value)
                return {(space, column) for column in named}
            case ("in flight", cpu):
                self._set(("flies", cpu), self._flights(value or ()) or None)
            case ("irqs off", cpu):
                self._set(("irqs", cpu), "off" if value else None)
            case ("lock", label):
                self._set(("lock", label), (value, ()) if value else None)
        return set()

    def _set(self, slot: Slot, value: Any) -> None:
        _put(self._lasting, slot, value)
        self._touched.add(slot)

    def _redraw(self, space: int, column: int) -> None:
        """Look anew at what tables and TLBs have of one page."""
        va = self.rows.columns[column]
        said = self._pages.get((space, column))
        tables = self._tables.get((space, column), ())
        cell = None if said is None else self._cell(said, va, None)
        self._set(("page", space, column), cell)
        for cpu, whose in self.rows.holders:
            if whose != space:
                continue
            held = self._held[cpu, space, column].values()
            entries = [one for one in held if isinstance(one, Entry)]
            walks = [one for one in held if not isinstance(one, Entry)]
            judged = [(verdict(entry, said), entry) for entry in entries]
            judged.sort(key=lambda one: _WORST_FIRST.index(one[0]))
            cell = self._cell(judged[0][1], va, judged[0][0]) if judged else None
            self._set(("tlb", cpu, space, column), cell)
            last = max(walks, key=lambda table: table.level, default=None)
            known = None
            if last is not None:
                right = any(one[:4] == last[:4] for one in tables)
                known = Verdict.AGREES if right else Verdict.HOLE
            self._set(("walk", cpu, space, column), known)

    def _cell(self, what: Entry | int, va: int, judged: Verdict | None) -> Cell:
        if not isinstance(what, Entry):
            return _invalid(what, va, self.recording.place.page_shift)
        leaf, raw = what.leaf, what.descriptor
        grouped = leaf.group_shift > leaf.shift
        kind = "contiguous" if grouped else _KINDS[leaf.level]
        shift = what.shift
        if grouped and judged is None:
            shift = leaf.group_shift  # each entry of a group says that it is of one
        return Cell(
            rights(leaf),
            self.rows.frames[_frame(what, va)],
            "".join(
                letter
                for letter, is_so in (
                    ("d", pte_dirty(raw)),
                    ("o", not pte_young(raw)),
                    ("u", pte_uffd_wp(raw)),
                    ("s", pte_special(raw)),
                )
                if is_so
            ),
            kind,
            va >> shift << shift,
            shift,
            judged,
            raw,
        )

    def _flights(self, issued: Iterable[tuple[str, int]]) -> tuple[Flight, ...]:
        """Return what TLBIs name, told by columns."""
        found = []
        for name, operand in issued:
            operation = OPERATIONS[name]
            target = decode(operation, operand, lpa2=self.recording.place.lpa2)
            columns = self.rows.columns
            # A page is named by any address in it, a block by any as well.
            shift = self.recording.place.page_shift
            named = [
                column
                for column, va in enumerate(columns)
                if target.first >> shift <= va >> shift <= target.last >> shift
            ] or self._covering(target.first)
            space = None
            if not operation.any_asid:
                if target.asid not in self.rows.spaces:
                    named = []
                else:
                    space = self.rows.spaces.index(target.asid)
            found.append(
                Flight(
                    name,
                    space,
                    (named[0], named[-1]) if named else None,
                    operation.broadcast,
                    not operation.last_level,
                )
            )
        return tuple(found)

    def _covering(self, va: int) -> list[int]:
        """Return the column of the block that *va* lies in, if there is one."""
        columns = self.rows.columns
        before = bisect_left(columns, va) - 1
        for space, _ in enumerate(self.rows.spaces):
            said = self._pages.get((space, before))
            if isinstance(said, Entry) and va < said.va + (1 << said.shift):
                return [before]
        return []


def _put(kept: dict[Any, Any], key: Any, value: Any) -> None:
    if value is None:
        kept.pop(key, None)
    else:
        kept[key] = value


def _invalid(raw: int, va: int, shift: int) -> Cell:
    """The cell of an entry that is not valid."""
    said = "no access"
    if not pte_present_invalid(raw):
        entry = pte_to_swp_entry(raw)
        said = "swapped out"
        if is_migration_entry(entry):
            said = "moving"
        elif entry.type == SWP_PTE_MARKER:
            said = "marker"
    return Cell(said, "", "", "invalid", va, shift, None, raw)


def _lock_waits(recording: Recording) -> Mapping[int, Mapping[str, tuple[int, ...]]]:
    """Find out who waits for which lock, at each position at which somebody does.

    Who takes a lock that another held at some time since his last step has waited
    for it from then on.
    """
    waits: defaultdict[int, defaultdict[str, tuple[int, ...]]]
    waits = defaultdict(lambda: defaultdict(tuple))
    last: dict[int, int] = {}
    let_go: dict[tuple[str, int], int] = {}
    for position, step in enumerate(recording.steps, 1):
        for change in step.changes:
            if change.key[0] != "lock":
                continue
            label = change.key[1]
            now = {cpu for cpu, _ in change.after or ()}
            if step.cpu in now:
                begun = last.get(step.cpu, 0)
                ends = [
                    end
                    for (lock, cpu), end in let_go.items()
                    if lock == label and cpu != step.cpu and end > begun
                ]
                if begun:
                    for at in range(begun, max(ends, default=0)):
                        if step.cpu not in waits[at][label]:
                            waits[at][label] += (step.cpu,)
            else:
                let_go[label, step.cpu] = position
        last[step.cpu] = position
    return waits


def board_state(recording: Recording, position: int) -> Mapping[Slot, Any]:
    """Return what there is to see after *position* steps; see the module."""
    return Board(recording, position).slots


_ON_THE_WAY: Final = frozenset(
    {"fill", "walk", "alloc", "stat", "lock", "no lock", "isb", "notifier"}
    | {"notifier range", "call_rcu"}
)
"""Kinds of steps that are seen together with what they lead to."""


def is_unseen(step: Step) -> bool:
    """Tell whether a step stores a descriptor of no watched page."""
    return step.kind == "store" and all(c.key[0] == "word" for c in step.changes)


def moments(recording: Recording) -> Iterator[tuple[int, int]]:
    """Yield where a viewer stops: the steps between two stops, first and last.

    What happens on the way to something belongs to that, all TLBs that a DSB waited for
    forget together, and stores that no row shows are one.
    """
    steps = recording.steps
    first = 0
    for index, step in enumerate(steps):
        for after in steps[index + 1 : index + 2]:
            replaced = step.kind == "drop" and step.why.startswith("replaced")
            on_the_way = step.kind in _ON_THE_WAY or replaced
            unseen = is_unseen(step) and is_unseen(after)
            goes_on = (on_the_way or unseen) and after.cpu == step.cpu
            if goes_on or step.kind == after.kind == "drop":
                break
        else:
            yield first, index
            first = index + 1
