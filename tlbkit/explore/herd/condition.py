"""What a herd7 test asks of the end of an execution."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from tlbkit.arm64.fault import FaultKind
from tlbkit.arm64.ordering import Data, Table
from tlbkit.explore.herd.state import register_name
from tlbkit.explore.herd.text import Piece, PlacedError, shown
from tlbkit.explore.herd.values import Code, MissingError, Word

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tlbkit.explore.herd.state import Initial

MAX_WORDS = 1000
"""The longest question, in words and signs."""

KINDS = {
    "Translation": FaultKind.TRANSLATION,
    "AccessFlag": FaultKind.ACCESS_FLAG,
    "Permission": FaultKind.PERMISSION,
}
"""The kinds of faults that a question can name, after ``MMU:`` or without it."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault that happened, or that a question speaks of.

    Attributes:
        thread: Whose it is.
        place: The instruction, or None for any.
        where: The page, the entry's address, or None for any.
        kind: The kind, or None for any.
    """

    thread: int
    place: Code | None = None
    where: Data | Table | None = None
    kind: FaultKind | None = None

    def matches(self, other: Fault) -> bool:
        """Tell whether a fault is one of those that this one speaks of."""
        return (
            self.thread == other.thread
            and self.place in (None, other.place)
            and self.where in (None, other.where)
            and self.kind in (None, other.kind)
        )


class End(Protocol):
    """How an execution ended, as far as that is known: None for what is not."""

    def register(self, thread: int, name: str) -> Word | None:
        """Return the last word of a register."""

    def location(self, place: Data | Table) -> Word | None:
        """Return the last word of a location or an entry."""

    def faulted(self, fault: Fault) -> bool | None:
        """Tell whether there was such a fault."""


@dataclass(frozen=True, slots=True)
class Equal:
    """Two things are equal; a thing is a register, a place or a word."""

    left: tuple[int, str] | Data | Table
    right: Word
    unequal: bool = False


@dataclass(frozen=True, slots=True)
class Not:
    """The proposition does not hold."""

    of: Proposition


@dataclass(frozen=True, slots=True)
class All:
    """All of them hold."""

    of: tuple[Proposition, ...]


@dataclass(frozen=True, slots=True)
class Any:
    """At least one holds."""

    of: tuple[Proposition, ...]


Proposition = Equal | Fault | Not | All | Any

TRUE = All(())


def holds(proposition: Proposition, end: End) -> bool | None:
    """Tell whether a proposition holds at an end; None if that is not known."""
    match proposition:
        case Not(of):
            inner = holds(of, end)
            return None if inner is None else not inner
        case All(of):
            return _all(holds(one, end) for one in of)
        case Any(of):
            inner = _all(_opposite(holds(one, end)) for one in of)
            return _opposite(inner)
        case Fault():
            return end.faulted(proposition)
        case Equal(left, right, unequal):
            word = (
                end.register(*left) if isinstance(left, tuple) else end.location(left)
            )
            return None if word is None else (word == right) is not unequal


def _opposite(value: object) -> bool | None:
    return None if value is None else not value


def _all(values: Iterable[bool | None]) -> bool | None:
    unknown = False
    for value in values:
        if value is False:
            return False
        unknown |= value is None
    return None if unknown else True


def atoms(proposition: Proposition) -> list[Equal | Fault]:
    """Return what a proposition is made of."""
    match proposition:
        case Not(of):
            return atoms(of)
        case All(of) | Any(of):
            return [atom for one in of for atom in atoms(one)]
        case Equal() | Fault():
            return [proposition]


@dataclass(frozen=True, slots=True)
class Question:
    """What a test asks.

    Attributes:
        quantifier: `exists`, `~exists` or `forall`.
        proposition: Of the end of one execution.
        filter: Only executions that end so count.
    """

    quantifier: str
    proposition: Proposition
    filter: Proposition = TRUE


_TOKEN = re.compile(
    r'\s*(?:(label:"[^"\n]*"|/\\|\\/|<>|!=|=>|[A-Za-z_][\w.]*|-?\d\w*|[()\[\],;=~:&{}])|(\S))'
)


def parse_question(piece: Piece, initial: Initial) -> Question:
    """Read all that follows the program of a test.

    Raises:
        PlacedError: It is not well formed.
    """
    parser = _Parser(piece, initial)
    return parser.question()


class _Parser:
    """A reader of one question, token by token."""

    def __init__(self, piece: Piece, initial: Initial) -> None:
        self._initial = initial
        self._tokens: list[Piece] = []
        for match in _TOKEN.finditer(piece.text):
            token = match[1] or match[2]
            start = match.start(1 if match[1] else 2)
            line = piece.line + piece.text.count("\n", 0, start)
            self._tokens.append(Piece(token, line))
            if len(self._tokens) > MAX_WORDS:
                raise PlacedError(line, f"a question of more than {MAX_WORDS} words")
        self._last = piece.line + piece.text.rstrip().count("\n")
        self._at = 0
        self._depth = 0

    # Tokens

    def _peek(self, ahead: int = 0) -> str:
        at = self._at + ahead
        return self._tokens[at].text if at < len(self._tokens) else ""

    def _line(self) -> int:
        return (
            self._tokens[self._at].line if self._at < len(self._tokens) else self._last
        )

    def _error(self, wanted: str) -> PlacedError:
        rest = " ".join(token.text for token in self._tokens[self._at : self._at + 20])
        here = shown(rest) if rest else "the end"
        return PlacedError(self._line(), f"question: at {here}: wanted {wanted}")

    def _take(self, *words: str) -> str:
        token = self._peek()
        if not token or (words and token not in words):
            raise self._error(" or ".join(words) or "more")
        self._at += 1
        return token

    # The grammar

    def question(self) -> Question:
        """Read locations, filter and the quantified proposition."""
        only: Proposition = TRUE
        while self._peek() in ("locations", "filter"):
            if self._take() == "filter":
                only = self._or()
            else:
                self._locations()
            if self._peek() == ";":
                self._take()
        if not self._peek():
            return Question("forall", TRUE, only)
        quantifier = self._take("exists", "forall", "~", "not")
        if quantifier in ("~", "not"):
            self._take("exists")
            quantifier = "~exists"
        asked = self._or()
        if self._peek() == ";":
            self._take()
        if self._peek():
            raise self._error("/\\, \\/ or the end")
        return Question(quantifier, asked, only)

    def _locations(self) -> None:
        """Pass over what a test only wants to be shown."""
        self._take("[")
        depth = 1
        while depth:
            word = self._take()
            depth += (word == "[") - (word == "]")

    def _or(self) -> Proposition:
        parts = [self._and()]
        while self._peek() == "\\/":
            self._take()
            parts.append(self._and())
        return parts[0] if len(parts) == 1 else Any(tuple(parts))

    def _and(self) -> Proposition:
        parts = [self._not()]
        while self._peek() == "/\\":
            self._take()
            parts.append(self._not())
        return parts[0] if len(parts) == 1 else All(tuple(parts))

    def _not(self) -> Proposition:
        self._depth += 1
        if self._depth > 100:
            raise self._error("fewer brackets inside each other")
        try:
            if self._peek() in ("~", "not"):
                self._take()
                return Not(self._not())
            if self._peek() == "(":
                self._take()
                inner = self._or()
                self._take(")")
                return inner
            if self._peek().lower() == "fault":
                return self._fault()
            if self._peek() in ("true", "false"):
                return TRUE if self._take() == "true" else Not(TRUE)
            return self._equal()
        finally:
            self._depth -= 1

    def _equal(self) -> Proposition:
        page = ""
        left: tuple[int, str] | Data | Table
        if self._peek(1) == ":":
            thread = self._thread()
            self._take(":")
            left = thread, register_name(self._take())
        else:
            bracket = self._peek() == "["
            if bracket:
                self._take()
            place = self._place()
            if not isinstance(place, Data | Table):
                raise self._error("a register, a location or an entry")
            left = place
            page = left.page if isinstance(left, Table) else ""
            if bracket:
                self._take("]")
        relation = self._take("=", "<>", "!=")
        return Equal(left, self._word(page), relation != "=")

    def _thread(self) -> int:
        match = re.fullmatch(r"P?(\d)", self._peek())
        if match is None:
            raise self._error("a thread, as 0 or P0")
        self._take()
        return int(match[1])

    def _place(self) -> Word:
        name = self._take()
        if name in ("PTE", "TTD") and self._peek() == "(":
            self._take("(")
            page = self._take()
            self._take(")")
            name = f"{name}({page})"
        elif not re.fullmatch(r"[A-Za-z_][\w.]*", name):
            self._at -= 1
            raise self._error("a register, a location, fault(...) or a bracket")
        known = len(self._initial.locations)
        word = self._initial.word(name)
        if len(self._initial.locations) > known:
            raise PlacedError(
                self._tokens[self._at - 1].line,
                f"question: {shown(name)} is in no thread and in no initial state",
            )
        return word

    def _word(self, page: str) -> Word:
        if self._peek() == "(":
            text, depth = "", 0
            while True:
                word = self._take()
                text += word
                depth += (word == "(") - (word == ")")
                if depth == 0:
                    return self._initial.entry(text, page)
        if self._peek() == "&":
            self._take()
        if re.fullmatch(r"-?\d\w*|label:.*", self._peek()):
            return self._initial.word(self._take())
        return self._place()

    def _fault(self) -> Fault:
        self._take()
        self._take("(")
        thread = self._thread()
        place: Code | None = None
        where: Data | Table | None = None
        kind: FaultKind | None = None
        if self._peek() == ":":
            self._take()
            label = self._take()
            if (thread, label) not in self._initial.labels:
                raise PlacedError(
                    self._line(), f"question: P{thread} has no label {shown(label)}"
                )
            place = self._initial.labels[thread, label]
        while self._peek() == ",":
            self._take()
            words = self._peek()
            if words in ("MMU", "D") or words in KINDS:
                while self._peek() not in (*KINDS, ")", ",", ""):
                    self._take()
                if self._peek() not in KINDS:
                    raise MissingError("a fault that is none of the MMU's")
                kind = KINDS[self._take()]
            else:
                found = self._place()
                if not isinstance(found, Data | Table):
                    raise self._error("a location")
                where = found
        self._take(")")
        return Fault(thread, place, where, kind)
