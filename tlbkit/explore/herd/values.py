"""What registers hold: numbers, entries, addresses, and what is only known in the run.

An entry is also a word of 64 bits, of which instructions set, clear and test some.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from tlbkit.arm64 import descriptor as d
from tlbkit.arm64.ordering import Computed, Data, Entry, Table
from tlbkit.errors import TlbkitError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tlbkit.arm64.ordering import Value

MASK = (1 << 64) - 1


class MissingError(TlbkitError):
    """A test needs something that this reader or the model does not have.

    Attributes:
        line: The number of the line that needs it, or 0 if it is no line's.
    """

    def __init__(self, message: str, line: int = 0) -> None:
        super().__init__(message)
        self.line = line


class Code(NamedTuple):
    """The address of an instruction: its thread, and its place in it.

    A handler of faults has the places after those of its thread.
    """

    thread: int
    place: int


class PageNumber(NamedTuple):
    """The address of a page shifted right by 12, as a TLBI takes it."""

    page: str


def page_of_table(page: str) -> str:
    """Return the name of the page in which the entry of a page stands.

    No access goes by way of a translation of it, so that a TLBI of it does nothing.
    """
    return f"PTE({page})"


Word = int | Entry | Data | Table | Code | PageNumber
"""What a register can hold."""


@dataclass(frozen=True, slots=True)
class Held:
    """What a register holds, and what that depends on.

    Attributes:
        value: The word, or how it is made of what the thread has read.
        basic: The reads that it is computed from.
        picked: The reads that picked it from several values.
    """

    value: Word | Computed | tuple[Word, Word]
    basic: frozenset[str] = frozenset()
    picked: frozenset[str] = frozenset()

    @property
    def known(self) -> bool:
        """Tell whether the word is known before the program runs."""
        return not isinstance(self.value, Computed)


def read_into(register: str) -> Held:
    """Return what a register holds after a read."""
    return Held(Computed((register,), _same), frozenset([register]))


def _same(word: Value) -> Value:
    return word


def apply(function: Callable[..., object], *operands: Held) -> Held:
    """Return what an operation on registers gives."""
    basic = frozenset[str]().union(*(operand.basic for operand in operands))
    picked = frozenset[str]().union(*(operand.picked for operand in operands))
    if all(operand.known for operand in operands):
        value = function(*(operand.value for operand in operands))
        return Held(value, basic, picked)  # type: ignore[arg-type]
    registers: list[str] = []
    makers: list[Callable[[tuple[object, ...]], object]] = []
    for operand in operands:
        if isinstance(operand.value, Computed):
            start, stop = len(registers), len(registers) + len(operand.value.registers)
            registers += operand.value.registers
            makers.append(_part(operand.value.function, start, stop))
        else:
            makers.append(_constant(operand.value))

    def made(*words: object) -> object:
        return function(*(maker(words) for maker in makers))

    return Held(Computed(tuple(registers), made), basic, picked)  # type: ignore[arg-type]


def _part(
    function: Callable[..., object], start: int, stop: int
) -> Callable[[tuple[object, ...]], object]:
    return lambda words: function(*words[start:stop])


def _constant(value: object) -> Callable[[tuple[object, ...]], object]:
    return lambda _words: value


# The bits of an entry -------------------------------------------------------

_KNOWN_BITS = d.VALID | d.AF | d.AP_READ_ONLY | d.DBM


def bits_of(entry: Entry) -> int:
    """Return the bits of an entry that a test can name, without the address."""
    return (
        d.VALID * entry.valid
        | d.AF * entry.young
        | d.AP_READ_ONLY * (not entry.writable)
        | d.DBM * entry.dbm
    )


def _with_bits(entry: Entry, bits: int) -> Entry:
    return entry._replace(
        valid=bool(bits & d.VALID),
        young=bool(bits & d.AF),
        writable=not bits & d.AP_READ_ONLY,
        dbm=bool(bits & d.DBM),
    )


def _only_changes_known(touched: int) -> None:
    """Refuse to change bits of an entry that entries do not have here."""
    if touched & ~_KNOWN_BITS & MASK:
        raise MissingError(
            f"bits {touched & ~_KNOWN_BITS & MASK:#x} of an entry are changed; "
            "V, AP[2], AF and DBM are the bits that entries have here"
        )


def bitwise(name: str, left: Word, right: Word) -> Word:
    """Return AND, ORR, EOR or BIC of two words, of which one may be an entry."""
    if isinstance(left, Entry) or isinstance(right, Entry):
        return _bitwise_on_entry(name, left, right)
    if name == "EOR" and left == right:
        return 0
    if isinstance(left, int) and isinstance(right, int):
        match name:
            case "AND":
                return left & right
            case "ORR":
                return left | right
            case "EOR":
                return left ^ right
            case _:
                return left & ~right & MASK
    if name == "AND" and 0 in (left, right):
        return 0
    if name in ("ORR", "EOR", "BIC") and right == 0:
        return left
    if name == "BIC" and left == right:
        return 0
    raise MissingError(f"{name} of an address and a number other than 0")


def _bitwise_on_entry(name: str, left: Word, right: Word) -> Word:
    if isinstance(left, Entry) and isinstance(right, Entry):
        if name in ("EOR", "BIC") and left == right:
            return 0
        if name in ("AND", "ORR") and left == right:
            return left
        raise MissingError(f"{name} of two different entries")
    entry, mask = (left, right) if isinstance(left, Entry) else (right, left)
    if not isinstance(entry, Entry) or not isinstance(mask, int):
        raise MissingError(f"{name} of an entry and an address")
    if name == "BIC" and entry is not left:
        return mask & ~bits_of(entry) & _only_known(mask)
    match name:
        case "AND" if not mask & ~_KNOWN_BITS:
            return bits_of(entry) & mask
        case "AND":
            _only_changes_known(MASK ^ mask)
            return _with_bits(entry, bits_of(entry) & mask)
        case "ORR":
            _only_changes_known(mask)
            return _with_bits(entry, bits_of(entry) | mask)
        case "EOR":
            _only_changes_known(mask)
            return _with_bits(entry, bits_of(entry) ^ mask)
        case _:
            _only_changes_known(mask)
            return _with_bits(entry, bits_of(entry) & ~mask)


def _only_known(mask: int) -> int:
    if mask & ~_KNOWN_BITS:
        raise MissingError("bits of an entry's address are tested")
    return mask


def add(left: Word, right: Word, sign: int = 1) -> Word:
    """Return the sum, or with `sign` -1 the difference, of two words."""
    if isinstance(left, int) and isinstance(right, int):
        return (left + sign * right) & MASK
    if right == 0:
        return left
    if left == 0 and sign == 1:
        return right
    if isinstance(left, Code) and isinstance(right, int) and right % 4 == 0:
        return left._replace(place=left.place + sign * right // 4)
    if sign == -1 and left == right:
        return 0
    if isinstance(left, Data | Table):
        raise MissingError("an address inside a word or beside it")
    raise MissingError("a sum of an entry or an address and a number other than 0")


def shift(word: Word, by: int) -> Word:
    """Return a word shifted, to the left if `by` is positive."""
    if isinstance(word, int):
        return (word << by) & MASK if by >= 0 else word >> -by
    if by == 0:
        return word
    if by == -12 and isinstance(word, Data):
        return PageNumber(word.page)
    if by == -12 and isinstance(word, Table):
        return PageNumber(page_of_table(word.page))
    raise MissingError(
        "a shift of an address or entry other than LSR #12 of an address"
    )


def low_half(word: Word) -> Word:
    """Return what of a word fits into a W register."""
    return word & 0xFFFF_FFFF if isinstance(word, int) else word


CONDITIONS = (
    *("EQ", "NE", "CS", "HS", "CC", "LO", "MI", "PL"),
    *("HI", "LS", "GE", "LT", "GT", "LE", "AL"),
)
"""The conditions of B.cond and CSEL that are read; V is taken for clear."""


def holds(condition: str, pair: tuple[Word, Word]) -> bool:
    """Tell whether a condition holds after the comparison of two words."""
    left, right = pair
    match condition:
        case "AL":
            return True
        case "EQ":
            return left == right
        case "NE":
            return left != right
    if not isinstance(left, int) or not isinstance(right, int):
        raise MissingError(f"condition {condition} on an address or an entry")
    signed_left, signed_right = _signed(left), _signed(right)
    match condition:
        case "CS" | "HS":
            return left >= right
        case "CC" | "LO":
            return left < right
        case "HI":
            return left > right
        case "LS":
            return left <= right
        case "GE":
            return signed_left >= signed_right
        case "LT":
            return signed_left < signed_right
        case "GT":
            return signed_left > signed_right
        case "LE":
            return signed_left <= signed_right
        case "MI":
            return _signed((left - right) & MASK) < 0
        case _:
            return _signed((left - right) & MASK) >= 0


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word


def then(
    computed: Computed, test: Callable[[object], object], *, wanted: bool
) -> Computed:
    """Return the condition that a test of a value gives what is wanted."""
    function = computed.function
    return Computed(
        computed.registers, lambda *words: bool(test(function(*words))) is wanted
    )
