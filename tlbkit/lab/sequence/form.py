"""A flush sequence as it is written: tables by name, and Arm's assembly for each CPU.

::

    cpu apple-16k
    page x = a rw
    CPU 0:
        ldr  x0, =pte(x)        // where the entry of x is
        str  xzr, [x0]
        dsb  ishst
        ldr  x1, =x             // the address itself
        lsr  x1, x1, #12
        tlbi vaae1is, x1
        dsb  ish
    CPU 1:
        ldr  x0, =x
        str  x1, [x0]

The lines above the first ``CPU n:`` describe the machine:

- ``cpu MODEL[,PROPERTY]``: as `tlbkit.arm64.models.find_model` reads it; ``cpus N``.
- ``page NAME = FRAME RIGHTS [x N]``: a page that maps a frame, or N pages in a row that
  map N frames. RIGHTS are r, rw, rx, rwx or none; ``block`` instead of ``page`` is a
  block of the level above.

What an instruction may be stands in `INSTRUCTIONS`. ``ldr xN, =EXPRESSION`` loads a
constant: a number, the name of a page (its address), ``pte(x)`` (where its entry is,
as the kernel maps it), ``desc(FRAME, RIGHTS)`` (a descriptor; ``block(...)`` one of the
level above), ``va(x)`` and ``range(x, PAGES)`` (operands of TLBI as they should be),
and sums of these. ``.free FRAME`` is no instruction: it says that the frame now belongs
to another process. Comments begin with ``//``, or with ``#`` at the start of a line,
and ``;`` parts instructions.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tlbkit.arm64.cpu import BARRIERS
from tlbkit.arm64.machine import MAX_CPUS
from tlbkit.arm64.models import DEFAULT_MODEL, CpuModel, find_model
from tlbkit.arm64.tlbi import OPERATIONS, By
from tlbkit.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tlbkit.arm64.tlbi import Operation

RIGHTS: Final = ("none", "r", "rw", "rx", "rwx")
MOST_INSTRUCTIONS: Final = 48
"""Of all CPUs together; a search goes over all their orders."""
MOST_PAGES: Final = 512

_REGISTER: Final = r"(?:[xX](?:[12]?[0-9]|30)|[xX][zZ][rR])"
_NAME: Final = r"[A-Za-z_][A-Za-z0-9_]*"
_NUMBER: Final = r"-?(?:0[xX][0-9a-fA-F]+|[0-9]+)"
_PLACE: Final = rf"\[\s*({_REGISTER})(?:\s*,\s*#?({_NUMBER}))?\s*\]"
_SECOND: Final = rf"({_REGISTER}|#?{_NUMBER})"
_ALU: Final = ("add", "sub", "and", "orr", "eor", "bic", "lsl", "lsr")

INSTRUCTIONS: Final = {
    "ldr xN, =EXPRESSION": rf"(?P<op>ldr)\s+({_REGISTER})\s*,\s*=(.+)",
    "ldr xN, [xM, #n]": rf"(?P<op>ldr)\s+({_REGISTER})\s*,\s*{_PLACE}",
    "str xN, [xM, #n]": rf"(?P<op>str|stlr)\s+({_REGISTER})\s*,\s*{_PLACE}",
    "swp xS, xT, [xM]": rf"(?P<op>swpa?l?)\s+({_REGISTER})\s*,\s*({_REGISTER})\s*,"
    rf"\s*{_PLACE}",
    "mov xN, xM or #n": rf"(?P<op>mov)\s+({_REGISTER})\s*,\s*{_SECOND}",
    f"{', '.join(_ALU)} xN, xM, xK or #n": rf"(?P<op>{'|'.join(_ALU)})\s+({_REGISTER})"
    rf"\s*,\s*({_REGISTER})\s*,\s*{_SECOND}",
    "dsb KIND": r"(?P<op>dsb)\s+([a-zA-Z]+)",
    "dmb KIND": r"(?P<op>dmb)\s+([a-zA-Z]+)",
    "isb": r"(?P<op>isb)(?:\s+(?i:sy))?",
    "nop": r"(?P<op>nop)",
    "tlbi OPERATION[, xN]": rf"(?P<op>tlbi)\s+([a-zA-Z0-9]+)(?:\s*,\s*({_REGISTER}))?",
    ".free FRAME": rf"(?P<op>\.free)\s+({_NAME})",
}
"""What an instruction may be, and how it is read."""

_FORMS: Final = [re.compile(form, re.IGNORECASE) for form in INSTRUCTIONS.values()]
_PAGE: Final = re.compile(
    rf"(page|block)\s+({_NAME})\s*=\s*({_NAME})\s+(\w+)(?:\s+x\s*([0-9]{{1,3}}))?"
)
_CPU: Final = re.compile(r"(?:CPU\s*|P)([0-9]{1,3})\s*:(.*)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Page:
    """Pages or blocks that lie side by side.

    Attributes:
        name: Of the first.
        frame: The name of its frame; the others follow it.
        rights: A name of `RIGHTS`.
        count: How many there are.
        block: Whether they are blocks.
    """

    name: str
    frame: str
    rights: str
    count: int
    block: bool


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction.

    Attributes:
        line: Where it stands, from 1.
        text: As it was written.
        op: Its mnemonic, in small letters.
        operands: What the form found, ``None`` for what was left out.
    """

    line: int
    text: str
    op: str
    operands: tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class Sequence:
    """A machine, its tables, and what each CPU does.

    Attributes:
        name: Of the file.
        model: The CPUs.
        cpus: How many there are.
        pages: In the order in which they were named.
        programs: What a CPU executes, by its number.
    """

    name: str
    model: CpuModel
    cpus: int
    pages: tuple[Page, ...]
    programs: dict[int, tuple[Instruction, ...]]

    def without(self, instruction: Instruction) -> Sequence:
        """Return the same, with one instruction left out."""
        programs = {
            cpu: tuple(one for one in program if one is not instruction)
            for cpu, program in self.programs.items()
        }
        return Sequence(self.name, self.model, self.cpus, self.pages, programs)


def read_sequence(text: str, name: str) -> Sequence:
    """Read a flush sequence.

    Args:
        text: As the module says.
        name: Of the file, for messages.

    Raises:
        InputError: A line is none of these; one line that says where, what and what
            there is.
    """
    return _Reader(name).read(text)


class _Reader:
    """Reads one sequence."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._line = 0
        self._model = find_model(DEFAULT_MODEL)
        self._cpus = 0
        self._pages: dict[str, Page] = {}
        self._programs: dict[int, list[Instruction]] = {}

    def read(self, text: str) -> Sequence:
        """Return what *text* says."""
        current: list[Instruction] | None = None
        for line in text.splitlines():
            self._line += 1
            for part in self._parts(line):
                head = _CPU.fullmatch(part)
                if head is not None:
                    current = self._begin(int(head[1]))
                said = part if head is None else head[2].strip()
                if current is not None and said:
                    current.append(self._instruction(said))
                elif said:
                    self._describe(said)
        self._line += 1
        if not self._pages:
            raise self._wrong("no page is named; begin with page x = a rw")
        if not any(self._programs.values()):
            raise self._wrong("no CPU does anything; write CPU 0: and instructions")
        total = sum(map(len, self._programs.values()))
        if total > MOST_INSTRUCTIONS:
            raise self._wrong(
                f"{total} instructions are more than {MOST_INSTRUCTIONS}, of which all "
                "orders can be tried; take the part that matters"
            )
        return Sequence(
            self._name,
            self._model,
            self._cpus or max(2, *(cpu + 1 for cpu in self._programs)),
            tuple(self._pages.values()),
            {cpu: tuple(found) for cpu, found in self._programs.items()},
        )

    def _wrong(self, what: str) -> InputError:
        return InputError(f"{self._name}, line {self._line}: {what}")

    @staticmethod
    def _parts(line: str) -> Iterator[str]:
        """Yield what a line holds, without its comment."""
        if line.lstrip().startswith("#"):
            return
        for part in line.partition("//")[0].split(";"):
            yield part.strip()

    def _begin(self, cpu: int) -> list[Instruction]:
        """Begin what one CPU does."""
        if cpu in self._programs:
            raise self._wrong(f"CPU {cpu} was given before; give each one program")
        if cpu >= (self._cpus or MAX_CPUS):
            raise self._wrong(f"CPU {cpu}: there are {self._cpus or MAX_CPUS} CPUs")
        return self._programs.setdefault(cpu, [])

    def _describe(self, part: str) -> None:
        """Read a line about the machine."""
        word, _, rest = part.partition(" ")
        page = _PAGE.fullmatch(part)
        if page is not None:
            self._page(page)
        elif word == "cpu":
            try:
                self._model = find_model(rest.strip())
            except InputError as problem:
                raise self._wrong(str(problem)) from None
            if self._model.lpa2:
                raise self._wrong("tables here have 48-bit addresses; leave lpa2 out")
        elif word == "cpus" and rest.strip().isdigit() and len(rest) < 6:
            self._cpus = int(rest)
            if not 1 <= self._cpus <= MAX_CPUS:
                raise self._wrong(f"cpus {self._cpus}: from 1 to {MAX_CPUS}")
        else:
            raise self._wrong(
                f"{part[:60]!r} is neither page NAME = FRAME RIGHTS, nor cpu MODEL, "
                "nor cpus N, nor CPU N:"
            )

    def _page(self, read: re.Match[str]) -> None:
        kind, name, frame, rights, count = read.groups()
        if name in self._pages or re.fullmatch(_REGISTER, name):
            raise self._wrong(f"{name} is a page or a register already; take another")
        if rights not in RIGHTS:
            raise self._wrong(f"{rights!r}: rights are {', '.join(RIGHTS)}")
        number = int(count or 1)
        if not 1 <= number <= MOST_PAGES:
            raise self._wrong(f"x {number}: from 1 to {MOST_PAGES} in a row")
        if frame in {one.frame for one in self._pages.values()}:
            raise self._wrong(f"frame {frame} is mapped already; take another")
        self._pages[name] = Page(name, frame, rights, number, kind == "block")

    def _instruction(self, part: str) -> Instruction:
        """Read one instruction."""
        for form in _FORMS:
            read = form.fullmatch(part)
            if read is None:
                continue
            op = read["op"].lower()
            found = Instruction(self._line, part, op, read.groups()[1:])
            self._check(found)
            return found
        raise self._wrong(
            f"{part[:60]!r} is no instruction here; there are {'; '.join(INSTRUCTIONS)}"
        )

    def _check(self, one: Instruction) -> None:
        """Refuse what no CPU of this model has."""
        name = (one.operands or ("",))[0] or ""
        if one.op == "dsb" and name.lower() not in BARRIERS:
            raise self._wrong(f"dsb {name}: known are {', '.join(BARRIERS)}")
        if one.op == "tlbi":
            operation = operation_of(name)
            if operation is None:
                raise self._wrong(
                    f"tlbi {name} is not known; there are {', '.join(OPERATIONS)}"
                )
            if operation.ranged and not self._model.range_tlbi:
                raise self._wrong(
                    f"tlbi {name} is undefined on {self._model.name}: no FEAT_TLBIRANGE"
                )
            whole = operation.by is By.ALL
            if whole == (one.operands[1] is not None):
                takes = "no register" if whole else "a register, as in tlbi vae1is, x0"
                raise self._wrong(f"tlbi {name} takes {takes}")


_OPERATIONS: Final = {name.upper(): one for name, one in OPERATIONS.items()}


def operation_of(name: str) -> Operation | None:
    """Return a TLBI instruction by its name, in large letters or small."""
    return _OPERATIONS.get(name.upper())


def evaluate(expression: str, call: Callable[[str, list[str]], int]) -> int:
    """Return what ``=EXPRESSION`` stands for, as 64 bits.

    Args:
        expression: Sums of numbers, names and calls.
        call: Returns the value of a name, or of a function with its arguments as text;
            raises `InputError` where there is no such thing.
    """
    total, sign = 0, 1
    rest = expression.strip()
    term = re.compile(rf"\s*(?:({_NUMBER})|({_NAME})\s*(?:\(([^()]*)\))?)\s*([+-]|$)")
    if not rest:
        raise InputError("= needs a value: a number, a page, pte(x), desc(a, rw)")
    while rest:
        read = term.match(rest)
        if read is None:
            raise InputError(
                f"{expression[:60]!r} is no value; write numbers, pages, pte(x), "
                "desc(a, rw), va(x), range(x, 8), and + or - between them"
            )
        number, name, arguments, after = read.groups()
        if number is not None:
            value = int(number, 0)
        else:
            given = [] if arguments is None else arguments.split(",")
            value = call(name, [one.strip() for one in given])
        total += sign * value
        sign = -1 if after == "-" else 1
        rest = rest[read.end() :]
        if after and not rest.strip():
            raise InputError(f"{expression[:60]!r} ends with {after}")
    return total & (1 << 64) - 1
