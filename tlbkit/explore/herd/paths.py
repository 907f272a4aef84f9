"""The ways that one thread of a test can go, each as a program of the ordering model.

A thread is run before anything is known of what it reads. Where its way depends on that
(a branch, CSEL, a CAS, a fault with a handler, an address that was read) it goes both
ways, and each way notes what must have been read on it. So a way is straight: it has no
branches left, and the model can run it.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from tlbkit.arm64.ordering import (
    Accesses,
    Choice,
    Computed,
    Depends,
    Dmb,
    Domain,
    Dsb,
    Isb,
    Table,
    Tlbi,
)
from tlbkit.explore.herd import values
from tlbkit.explore.herd.accesses import ATOMIC, LOADS, STORES, AccessRunner
from tlbkit.explore.herd.assembly import immediate
from tlbkit.explore.herd.text import shown
from tlbkit.explore.herd.values import (
    Code,
    Held,
    MissingError,
    PageNumber,
    Word,
    apply,
    then,
)
from tlbkit.explore.herd.ways import NOTHING, Pages, Path, State

if TYPE_CHECKING:
    from collections.abc import Callable

    from tlbkit.explore.herd.assembly import Line, Listing
    from tlbkit.explore.herd.state import Initial

UNROLL = 2
"""How often a jump back to one place is taken; ways that take it more often are left
out, as herd7 does by default."""

MAX_STEPS = 150
"""The longest way."""

MAX_PATHS = 400
"""The most ways of one thread."""


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
    walker.todo.append(State(registers))
    while walker.todo:
        walker.walk(walker.todo.pop())
        if len(walker.found) > MAX_PATHS:
            raise MissingError(f"P{number} can go more than {MAX_PATHS} ways")
    return walker.found


class _Walker(AccessRunner):
    """Runs one thread in every way."""

    def walk(self, state: State) -> None:
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

    # Instructions -----------------------------------------------------------

    def _execute(self, state: State, line: Line) -> bool:
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
            if name in LOADS or name in STORES or ATOMIC.fullmatch(name):
                return self.access(state, name, operands)
            self._simple(state, name, operands)
        except (ValueError, IndexError) as error:
            raise MissingError(
                f"the form {shown(line.text)} is not read here", line.line
            ) from error
        except MissingError as error:
            raise MissingError(f"{shown(line.text)}: {error}", line.line) from error
        return True

    def _simple(self, state: State, name: str, operands: tuple[str, ...]) -> None:
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
                self._set(state, to, state.registers.get("ELR", NOTHING))
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

    def _place(self, label: str) -> int:
        if label not in self.listing.labels:
            raise MissingError(f"label {shown(label)}, which is nowhere")
        return self.listing.labels[label]

    def _arithmetic(self, state: State, name: str, operands: tuple[str, ...]) -> None:
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

    def _logic(self, state: State, name: str, to: str, left: str, right: str) -> None:
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

    def _compare(self, state: State, name: str, left: str, right: str) -> None:
        first, second = self._operand(state, left), self._operand(state, right)
        if name == "CMP":
            state.flags = apply(_pair, first, second)
        else:
            both = apply(lambda a, b: values.bitwise("AND", a, b), first, second)
            state.flags = apply(lambda word: (word, 0), both)

    def _invalidate(self, state: State, operands: tuple[str, ...]) -> None:
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

    def _branch(self, state: State, name: str, operands: tuple[str, ...]) -> bool:
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
        self._step(other, Choice(then(computed, test, wanted=True), depends=on))
        if not self._jump(other, here, target, check=True):
            self.todo.remove(other)
        self._step(state, Choice(then(computed, test, wanted=False), depends=on))
        return True

    def _jump(self, state: State, here: int, target: int, *, check: bool) -> bool:
        """Jump; False if it is one jump back too many."""
        if check and target <= here:
            state.jumps[target] = state.jumps.get(target, 0) + 1
            if state.jumps[target] > UNROLL:
                return False
        state.at = target
        return True

    def _select(self, state: State, name: str, operands: tuple[str, ...]) -> bool:
        *registers, condition = operands
        test = _condition(condition)
        match name, registers:
            case "CSET" | "CSETM", (to,):
                yes: Callable[[Word], Word] = _one if name == "CSET" else _all_ones
                first = second = NOTHING
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
            condition_holds = then(computed, test, wanted=wanted)
            self._step(way, Choice(condition_holds, branch=False))
            self._set(way, to, self._picked(flags, *chosen))
        return True

    def _picked(
        self, flags: Held, held: Held, function: Callable[[Word], Word]
    ) -> Held:
        result = held if function is _itself else apply(function, held)
        return replace(result, picked=result.picked | flags.basic | flags.picked)

    def _return(self, state: State) -> bool:
        target = state.registers.get("ELR", NOTHING).value
        if not isinstance(target, Code) or target.thread != self.number:
            raise MissingError("a return to an address that is no instruction's")
        self._step(state, Isb())
        here = state.at - 1
        state.handling = False
        return self._jump(state, here, target.place, check=True)


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


def _condition(name: str) -> Callable[[object], bool]:
    name = name.upper()
    if name not in values.CONDITIONS:
        raise MissingError(f"condition {shown(name)}")
    return lambda pair: values.holds(name, cast("tuple[Word, Word]", pair))


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
