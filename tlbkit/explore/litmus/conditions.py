"""What a litmus test asks of the end of an execution."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tlbkit.arm64.fault import FaultKind
from tlbkit.arm64.ordering import INVALID, Entry, Outcome
from tlbkit.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

FAULTS = {
    kind.value: kind
    for kind in (FaultKind.TRANSLATION, FaultKind.ACCESS_FLAG, FaultKind.PERMISSION)
}
"""The fault kinds that a condition can name."""


@dataclass(frozen=True, slots=True)
class Register:
    """A thread's register, as in `P1.r`."""

    thread: int
    name: str


@dataclass(frozen=True, slots=True)
class Frame:
    """The last value of a frame, as in `frame(b)`."""

    name: str


@dataclass(frozen=True, slots=True)
class TableWord:
    """The last table word of a page, as in `pte(x)`."""

    page: str


@dataclass(frozen=True, slots=True)
class Equal:
    """The place holds the value."""

    place: Register | Frame | TableWord
    value: int | Entry


@dataclass(frozen=True, slots=True)
class Faulted:
    """The thread faulted; `kind` and `page`, where given, say how and where."""

    thread: int
    kind: FaultKind | None = None
    page: str | None = None


@dataclass(frozen=True, slots=True)
class Not:
    """The condition does not hold."""

    of: Condition


@dataclass(frozen=True, slots=True)
class And:
    """Both hold."""

    left: Condition
    right: Condition


@dataclass(frozen=True, slots=True)
class Or:
    """At least one holds."""

    left: Condition
    right: Condition


Condition = Equal | Faulted | Not | And | Or


def holds(condition: Condition, outcome: Outcome) -> bool:
    """Tell whether an execution that ended so is one the test asks about."""
    match condition:
        case Not(of):
            return not holds(of, outcome)
        case And(left, right):
            return holds(left, outcome) and holds(right, outcome)
        case Or(left, right):
            return holds(left, outcome) or holds(right, outcome)
        case Equal(place, value):
            return _holds_value(place, value, outcome)
        case Faulted(thread, kind, page):
            fault = outcome.faults[thread]
            return fault is not None and (
                kind in (None, fault[0]) and page in (None, fault[1])
            )


def _holds_value(
    place: Register | Frame | TableWord, value: int | Entry, outcome: Outcome
) -> bool:
    match place:
        case Register(thread, name):
            return (thread, name, value) in outcome.registers
        case Frame(name):
            return (name, value) in outcome.frames
        case TableWord(page):
            return (page, value) in outcome.tables


def atoms(condition: Condition) -> list[Equal | Faulted]:
    """Return what a condition is made of."""
    match condition:
        case Not(of):
            return atoms(of)
        case And(left, right) | Or(left, right):
            return atoms(left) + atoms(right)
        case Equal() | Faulted():
            return [condition]


def condition_text(condition: Condition, names: Mapping[Entry, str]) -> str:
    """Write a condition as a litmus file does; `names` are the test's entries."""
    match condition:
        case Not(Equal(place, value)):
            return f"{_place_text(place)} != {value_text(value, names)}"
        case Not(of):
            return f"not {_inner(of, names)}"
        case And(left, right):
            # `and` groups to the left, so only the right side can need brackets more.
            first = (
                condition_text(left, names)
                if isinstance(left, And)
                else _inner(left, names)
            )
            return f"{first} and {_inner(right, names)}"
        case Or(left, right):
            last = (
                f"({condition_text(right, names)})"
                if isinstance(right, Or)
                else condition_text(right, names)
            )
            return f"{condition_text(left, names)} or {last}"
        case Equal(place, value):
            return f"{_place_text(place)} = {value_text(value, names)}"
        case Faulted(thread, kind, page):
            words = [f"P{thread}"]
            words += [kind.value] if kind else []
            words += [page] if page else []
            return f"fault({', '.join(words)})"


def value_text(value: int | Entry, names: Mapping[Entry, str]) -> str:
    """Write a value as a litmus file does: a number or the name of an entry."""
    if isinstance(value, int):
        return str(value)
    return names.get(value, "invalid")


def _inner(condition: Condition, names: Mapping[Entry, str]) -> str:
    text = condition_text(condition, names)
    return f"({text})" if isinstance(condition, And | Or) else text


def _place_text(place: Register | Frame | TableWord) -> str:
    match place:
        case Register(thread, name):
            return f"P{thread}.{name}"
        case Frame(name):
            return f"frame({name})"
        case TableWord(page):
            return f"pte({page})"


MAX_WORDS = 200
"""The longest condition, in words and signs."""

_TOKEN = re.compile(r"\s*(?:(\w+|!=|[-()=.,])|(\S))")


def parse_condition(text: str, entries: Mapping[str, Entry]) -> Condition:
    """Read a condition; `entries` are the entries that it may name.

    Raises:
        InputError: The text is no condition; the message shows where it goes wrong.
    """
    parser = _Parser(text, entries)
    if len(parser.tokens) > MAX_WORDS:
        raise InputError(
            f"condition: more than {MAX_WORDS} words; ask less in one test"
        )
    return parser.whole()


class _Parser:
    """A reader of one condition, token by token."""

    def __init__(self, text: str, entries: Mapping[str, Entry]) -> None:
        self._text = text
        self._entries = entries
        found = [match.groups() for match in _TOKEN.finditer(text)]
        self.tokens = [good or bad for good, bad in found]
        self._at = 0

    def whole(self) -> Condition:
        condition = self._or()
        if self._at < len(self.tokens):
            raise self._error("and, or, or the end")
        return condition

    def _error(self, wanted: str) -> InputError:
        here = " ".join(self.tokens[self._at :]) or "the end"
        return InputError(f"condition {self._text!r}: at {here!r}: wanted {wanted}")

    def _peek(self) -> str:
        return self.tokens[self._at] if self._at < len(self.tokens) else ""

    def _take(self, *words: str, wanted: str = "") -> str:
        token = self._peek()
        if not token or (words and token not in words):
            raise self._error(wanted or " or ".join(words))
        self._at += 1
        return token

    def _or(self) -> Condition:
        condition = self._and()
        while self._peek() == "or":
            self._take()
            condition = Or(condition, self._and())
        return condition

    def _and(self) -> Condition:
        condition = self._not()
        while self._peek() == "and":
            self._take()
            condition = And(condition, self._not())
        return condition

    def _not(self) -> Condition:
        if self._peek() == "not":
            self._take()
            return Not(self._not())
        if self._peek() == "(":
            self._take()
            condition = self._or()
            self._take(")")
            return condition
        if self._peek() == "fault":
            return self._fault()
        place = self._place()
        relation = self._take("=", "!=")
        equal = Equal(place, self._value(place))
        return Not(equal) if relation == "!=" else equal

    def _place(self) -> Register | Frame | TableWord:
        if self._peek() in ("frame", "pte"):
            kind = self._take()
            self._take("(")
            name = self._name("a name")
            self._take(")")
            return Frame(name) if kind == "frame" else TableWord(name)
        thread = self._thread()
        self._take(".")
        return Register(thread, self._name("a register"))

    def _thread(self) -> int:
        match = re.fullmatch(r"P(\d)", self._peek())
        if match is None:
            raise self._error("P0.r, frame(f), pte(x), fault(P0), not or a bracket")
        self._take()
        return int(match[1])

    def _name(self, wanted: str) -> str:
        if not self._peek().isidentifier():
            raise self._error(wanted)
        return self._take()

    def _value(self, place: Register | Frame | TableWord) -> int | Entry:
        word = self._peek()
        entry = word == "invalid" or word in self._entries
        if entry and not isinstance(place, Frame):
            return self._entries.get(self._take(), INVALID)
        if re.fullmatch(r"[0-9]{1,18}", word) and not isinstance(place, TableWord):
            return int(self._take())
        wanted = [] if isinstance(place, TableWord) else ["a number"]
        if not isinstance(place, Frame):
            wanted += ["invalid", *self._entries]
        raise self._error(" or ".join(wanted))

    def _fault(self) -> Faulted:
        self._take("fault")
        self._take("(")
        thread = self._thread()
        kind: FaultKind | None = None
        page: str | None = None
        while self._peek() == ",":
            self._take()
            if kind is None and page is None and self._peek() in FAULTS:
                kind = FAULTS[self._take()]
            elif page is None:
                page = self._name(f"{', '.join(FAULTS)} or a page")
            else:
                raise self._error(")")
        self._take(")")
        return Faulted(thread, kind, page)
