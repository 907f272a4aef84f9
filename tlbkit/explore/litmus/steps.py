"""The steps of a litmus test, read and written."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tlbkit.arm64.ordering import (
    INVALID,
    Accesses,
    Atomic,
    Branch,
    Choice,
    CompareAndSwap,
    Data,
    Dmb,
    Domain,
    Dsb,
    Entry,
    Isb,
    Load,
    Store,
    Swap,
    Table,
    Tlbi,
)
from tlbkit.errors import InputError
from tlbkit.explore.litmus.conditions import value_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tlbkit.arm64.ordering import Instruction

NAME = r"[A-Za-z_][A-Za-z0-9_]*"
"""The pattern of a page's, frame's, entry's or register's name."""

NUMBER = r"[0-9]{1,18}"
"""The pattern of a data word's value."""

_PARTS = {
    "BARRIER": r"(?P<barrier>DMB|DSB)(?:[ .](?P<option>[A-Za-z]+))?",
    "INTO": rf"(?:(?P<register>{NAME})\s*:=)?",
    "REGISTER": rf"(?P<register>{NAME})",
    "PAGE": rf"(?P<page>{NAME})",
    "TABLE": rf"pte\(\s*(?P<table>{NAME})\s*\)",
    "TARGET": rf"(?:pte\(\s*(?P<table>{NAME})\s*\)|(?P<page>{NAME}))",
    "NUMBER": rf"(?P<value>{NUMBER})",
    "VALUE": rf"(?P<value>{NAME}|{NUMBER})",
    "EXPECTED": rf"(?P<expected>{NAME})",
    "LD": r"LD\b",
}
"""What the words in capitals in `_FORMS` stand for; any other word is itself."""


def _pattern(form: str) -> re.Pattern[str]:
    words = [_PARTS.get(word, re.escape(word)) for word in form.split()]
    return re.compile(r"\s*".join(words))


class _Step:
    """A step that is of some form, and what its parts say."""

    def __init__(
        self, match: re.Match[str], entries: Mapping[str, Entry], text: str
    ) -> None:
        self._words = {key: word or "" for key, word in match.groupdict().items()}
        self._entries = entries
        self._text = text

    def __getitem__(self, part: str) -> str:
        """Return a part as it is written, or ""."""
        return self._words.get(part, "")

    def error(self, what: str) -> InputError:
        return InputError(f"step {self._text!r}: {what}")

    def target(self) -> Data | Table:
        return Table(self["table"]) if self["table"] else Data(self["page"])

    def page(self) -> str | None:
        return None if self["page"] == "all" else self["page"]

    def entry(self, part: str = "value") -> Entry:
        name = self[part]
        if name == "invalid":
            return INVALID
        if name not in self._entries:
            known = ", ".join(["invalid", *self._entries])
            raise self.error(f"{name!r} is no entry; these are: {known}")
        return self._entries[name]

    def value(self) -> int | Entry:
        if self["table"]:
            return self.entry()
        if not re.fullmatch(NUMBER, self["value"]):
            raise self.error("what is stored to a page is a number")
        return int(self["value"])

    def barrier(self) -> Dmb | Dsb:
        barrier = Dmb if self["barrier"] == "DMB" else Dsb
        option = self["option"].lower()
        if option not in _OPTIONS:
            raise self.error(
                f"{option!r} is none of {', '.join(filter(None, _OPTIONS))}"
            )
        return barrier(*_OPTIONS[option])


_OPTIONS = {
    **{accesses.value: (accesses, Domain.INNER) for accesses in Accesses},
    **{
        domain.value + accesses.value: (accesses, domain)
        for domain in Domain
        for accesses in Accesses
    },
}
"""The options of a barrier; none is `ish`, and `ld` and `st` alone are of `ish`."""

_FORMS: list[tuple[re.Pattern[str], Callable[[_Step], Instruction]]] = [
    (_pattern(form), build)
    for form, build in (
        ("BARRIER", _Step.barrier),
        ("ISB", lambda _: Isb()),
        ("TLBI.is ( PAGE )", lambda s: Tlbi(s.page())),
        ("TLBI.local ( PAGE )", lambda s: Tlbi(s.page(), broadcast=False)),
        ("BRANCH ( REGISTER )", lambda s: Branch(s["register"])),
        (
            "INTO SWAP ( TABLE , VALUE )",
            lambda s: Swap(s.target(), s.entry(), s["register"]),
        ),
        (
            "INTO CAS ( TABLE , EXPECTED , VALUE )",
            lambda s: CompareAndSwap(
                s.target(), s.entry("expected"), s.entry(), s["register"]
            ),
        ),
        (
            "INTO LDAR ( TARGET )",
            lambda s: Load(s.target(), s["register"], acquire=True),
        ),
        (
            "STLR ( TARGET ) := VALUE",
            lambda s: Store(s.target(), s.value(), release=True),
        ),
        ("LD TARGET", lambda s: Load(s.target())),
        ("TARGET := NUMBER", lambda s: Store(s.target(), s.value())),
        ("TABLE := VALUE", lambda s: Store(s.target(), s.value())),
        ("REGISTER := TARGET", lambda s: Load(s.target(), s["register"])),
    )
]

_EXAMPLES = (
    "pte(x) := A, r := pte(x), r := x, LD x, x := 1, r := LDAR(x), STLR(x) := 1, "
    "r := SWAP(pte(x), A), r := CAS(pte(x), A, B), DSB.ishst, DMB.ld, ISB, "
    "TLBI.is(x), TLBI.local(all), BRANCH(r)"
)


def parse_step(text: str, entries: Mapping[str, Entry]) -> Instruction:
    """Read one step; `entries` are the entries that it may name.

    >>> parse_step("TLBI.local(all)", {})
    Tlbi(page=None, broadcast=False)

    Raises:
        InputError: The text is no step, or names an entry that is not there.
    """
    text = text.strip()
    for pattern, build in _FORMS:
        if match := pattern.fullmatch(text):
            return build(_Step(match, entries, text))
    raise InputError(f"step {text!r} is of none of these forms: {_EXAMPLES}")


def step_text(step: Instruction, names: Mapping[Entry, str]) -> str:
    """Write a step as a litmus file does; `names` are the test's entries."""

    def into(register: str) -> str:
        return f"{register} := " if register else ""

    def word(target: Data | Table) -> str:
        return target.page if isinstance(target, Data) else f"pte({target.page})"

    match step:
        case Load(target, register, acquire):
            if acquire:
                return f"{into(register)}LDAR({word(target)})"
            return (
                f"{into(register)}{word(target)}" if register else f"LD {word(target)}"
            )
        case Store(target, int() | Entry() as value, release):
            place = f"STLR({word(target)})" if release else word(target)
            return f"{place} := {value_text(value, names)}"
        case Swap(target, value, register):
            new = value_text(value, names)
            return f"{into(register)}SWAP({word(target)}, {new})"
        case CompareAndSwap(target, expected, value, register):
            old, new = value_text(expected, names), value_text(value, names)
            return f"{into(register)}CAS({word(target)}, {old}, {new})"
        case Dmb(accesses, domain):
            return f"DMB{_option(accesses, domain)}"
        case Dsb(accesses, domain):
            return f"DSB{_option(accesses, domain)}"
        case Isb():
            return "ISB"
        case Tlbi(page, broadcast):
            return f"TLBI.{'is' if broadcast else 'local'}({page or 'all'})"
        case Branch(register):
            return f"BRANCH({register})"
        case Atomic() | Choice() | Store():
            raise InputError(f"{step}: a step that the text form does not have")


def _option(accesses: Accesses, domain: Domain) -> str:
    if domain is Domain.INNER:
        return f".{accesses.value}" if accesses.value else ""
    return f".{domain.value}{accesses.value}"
