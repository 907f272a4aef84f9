"""Loads, stores and atomics of a thread, in every way that they can go."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from tlbkit.arm64.ordering import (
    Atomic,
    Choice,
    Computed,
    Data,
    Depends,
    Entry,
    Hardware,
    Isb,
    Load,
    Store,
    Table,
)
from tlbkit.explore.herd import values
from tlbkit.explore.herd.assembly import address, immediate
from tlbkit.explore.herd.state import register_name
from tlbkit.explore.herd.values import (
    Code,
    Held,
    MissingError,
    Word,
    apply,
    read_into,
    then,
)
from tlbkit.explore.herd.ways import NOTHING, Access, Pages, Path, State

if TYPE_CHECKING:
    from collections.abc import Callable

    from tlbkit.arm64.ordering import Instruction, Value
    from tlbkit.explore.herd.assembly import Listing
    from tlbkit.explore.herd.state import Initial


LOADS = {
    "LDR": (False, False),
    "LDAR": (True, False),
    "LDAPR": (True, True),
    "LDXR": (False, False),
    "LDAXR": (True, False),
}
"""The loads, with whether they acquire, and whether as LDAPR."""

STORES = ("STR", "STLR", "STXR", "STLXR")

ATOMIC = re.compile(
    r"(?P<load>SWP|CAS|LD(?:ADD|SET|CLR|EOR))(?P<order>A?L?)"
    r"|ST(?P<store>ADD|SET|CLR|EOR)(?P<late>L?)"
)


class AccessRunner:
    """A thread that is run in every way: what it holds, and its accesses.

    Attributes:
        number: The thread.
        listing: Its instructions.
        pages: What is known of the entries.
        found: The ways that are gone.
        todo: The ways that are still to be gone on with.
    """

    def __init__(
        self, number: int, listing: Listing, initial: Initial, pages: Pages
    ) -> None:
        self.number = number
        self.listing = listing
        self.pages = pages
        self.found: list[Path] = []
        self.todo: list[State] = []
        self._targets: list[Data | Table] = [
            place for name in initial.locations for place in (Data(name), Table(name))
        ]

    def _end(self, state: State, missing: str = "") -> None:
        self.found.append(
            Path(
                tuple(state.steps),
                tuple(state.places),
                state.registers,
                state.registers_at,
                missing,
            )
        )

    def _step(self, state: State, step: Instruction) -> None:
        state.steps.append(step)
        state.places.append(state.at - 1)

    def _fork(self, state: State) -> State:
        """Leave a second way to be gone later, and return it."""
        other = state.copy()
        self.todo.append(other)
        return other

    def _operand(self, state: State, text: str) -> Held:
        """Return what an operand, a register or a number, stands for."""
        number = immediate(text)
        if number is not None:
            return Held(number & values.MASK)
        name = register_name(text)
        if name == "XZR":
            return NOTHING
        return state.registers.get(name, NOTHING)

    def _set(self, state: State, register: str, held: Held) -> None:
        name = register_name(register)
        if name == "XZR":
            return
        if register[0] in "wW":
            if held.known:
                held = replace(held, value=values.low_half(cast("Word", held.value)))
            else:
                held = apply(values.low_half, held)
        state.registers[name] = held

    # Accesses ---------------------------------------------------------------

    def access(self, state: State, name: str, operands: tuple[str, ...]) -> bool:
        """Access memory: each place that the address may be, with and without fault."""
        base_text, added = address(operands[-1])
        base = self._operand(state, base_text)
        where = apply(values.add, base, self._operand(state, added)) if added else base
        if where.known:
            if not isinstance(where.value, Data | Table):
                raise MissingError("an access to an address that is no location's")
            return self._access_to(state, Access(name, operands, where, where.value))
        computed = cast("Computed", where.value)
        candidates = self._targets
        if isinstance(base.value, Data | Table):
            candidates = [base.value]
        for target in candidates:
            other = state.copy()
            found = then(computed, _is(target), wanted=True)
            self._step(other, Choice(found, branch=False))
            if self._access_to(other, Access(name, operands, where, target)):
                self.todo.append(other)
        known = frozenset(candidates)
        lost = then(computed, lambda word: word in known, wanted=False)
        self._step(state, Choice(lost, branch=False))
        self._end(state, f"{name}: an access to an address that is no location's")
        return False

    def _access_to(self, state: State, access: Access) -> bool:
        """Access one place; the state goes on without a fault, a copy with one."""
        target = access.target
        if isinstance(target, Table):
            if self.number in self.pages.user and not state.handling:
                raise MissingError("an access to an entry at EL0, which faults")
            return self._perform(state, access)
        write = access.name not in LOADS
        may = self.pages.may(target.page, self.number, write=write)
        if may == {False}:
            return self._perform(state, access)
        if state.handling or not (self.listing.handled or self.pages.again):
            state.registers_at[len(state.steps)] = dict(state.registers)
            return self._perform(state, access)
        if True in may and not state.faulted:
            self._fault(state.copy(), access, target)
        if False not in may:
            return False
        return self._perform(state, replace(access, faults=False))

    def _fault(self, state: State, access: Access, target: Data) -> None:
        """Fault, and go on in the handler, or at the same instruction again."""
        on = access.depends
        if access.name in LOADS:
            self._step(state, Load(target, depends=on, faults=True))
        else:
            self._step(state, Store(target, 0, depends=on, faults=True))
        self._step(state, Isb())  # an exception entry synchronises the context
        here = state.at - 1
        state.registers["ELR"] = Held(Code(self.number, here))
        if self.listing.handled:
            state.handling = True
            state.at = self.listing.body
        else:
            state.faulted = True
            state.at = here
        self.todo.append(state)

    def _perform(self, state: State, access: Access) -> bool:
        """Do an access that does not fault, or whose fault ends the thread."""
        name = access.name
        if name in STORES:
            return self._store(state, access)
        if name not in LOADS:
            return self._atomic(state, access)
        (to, _) = access.operands
        register = f"r{len(state.steps)}"
        picked = self._through_memory(state, access.target)
        acquire, weak = LOADS[name]
        self._step(
            state,
            Load(
                access.target,
                register,
                acquire=acquire,
                weak=weak,
                depends=replace(access.depends, picked_read=picked),
                faults=access.faults,
            ),
        )
        self._set(state, to, replace(read_into(register), picked=picked))
        if name in ("LDXR", "LDAXR"):
            state.reserved = access.target, register, len(state.stores)
        return True

    def _store(self, state: State, access: Access) -> bool:
        name, target = access.name, access.target
        exclusive = ""
        *status, source, _ = access.operands
        if name in ("STXR", "STLXR"):
            (result,) = status
            if isinstance(target, Data) and self.pages.unsettled(
                target.page, self.number
            ):
                raise MissingError("a store-exclusive that may fault or make dirty")
            other = state.copy()
            self._set(other, result, Held(1))
            other.reserved = None
            self.todo.append(other)
            if state.reserved is None or state.reserved[0] != target:
                return False
            exclusive = state.reserved[1]
            if state.stores[state.reserved[2] :]:
                raise MissingError("a store between a load-exclusive and its store")
            state.reserved = None
        elif status:
            raise ValueError(name)
        value = self._operand(state, source)
        on = self._write(state, access, value)
        self._step(
            state,
            Store(
                target,
                _written(target, value),
                release=name in ("STLR", "STLXR"),
                depends=on,
                faults=access.faults,
                exclusive=exclusive,
            ),
        )
        if exclusive:
            self._set(state, result, Held(0))
        return True

    def _atomic(self, state: State, access: Access) -> bool:
        match = ATOMIC.fullmatch(access.name)
        if match is None:
            raise ValueError(access.name)
        kind, order = match["load"] or match["store"], match["order"] or ""
        order += match["late"] or ""
        if kind == "CAS":
            return self._compare_and_swap(state, access, order)
        source, to, _ = (
            (access.operands[0], "XZR", access.operands[1])
            if match["store"]
            else access.operands
        )
        register = f"r{len(state.steps)}"
        got, given = read_into(register), self._operand(state, source)
        returns = register_name(to) != "XZR"
        on = self._write(state, access, given)
        value = given if kind == "SWP" else apply(_CHANGES[kind], got, given)
        self._step(
            state,
            Atomic(
                access.target,
                _written(access.target, value),
                register,
                acquire="A" in order and returns,
                release="L" in order,
                returns=returns,
                depends=on,
                faults=access.faults,
            ),
        )
        self._set(state, to, got)
        return True

    def _compare_and_swap(self, state: State, access: Access, order: str) -> bool:
        expected_in, source, _ = access.operands
        expected = self._operand(state, expected_in)
        given = self._operand(state, source)
        register = f"r{len(state.steps)}"
        got = read_into(register)
        same = apply(lambda one, other: one == other, got, expected)
        returns = register_name(expected_in) != "XZR"
        acquire = "A" in order and returns
        # It fails, and writes nothing; whether it makes the entry dirty is left open.
        dirty = self.pages.hardware[self.number] is Hardware.DIRTY
        for dirties in (False, True) if dirty else (False,):
            other = self._fork(state)
            self._step(
                other,
                Load(
                    access.target,
                    register,
                    acquire=acquire,
                    depends=access.depends,
                    faults=access.faults,
                    as_store=True,
                    dirties=dirties,
                ),
            )
            self._judged(other, same, expected_in, got, wanted=False)
        # It fails, and writes what it has read; or it succeeds.
        for wanted, value in ((False, got), (True, given)):
            way = state if wanted else self._fork(state)
            on = self._write(way, access, value)
            on = on if wanted else replace(on, data=frozenset())
            judged_by = expected.basic | expected.picked
            self._step(
                way,
                Atomic(
                    access.target,
                    _written(access.target, value),
                    register,
                    acquire=acquire,
                    release="L" in order,
                    returns=returns,
                    depends=replace(on, picked_data=on.picked_data | judged_by),
                    faults=access.faults,
                ),
            )
            self._judged(way, same, expected_in, got, wanted=wanted)
        return True

    def _judged(
        self, state: State, same: Held, to: str, got: Held, *, wanted: bool
    ) -> None:
        """Note that a CAS found what it expected, or not."""
        computed = cast("Computed", same.value)
        self._step(state, Choice(then(computed, bool, wanted=wanted), branch=False))
        self._set(state, to, got)

    def _write(self, state: State, access: Access, value: Held) -> Depends:
        """Note a store, for loads that get its value; return its dependencies."""
        on = replace(access.depends, data=value.basic, picked_data=value.picked)
        picked = value.picked | on.picked_address
        state.stores.append((access.target, picked))
        return on

    def _through_memory(self, state: State, target: Data | Table) -> frozenset[str]:
        """Return the reads that picked the value of the last own store to a place."""
        for place, picked in reversed(state.stores):
            if type(place) is not type(target):
                continue
            if isinstance(place, Table) or isinstance(target, Table):
                same: bool | None = place == target
            else:
                frames = [self.pages.fixed_frame(p.page) for p in (place, target)]
                same = None if None in frames else frames[0] == frames[1]
            if same is None and picked:
                raise MissingError(
                    "a dependency by CSEL through a location whose entry changes"
                )
            if same:
                return picked
        return frozenset()


def _is(word: object) -> Callable[[object], bool]:
    return lambda other: word == other


def _written(target: Data | Table, value: Held) -> Value | Computed:
    """Return what a store writes to a place."""
    word = value.value
    if not isinstance(word, Computed):
        return _as_entry(word) if isinstance(target, Table) else cast("Value", word)
    if isinstance(target, Data):
        return word
    function = word.function
    return Computed(word.registers, lambda *words: _as_entry(function(*words)))


def _as_entry(word: object) -> Entry:
    """Return a word that is stored to an entry, if it is one."""
    if not isinstance(word, Entry):
        raise MissingError("what is stored to an entry is no entry")
    return word


_CHANGES: dict[str, Callable[[Word, Word], Word]] = {
    "ADD": values.add,
    "SET": lambda old, given: values.bitwise("ORR", old, given),
    "CLR": lambda old, given: values.bitwise("BIC", old, given),
    "EOR": lambda old, given: values.bitwise("EOR", old, given),
    "LDADD": values.add,
    "LDSET": lambda old, given: values.bitwise("ORR", old, given),
    "LDCLR": lambda old, given: values.bitwise("BIC", old, given),
    "LDEOR": lambda old, given: values.bitwise("EOR", old, given),
}
