"""The ways that one thread of a test can go, each as a program of the ordering model.

A thread is run before anything is known of what it reads. Where its way depends on that
(a branch, CSEL, a CAS, a fault with a handler, an address that was read) it goes both
ways, and each way notes what must have been read on it. So a way is straight: it has no
branches left, and the model can run it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, cast

from tlbkit.arm64.ordering import (
    Accesses,
    Atomic,
    Choice,
    Computed,
    Data,
    Depends,
    Dmb,
    Domain,
    Dsb,
    Entry,
    Hardware,
    Isb,
    Load,
    Store,
    Table,
    Tlbi,
)
from tlbkit.arm64.ordering.entries import answer
from tlbkit.explore.herd import values
from tlbkit.explore.herd.assembly import address, immediate
from tlbkit.explore.herd.state import register_name
from tlbkit.explore.herd.text import shown
from tlbkit.explore.herd.values import (
    Code,
    Held,
    MissingError,
    PageNumber,
    Word,
    apply,
    read_into,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tlbkit.arm64.ordering import Instruction, Value
    from tlbkit.explore.herd.assembly import Line, Listing
    from tlbkit.explore.herd.state import Initial

UNROLL = 2
"""How often a jump back to one place is taken; ways that take it more often are left
out, as herd7 does by default."""

MAX_STEPS = 150
"""The longest way."""

MAX_PATHS = 400
"""The most ways of one thread."""

_NOTHING = Held(0)
_NO_FLAGS = Held((0, 1))  # Z is clear


@dataclass(frozen=True, slots=True)
class Path:
    """One way of a thread.

    Attributes:
        steps: What the model runs.
        places: For each step the place of its instruction.
        registers: What the registers hold at the end.
        registers_at: The same at each step whose fault would end the thread.
        missing: What is missing to go on from here, if an execution gets here, or "".
    """

    steps: tuple[Instruction, ...]
    places: tuple[int, ...]
    registers: Mapping[str, Held]
    registers_at: Mapping[int, Mapping[str, Held]]
    missing: str = ""


@dataclass(frozen=True, slots=True)
class Pages:
    """What is known of the entries of a test before it runs.

    Attributes:
        first: The first entry of each page.
        touched: The pages whose entry the test may store to.
        stored: The entries that it may store, or None if they are computed.
        hardware: What the hardware of each CPU manages.
        again: Whether a faulting instruction is tried again (the variant `handled`).
        user: The threads that run at EL0, their handlers apart.
    """

    first: Mapping[str, Entry]
    touched: frozenset[str]
    stored: frozenset[Entry] | None
    hardware: tuple[Hardware, ...]
    again: bool
    user: frozenset[int] = frozenset()

    def may(self, page: str, cpu: int, *, write: bool) -> set[bool]:
        """Return whether an access may fault (True) and may not (False)."""
        entries = {self.first[page]}
        if page in self.touched:
            if self.stored is None:
                return {True, False}
            entries |= self.stored
        if any(hardware is not Hardware.NONE for hardware in self.hardware):
            entries |= {entry._replace(young=True) for entry in entries if entry.valid}
        if Hardware.DIRTY in self.hardware:
            entries |= {
                entry._replace(writable=True)
                for entry in entries
                if entry.valid and entry.dbm
            }
        return {
            answer(entry, write=write, hardware=self.hardware[cpu]).fault is not None
            for entry in entries
        }

    def fixed_frame(self, page: str) -> str | None:
        """Return the frame of a page that always has the same one, else None."""
        return None if page in self.touched else self.first[page].frame


def paths(number: int, listing: Listing, initial: Initial, pages: Pages) -> list[Path]:
    """Return every way that a thread can go.

    Raises:
        MissingError: It has an instruction, or needs an effect, that is not had here.
    """
    walker = _Walker(number, listing, initial, pages)
    registers = {
        name: Held(word)
        for (thread, name), word in initial.registers.items()
        if thread == number
    }
    walker.todo.append(_State(registers))
    while walker.todo:
        walker.walk(walker.todo.pop())
        if len(walker.found) > MAX_PATHS:
            raise MissingError(f"P{number} can go more than {MAX_PATHS} ways")
    return walker.found


@dataclass(slots=True)
class _State:
    """A thread on its way."""

    registers: dict[str, Held]
    at: int = 0
    flags: Held = _NO_FLAGS
    handling: bool = False
    faulted: bool = False
    reserved: tuple[Data | Table, str] | None = None
    steps: list[Instruction] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    registers_at: dict[int, Mapping[str, Held]] = field(default_factory=dict)
    jumps: dict[int, int] = field(default_factory=dict)
    stores: list[tuple[Data | Table, frozenset[str]]] = field(default_factory=list)

    def copy(self) -> _State:
        return replace(
            self,
            registers=dict(self.registers),
            steps=list(self.steps),
            places=list(self.places),
            registers_at=dict(self.registers_at),
            jumps=dict(self.jumps),
            stores=list(self.stores),
        )


@dataclass(frozen=True, slots=True)
class _Access:
    """An access that is being executed.

    Attributes:
        name: The mnemonic.
        operands: All its operands; the last is the address.
        where: The address, with what it depends on.
        target: The place that it is on this way.
        faults: Whether it faults on this way, or None if a fault ends the thread.
    """

    name: str
    operands: tuple[str, ...]
    where: Held
    target: Data | Table
    faults: bool | None = None

    @property
    def depends(self) -> Depends:
        """What the address depends on."""
        return Depends(address=self.where.basic, picked_address=self.where.picked)


class _Walker:
    """Runs one thread in every way."""

    def __init__(
        self, number: int, listing: Listing, initial: Initial, pages: Pages
    ) -> None:
        self.number = number
        self.listing = listing
        self.pages = pages
        self.found: list[Path] = []
        self.todo: list[_State] = []
        self._targets: list[Data | Table] = [
            place for name in initial.locations for place in (Data(name), Table(name))
        ]

    def walk(self, state: _State) -> None:
        """Go on to the end of one way; other ways are left in `todo`."""
        lines, body = self.listing.lines, self.listing.body
        while state.at < len(lines) and (state.handling or state.at != body):
            if len(state.steps) > MAX_STEPS:
                raise MissingError(
                    f"P{self.number} can take more than {MAX_STEPS} steps"
                )
            line = lines[state.at]
            state.at += 1
            if not self._execute(state, line):
                return
        self._end(state)

    def _end(self, state: _State, missing: str = "") -> None:
        self.found.append(
            Path(
                tuple(state.steps),
                tuple(state.places),
                state.registers,
                state.registers_at,
                missing,
            )
        )

    def _step(self, state: _State, step: Instruction) -> None:
        state.steps.append(step)
        state.places.append(state.at - 1)

    # Instructions -----------------------------------------------------------

    def _execute(self, state: _State, line: Line) -> bool:
        """Execute one instruction; False if this way is over, or left out."""
        name, operands = line.name, line.operands
        at_el0 = self.number in self.pages.user and not state.handling
        if at_el0 and name in ("TLBI", "MSR", "MRS", "ERET"):
            raise MissingError(f"{name} at EL0", line.line)
        try:
            if name in ("B", "CBZ", "CBNZ", "TBZ", "TBNZ") or name.startswith("B."):
                return self._branch(state, name, operands)
            if name in ("CSEL", "CSINC", "CSINV", "CSNEG", "CSET", "CINC", "CSETM"):
                return self._select(state, name, operands)
            if name == "ERET":
                return self._return(state)
            if name in _LOADS or name in _STORES or _ATOMIC.fullmatch(name):
                return self._access(state, name, operands)
            self._simple(state, name, operands)
        except (ValueError, IndexError) as error:
            raise MissingError(
                f"the form {shown(line.text)} is not read here", line.line
            ) from error
        except MissingError as error:
            raise MissingError(f"{shown(line.text)}: {error}", line.line) from error
        return True

    def _simple(self, state: _State, name: str, operands: tuple[str, ...]) -> None:
        """Execute what neither jumps nor accesses memory."""
        match name, operands:
            case "NOP", ():
                pass
            case "ISB", () | ("SY",):
                self._step(state, Isb())
            case "DMB" | "DSB", (option,) if option.upper() in _OPTIONS:
                kind = Dmb if name == "DMB" else Dsb
                self._step(state, kind(*_OPTIONS[option.upper()]))
            case "TLBI", _:
                self._invalidate(state, operands)
            case "MOV", (to, source):
                self._set(state, to, self._operand(state, source))
            case "ADR" | "ADRP", (to, label) if name == "ADR":
                place = self._place(label)
                self._set(state, to, Held(Code(self.number, place)))
            case "MSR", (register, source) if register.upper() == "ELR_EL1":
                state.registers["ELR"] = self._operand(state, source)
            case "MRS", (to, register) if register.upper() == "ELR_EL1":
                self._set(state, to, state.registers.get("ELR", _NOTHING))
            case "CMP" | "TST", (left, right):
                self._compare(state, name, left, right)
            case (("ADD" | "SUB" | "SUBS" | "ADDS" | "LSL" | "LSR"), _) if len(
                operands
            ) in (3, 4):
                self._arithmetic(state, name, operands)
            case "AND" | "ORR" | "EOR" | "BIC" | "ANDS" | "BICS", (to, left, right):
                self._logic(state, name, to, left, right)
            case _:
                raise MissingError("an instruction that is not read here")

    def _operand(self, state: _State, text: str) -> Held:
        """Return what an operand, a register or a number, stands for."""
        number = immediate(text)
        if number is not None:
            return Held(number & values.MASK)
        name = register_name(text)
        if name == "XZR":
            return _NOTHING
        return state.registers.get(name, _NOTHING)

    def _set(self, state: _State, register: str, held: Held) -> None:
        name = register_name(register)
        if name == "XZR":
            return
        if register[0] in "wW":
            if held.known:
                held = replace(held, value=values.low_half(cast("Word", held.value)))
            else:
                held = apply(values.low_half, held)
        state.registers[name] = held

    def _place(self, label: str) -> int:
        if label not in self.listing.labels:
            raise MissingError(f"label {shown(label)}, which is nowhere")
        return self.listing.labels[label]

    def _arithmetic(self, state: _State, name: str, operands: tuple[str, ...]) -> None:
        to, left, right, *extended = operands
        if extended and not re.fullmatch(r"(?i)(sxtw|uxtw|lsl)(#0)?", extended[0]):
            raise MissingError(f"the operand {shown(extended[0])}")
        first, second = self._operand(state, left), self._operand(state, right)
        match name:
            case "ADD" | "ADDS":
                result = apply(values.add, first, second)
            case "SUB" | "SUBS" if left == right:
                result = Held(0, first.basic, first.picked)
            case "SUB" | "SUBS":
                result = apply(_subtract, first, second)
            case _:
                if not second.known or not isinstance(second.value, int):
                    raise MissingError("a shift by a register")
                by = second.value if name == "LSL" else -second.value
                result = apply(lambda word: values.shift(word, by), first)
        if name == "ADDS":
            raise MissingError("the flags of a sum")
        if name == "SUBS":
            state.flags = apply(_pair, first, second)
        self._set(state, to, result)

    def _logic(self, state: _State, name: str, to: str, left: str, right: str) -> None:
        plain = name.removesuffix("S")
        first, second = self._operand(state, left), self._operand(state, right)
        if plain in ("EOR", "BIC") and first is second:
            result = Held(0, first.basic, first.picked)
        elif plain == "AND" and 0 in (first.value, second.value):
            result = replace(apply(_pair, first, second), value=0)
        else:
            result = apply(
                lambda one, other: values.bitwise(plain, one, other), first, second
            )
        if name.endswith("S"):
            state.flags = apply(lambda word: (word, 0), result)
        self._set(state, to, result)

    def _compare(self, state: _State, name: str, left: str, right: str) -> None:
        first, second = self._operand(state, left), self._operand(state, right)
        if name == "CMP":
            state.flags = apply(_pair, first, second)
        else:
            both = apply(lambda a, b: values.bitwise("AND", a, b), first, second)
            state.flags = apply(lambda word: (word, 0), both)

    def _invalidate(self, state: _State, operands: tuple[str, ...]) -> None:
        kind = operands[0].upper() if operands else ""
        match = re.fullmatch(r"(VMALLE1|VAE1|VALE1|VAAE1|VAALE1)(IS|OS)?(NXS)?", kind)
        if match is None:
            raise MissingError("a TLBI that is not read here")
        broadcast = bool(match[2])
        if match[1] == "VMALLE1":
            self._step(state, Tlbi(None, broadcast))
            return
        held = self._operand(state, operands[1])
        on = Depends(address=held.basic, picked_address=held.picked)
        match held.value:
            case PageNumber(page):
                self._step(state, Tlbi(page, broadcast, on))
            case Table(page):
                self._step(state, Tlbi(values.page_of_table(page), broadcast, on))
            case _:
                raise MissingError("a TLBI of what is no page's number (LSR #12)")

    # The way ----------------------------------------------------------------

    def _fork(self, state: _State) -> _State:
        """Leave a second way to be gone later, and return it."""
        other = state.copy()
        self.todo.append(other)
        return other

    def _branch(self, state: _State, name: str, operands: tuple[str, ...]) -> bool:
        here = state.at - 1
        if name == "B":
            return self._jump(state, here, self._place(operands[0]), check=True)
        if name.startswith("B."):
            held = state.flags
            (label,) = operands
            test = _condition(name[2:])
        elif name in ("CBZ", "CBNZ"):
            held = self._operand(state, operands[0])
            label = operands[1]
            wanted = name == "CBZ"
            test = _zero if wanted else _not_zero
        else:
            held = self._operand(state, operands[0])
            bit, label = immediate(operands[1]) or 0, operands[2]
            held = apply(lambda word: values.bitwise("AND", word, 1 << bit), held)
            test = _zero if name == "TBZ" else _not_zero
        target = self._place(label)
        on = Depends(data=held.basic, picked_data=held.picked)
        if held.known:
            taken = test(held.value)
            self._step(state, Choice(_ALWAYS, depends=on))
            # A loop that counts ends by itself.
            check = bool(held.basic or held.picked)
            return not taken or self._jump(state, here, target, check=check)
        computed = cast("Computed", held.value)
        other = self._fork(state)
        self._step(other, Choice(_then(computed, test, wanted=True), depends=on))
        if not self._jump(other, here, target, check=True):
            self.todo.remove(other)
        self._step(state, Choice(_then(computed, test, wanted=False), depends=on))
        return True

    def _jump(self, state: _State, here: int, target: int, *, check: bool) -> bool:
        """Jump; False if it is one jump back too many."""
        if check and target <= here:
            state.jumps[target] = state.jumps.get(target, 0) + 1
            if state.jumps[target] > UNROLL:
                return False
        state.at = target
        return True

    def _select(self, state: _State, name: str, operands: tuple[str, ...]) -> bool:
        *registers, condition = operands
        test = _condition(condition)
        match name, registers:
            case "CSET" | "CSETM", (to,):
                yes: Callable[[Word], Word] = _one if name == "CSET" else _all_ones
                first = second = _NOTHING
                no: Callable[[Word], Word] = _itself
            case "CINC", (to, left):
                first = second = self._operand(state, left)
                yes, no = _increment, _itself
            case "CSEL" | "CSINC" | "CSINV" | "CSNEG", (to, left, right):
                first = self._operand(state, left)
                second = self._operand(state, right)
                yes, no = _itself, _SELECTED[name]
            case _:
                raise ValueError(name)
        flags = state.flags
        if flags.known:
            chosen = (first, yes) if test(flags.value) else (second, no)
            self._set(state, to, self._picked(flags, *chosen))
            return True
        computed = cast("Computed", flags.value)
        other = self._fork(state)
        for way, wanted, chosen in (
            (other, True, (first, yes)),
            (state, False, (second, no)),
        ):
            condition_holds = _then(computed, test, wanted=wanted)
            self._step(way, Choice(condition_holds, branch=False))
            self._set(way, to, self._picked(flags, *chosen))
        return True

    def _picked(
        self, flags: Held, held: Held, function: Callable[[Word], Word]
    ) -> Held:
        result = held if function is _itself else apply(function, held)
        return replace(result, picked=result.picked | flags.basic | flags.picked)

    def _return(self, state: _State) -> bool:
        target = state.registers.get("ELR", _NOTHING).value
        if not isinstance(target, Code) or target.thread != self.number:
            raise MissingError("a return to an address that is no instruction's")
        self._step(state, Isb())
        here = state.at - 1
        state.handling = False
        return self._jump(state, here, target.place, check=True)

    # Accesses ---------------------------------------------------------------

    def _access(self, state: _State, name: str, operands: tuple[str, ...]) -> bool:
        """Access memory: each place that the address may be, with and without fault."""
        base_text, added = address(operands[-1])
        base = self._operand(state, base_text)
        where = apply(values.add, base, self._operand(state, added)) if added else base
        if where.known:
            if not isinstance(where.value, Data | Table):
                raise MissingError("an access to an address that is no location's")
            return self._access_to(state, _Access(name, operands, where, where.value))
        computed = cast("Computed", where.value)
        candidates = self._targets
        if isinstance(base.value, Data | Table):
            candidates = [base.value]
        for target in candidates:
            other = state.copy()
            found = _then(computed, _is(target), wanted=True)
            self._step(other, Choice(found, branch=False))
            if self._access_to(other, _Access(name, operands, where, target)):
                self.todo.append(other)
        known = frozenset(candidates)
        lost = _then(computed, lambda word: word in known, wanted=False)
        self._step(state, Choice(lost, branch=False))
        self._end(state, f"{name}: an access to an address that is no location's")
        return False

    def _access_to(self, state: _State, access: _Access) -> bool:
        """Access one place; the state goes on without a fault, a copy with one."""
        target = access.target
        if isinstance(target, Table):
            if self.number in self.pages.user and not state.handling:
                raise MissingError("an access to an entry at EL0, which faults")
            return self._perform(state, access)
        write = access.name not in _LOADS
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

    def _fault(self, state: _State, access: _Access, target: Data) -> None:
        """Fault, and go on in the handler, or at the same instruction again."""
        on = access.depends
        if access.name in _LOADS:
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

    def _perform(self, state: _State, access: _Access) -> bool:
        """Do an access that does not fault, or whose fault ends the thread."""
        name = access.name
        if name in _STORES:
            return self._store(state, access)
        if name not in _LOADS:
            return self._atomic(state, access)
        (to, _) = access.operands
        register = f"r{len(state.steps)}"
        picked = self._through_memory(state, access.target)
        acquire, weak = _LOADS[name]
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
            state.reserved = access.target, register
        return True

    def _store(self, state: _State, access: _Access) -> bool:
        name, target = access.name, access.target
        exclusive = ""
        *status, source, _ = access.operands
        if name in ("STXR", "STLXR"):
            (result,) = status
            other = state.copy()
            self._set(other, result, Held(1))
            other.reserved = None
            self.todo.append(other)
            if state.reserved is None or state.reserved[0] != target:
                return False
            exclusive = state.reserved[1]
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

    def _atomic(self, state: _State, access: _Access) -> bool:
        match = _ATOMIC.fullmatch(access.name)
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

    def _compare_and_swap(self, state: _State, access: _Access, order: str) -> bool:
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
        self, state: _State, same: Held, to: str, got: Held, *, wanted: bool
    ) -> None:
        """Note that a CAS found what it expected, or not."""
        computed = cast("Computed", same.value)
        self._step(state, Choice(_then(computed, bool, wanted=wanted), branch=False))
        self._set(state, to, got)

    def _write(self, state: _State, access: _Access, value: Held) -> Depends:
        """Note a store, for loads that get its value; return its dependencies."""
        on = replace(access.depends, data=value.basic, picked_data=value.picked)
        picked = value.picked | on.picked_address
        state.stores.append((access.target, picked))
        return on

    def _through_memory(self, state: _State, target: Data | Table) -> frozenset[str]:
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


_LOADS = {
    "LDR": (False, False),
    "LDAR": (True, False),
    "LDAPR": (True, True),
    "LDXR": (False, False),
    "LDAXR": (True, False),
}
"""The loads, with whether they acquire, and whether as LDAPR."""

_STORES = ("STR", "STLR", "STXR", "STLXR")

_ATOMIC = re.compile(
    r"(?P<load>SWP|CAS|LD(?:ADD|SET|CLR|EOR))(?P<order>A?L?)"
    r"|ST(?P<store>ADD|SET|CLR|EOR)(?P<late>L?)"
)

_OPTIONS = {
    **{
        f"{domain.value}{accesses.value}".upper(): (accesses, domain)
        for domain in Domain
        if domain is not Domain.SYSTEM
        for accesses in Accesses
    },
    "SY": (Accesses.ALL, Domain.SYSTEM),
    "LD": (Accesses.LOADS, Domain.SYSTEM),
    "ST": (Accesses.STORES, Domain.SYSTEM),
}

_ALWAYS = Computed((), lambda: True)


def _then(
    computed: Computed, test: Callable[[object], object], *, wanted: bool
) -> Computed:
    """Return the condition that a test of a value gives what is wanted."""
    function = computed.function
    return Computed(
        computed.registers, lambda *words: bool(test(function(*words))) is wanted
    )


def _is(word: object) -> Callable[[object], bool]:
    return lambda other: word == other


def _condition(name: str) -> Callable[[object], bool]:
    name = name.upper()
    if name not in values.CONDITIONS:
        raise MissingError(f"condition {shown(name)}")
    return lambda pair: values.holds(name, cast("tuple[Word, Word]", pair))


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


def _pair(left: Word, right: Word) -> tuple[Word, Word]:
    return left, right


def _subtract(left: Word, right: Word) -> Word:
    return values.add(left, right, -1)


def _zero(word: object) -> bool:
    return word == 0


def _not_zero(word: object) -> bool:
    return word != 0


def _itself(word: Word) -> Word:
    return word


def _one(_word: Word) -> Word:
    return 1


def _all_ones(_word: Word) -> Word:
    return values.MASK


def _increment(word: Word) -> Word:
    return values.add(word, 1)


def _invert(word: Word) -> Word:
    return values.bitwise("EOR", word, values.MASK)


def _negate(word: Word) -> Word:
    return values.add(0, word, -1)


_SELECTED: dict[str, Callable[[Word], Word]] = {
    "CSEL": _itself,
    "CSINC": _increment,
    "CSINV": _invert,
    "CSNEG": _negate,
}

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
