"""One run of a flush sequence: an instruction at a time, with the worst of caches.

Every CPU's walker fills whenever it may: before the first instruction and after each,
each CPU has in its TLB all that the tables allow it to hold. What a sequence then
leaves in some TLB, a real CPU could have held.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from tlbkit.arm64 import descriptor as d
from tlbkit.arm64.fault import Fault
from tlbkit.arm64.granule import GRANULES, LAST_LEVEL
from tlbkit.arm64.machine import Machine
from tlbkit.arm64.permission import EL0_READ, EL0_WRITE
from tlbkit.arm64.tlbi import encode_range, encode_va, range_pages
from tlbkit.arm64.walk import walk
from tlbkit.errors import InputError, TlbkitError
from tlbkit.lab.bare import Tables, leaf
from tlbkit.lab.sequence.form import RIGHTS, evaluate, operation_of

if TYPE_CHECKING:
    from tlbkit.arm64.cached import Entry
    from tlbkit.arm64.cpu import Cpu
    from tlbkit.lab.sequence.form import Instruction, Page, Sequence

KERNEL: Final = 0xFFFF_0000_0000_0000
"""Where the kernel has physical address 0: entries are stored there."""
ASID: Final = 1
_FRAMES: Final = 0x8000_0000
_MASK: Final = (1 << 64) - 1


class HarmError(TlbkitError):
    """A CPU reaches memory that the tables no longer give it."""


class Told(NamedTuple):
    """One instruction that was executed.

    Attributes:
        cpu: By which CPU.
        instruction: Which.
        what: What it did, in words; nothing if it says so itself.
    """

    cpu: int
    instruction: Instruction
    what: str

    def __str__(self) -> str:
        what = f"   // {self.what}" if self.what else ""
        where = f"CPU {self.cpu}, line {self.instruction.line}"
        return f"{where}: {self.instruction.text}{what}"


class World:
    """A machine with the tables of a sequence, and how far each CPU has come.

    Args:
        sequence: What is run.

    Attributes:
        machine: The machine.
        told: What was executed so far.
    """

    def __init__(self, sequence: Sequence) -> None:
        self._sequence = sequence
        self.machine = Machine(sequence.cpus, sequence.model)
        model = sequence.model
        granule = next(g for g in GRANULES if g.page_shift == model.page_shift)
        self._granule = granule
        self._tables = Tables(self.machine.memory, granule)
        regime = self._tables.regime(
            ASID,
            AS=int(model.asid_bits == 16),
            HA=int(model.hw_af),
            HD=int(model.hw_dbm),
        )
        self._block_level = LAST_LEVEL - 1
        self._frames: dict[str, int] = {}
        self._spans: dict[str, int] = {}
        self._next = _FRAMES
        self._vas: dict[str, int] = {}
        self._map()
        for cpu in self.machine.cpus:
            cpu.switch(regime)
        self._registers = [[0] * 31 for _ in range(sequence.cpus)]
        self._next_of = dict.fromkeys(sequence.programs, 0)
        self._freed: dict[str, Told] = {}
        self.told: list[Told] = []
        self._fill()

    # -- the machine -----------------------------------------------------------------

    def _map(self) -> None:
        """Make the tables."""
        for number, page in enumerate(self._sequence.pages, start=1):
            level = self._level(page)
            size = 1 << self._granule.shift(level)
            base = self._frame(page.frame, size * page.count)
            va = number << 40
            self._vas[page.name] = va
            for n in range(page.count):
                if page.rights == "none":
                    self._tables.entry(va + n * size, level)
                    continue
                self._tables.map(
                    va + n * size, base + n * size, attributes(page.rights), level
                )

    def _level(self, page: Page) -> int:
        return self._block_level if page.block else LAST_LEVEL

    def _frame(self, name: str, span: int) -> int:
        """Return where a frame is; one that is new gets a place."""
        if name not in self._frames:
            block = 1 << self._granule.shift(self._block_level)
            self._frames[name] = self._next
            self._spans[name] = span
            self._next += -(-span // block) * block
        return self._frames[name]

    def _fill(self) -> None:
        """Let every CPU hold all that it may."""
        for cpu in self.machine.cpus:
            for page in self._sequence.pages:
                size = 1 << self._granule.shift(self._level(page))
                va = self._vas[page.name]
                for n in range(page.count):
                    cpu.prefetch(va + n * size)

    # -- a step ----------------------------------------------------------------------

    def ready(self) -> list[int]:
        """Return the CPUs that have something left to do."""
        programs = self._sequence.programs
        return [cpu for cpu, n in self._next_of.items() if n < len(programs[cpu])]

    def step(self, cpu: int) -> None:
        """Let one CPU execute its next instruction.

        Raises:
            HarmError: It reaches a frame that belongs to another process by now.
            TlbkitError: The architecture forbids what it does.
            InputError: An operand means nothing.
        """
        one = self._sequence.programs[cpu][self._next_of[cpu]]
        self._next_of[cpu] += 1
        self.told.append(Told(cpu, one, ""))
        try:
            what = self._execute(self.machine.cpus[cpu], one)
        except InputError as problem:
            raise InputError(
                f"{self._sequence.name}, line {one.line}: {problem}"
            ) from None
        self.told[-1] = Told(cpu, one, what)
        self._fill()

    def _execute(self, cpu: Cpu, one: Instruction) -> str:
        first, second, *_ = (*one.operands, None, None)
        if one.op == ".free":
            return self._free(str(first))
        if one.op == "tlbi":
            operation = operation_of(str(first))
            assert operation is not None
            cpu.tlbi(operation.name, self._value(cpu, second) if second else 0)
        elif one.op == "dsb":
            cpu.dsb(str(first).lower())
        elif one.op == "isb":
            cpu.isb()
        elif one.op in {"ldr", "str", "stlr"} and len(one.operands) == 3:
            return self._access(cpu, one)
        elif one.op.startswith("swp"):
            return self._swap(cpu, one)
        elif one.op == "ldr":
            self._set(cpu, first, evaluate(str(second), self._named))
        elif one.op not in {"dmb", "nop"}:
            self._set(cpu, first, self._computed(cpu, one))
        return ""

    def _computed(self, cpu: Cpu, one: Instruction) -> int:
        """Return what an instruction on registers computes."""
        if one.op == "mov":
            return self._value(cpu, one.operands[1])
        a, b = (self._value(cpu, text) for text in one.operands[1:3])
        return {
            "add": a + b,
            "sub": a - b,
            "and": a & b,
            "orr": a | b,
            "eor": a ^ b,
            "bic": a & ~b,
            "lsl": a << (b & 63),
            "lsr": a >> (b & 63),
        }[one.op]

    def _value(self, cpu: Cpu, text: str | None) -> int:
        """Return what a register or an immediate is."""
        text = str(text).lower()
        if text == "xzr":
            return 0
        if text.startswith("x"):
            return self._registers[cpu.number][int(text[1:])]
        return int(text.removeprefix("#"), 0) & _MASK

    def _set(self, cpu: Cpu, register: str | None, value: int) -> None:
        name = str(register).lower()
        if name != "xzr":
            self._registers[cpu.number][int(name[1:])] = value & _MASK

    # -- memory ----------------------------------------------------------------------

    def _access(self, cpu: Cpu, one: Instruction) -> str:
        register, base, offset = one.operands
        address = self._value(cpu, base) + int(offset or "0", 0) & _MASK
        if address >= KERNEL:
            place = self._entry(address)
            if one.op == "ldr":
                self._set(cpu, register, self.machine.memory.read(place))
                return ""
            old = self.machine.memory.read(place)
            new = self._value(cpu, register)
            cpu.store(place, new)
            return f"{self._said(old)} becomes {self._said(new)}"
        write = one.op != "ldr"
        found = cpu.translate(address, EL0_WRITE if write else EL0_READ)
        if isinstance(found, Fault):
            return str(found)
        self._judge(found, "writes" if write else "reads")
        if write:
            self.machine.memory.replace(found, self._value(cpu, register), 8)
        else:
            self._set(cpu, register, self.machine.memory.load(found, 8))
        return f"in {self._place(found)}"

    def _swap(self, cpu: Cpu, one: Instruction) -> str:
        source, target, base, offset = one.operands
        place = self._entry(self._value(cpu, base) + int(offset or "0", 0) & _MASK)
        new = self._value(cpu, source)
        old = cpu.swap(place, new)
        self._set(cpu, target, old)
        return f"{self._said(old)} becomes {self._said(new)}"

    def _entry(self, address: int) -> int:
        """Return the physical address of an entry, of one of the tables."""
        place = address - KERNEL
        tables = self._tables.root, self._tables.root + (1 << 24)
        if place % 8 or not tables[0] <= place < tables[1]:
            raise InputError(
                f"{address:#x} is no entry of a table; take pte(x) for its address"
            )
        return place

    def _free(self, frame: str) -> str:
        if frame not in self._frames:
            raise InputError(
                f"no frame is called {frame}; there are {', '.join(self._frames)}"
            )
        self._freed[frame] = self.told[-1]
        return "another process gets it"

    def _judge(self, pa: int, verb: str) -> None:
        """Refuse an access to what belongs to another process by now."""
        owner = self._owner(pa)
        if owner:
            cpu, one, _ = self.told[-1]
            raise HarmError(f"CPU {cpu}, line {one.line}: {verb} {owner}")

    def _owner(self, pa: int) -> str:
        """Say whose a frame is that was given away; nothing of any other."""
        for name, told in self._freed.items():
            base = self._frames[name]
            if base <= pa < base + self._spans[name]:
                line = told.instruction.line
                return (
                    f"frame {name}, which belongs to another process since line {line}"
                )
        return ""

    # -- names -----------------------------------------------------------------------

    def _named(self, name: str, arguments: list[str]) -> int:
        """Return the value of a name, or of a function, in an expression."""
        given = len(arguments)
        if not given and name in self._vas:
            return self._vas[name]
        if name == "pte" and given == 1:
            va = evaluate(arguments[0], self._named)
            return KERNEL + self._tables.entry(va, self._level_of(va))
        if name in {"desc", "block"} and given == 2 and arguments[1] in RIGHTS:
            level = LAST_LEVEL if name == "desc" else self._block_level
            frame, _, more = arguments[0].partition("+")
            size = 1 << self._granule.shift(level)
            pa = self._frame(frame.strip(), size) + int(more or "0", 0)
            rights = arguments[1]
            return 0 if rights == "none" else leaf(pa, attributes(rights), level)
        if name == "va" and given == 1:
            return encode_va(evaluate(arguments[0], self._named), ASID)
        if name == "range" and given == 2:
            return self._range(arguments)
        raise InputError(
            f"{name} with {given} arguments is nothing here; there are the pages "
            f"{', '.join(self._vas)}, pte(x), desc(FRAME, RIGHTS), block(FRAME, "
            f"RIGHTS), va(x) and range(x, PAGES); RIGHTS are {', '.join(RIGHTS)}"
        )

    def _range(self, arguments: list[str]) -> int:
        """Return the operand of a range TLBI for as many pages as one can cover."""
        va = evaluate(arguments[0], self._named)
        pages = evaluate(arguments[1], self._named)
        for scale in range(4):
            for num in range(32):
                if range_pages(scale, num) == pages:
                    shift = self._granule.page_shift
                    return encode_range(va, ASID, scale, num, None, shift)
        raise InputError(
            f"range of {pages} pages: one instruction covers n * 2, n * 64, n * 2048 "
            "or n * 65536 pages, n from 1 to 32"
        )

    def _level_of(self, va: int) -> int:
        """Return the level at which a page that was named has its entry."""
        for page in self._sequence.pages:
            if self._vas[page.name] == va >> 40 << 40:
                return self._level(page)
        raise InputError(f"pte({va:#x}): no page was named there")

    def _said(self, descriptor: int) -> str:
        """Say what a descriptor maps."""
        if not descriptor & d.VALID:
            return "nothing" if not descriptor else f"not valid ({descriptor:#x})"
        if descriptor & d.TYPE_MASK == d.TYPE_TABLE and not descriptor & d.AF:
            return "a table"
        pa = d.ADDRESS_48.address(descriptor, self._granule.page_shift)
        rights = "r" + "w" * (not descriptor & d.AP_READ_ONLY)
        return f"{self._place(pa)} {rights}{'x' * (not descriptor & d.UXN)}"

    def _place(self, pa: int) -> str:
        """Name the frame of a physical address."""
        for name, base in self._frames.items():
            if base <= pa < base + self._spans[name]:
                page = (pa - base) >> self._granule.page_shift
                return f"frame {name}{f' + {page} pages' if page else ''}"
        return f"{pa:#x}"

    # -- the end ---------------------------------------------------------------------

    def finish(self) -> None:
        """Look what is left in the TLBs when all is done.

        Raises:
            HarmError: Some CPU can still do what the tables do not allow.
        """
        for cpu in self.machine.cpus:
            for entry in sorted(cpu.tlb.entries(), key=lambda one: one.va):
                wrong = self._stale(cpu, entry)
                if wrong:
                    raise HarmError(self._harm(cpu, entry, wrong))
        regime = self.machine.cpus[0].regime
        for page in self._sequence.pages:
            size = 1 << self._granule.shift(self._level(page))
            for n in range(page.count if self._freed else 0):
                found = walk(
                    regime, self.machine.memory, self._vas[page.name] + n * size
                )
                owner = "" if isinstance(found, Fault) else self._owner(found.pa)
                if owner:
                    raise HarmError(f"the tables still map {page.name} to {owner}")

    def _stale(self, cpu: Cpu, entry: Entry) -> str:
        """Say what an entry grants that the tables do not; nothing if all is well."""
        found = walk(cpu.regime, self.machine.memory, entry.va)
        if isinstance(found, Fault):
            return "the tables map nothing there"
        if found.pa - found.va != entry.pa - entry.va:
            return f"the tables map {self._place(found.pa)}"
        more = entry.leaf.permissions & ~found.leaf.permissions
        more &= ~found.leaf.permissions_dirty
        return "the tables allow less" if more & (EL0_READ | EL0_WRITE) else ""

    def _harm(self, cpu: Cpu, entry: Entry, wrong: str) -> str:
        """Do what the stale entry allows, and say so."""
        write = bool(entry.leaf.permissions & EL0_WRITE)
        verb = "writes" if write else "reads"
        name = next(n for n, va in self._vas.items() if va == entry.va >> 40 << 40)
        page = (entry.va - self._vas[name]) >> self._granule.page_shift
        place = f"{name}{f' + {page} pages' if page else ''}"
        waiting = any(one.in_flight for one in self.machine.cpus)
        why = "; a TLBI is in flight that no DSB completes" if waiting else ""
        return (
            f"after the last instruction CPU {cpu.number} still {verb} "
            f"{self._owner(entry.pa) or self._place(entry.pa)}, through {place}: "
            f"{wrong}{why}"
        )


def attributes(rights: str) -> int:
    """Return the descriptor bits of a page of user space with these rights."""
    bits = d.AF | d.NG | d.AP_EL0 | d.INNER_SHAREABLE << d.SH_SHIFT | d.PXN
    if "w" not in rights:
        bits |= d.AP_READ_ONLY
    return bits if "x" in rights else bits | d.UXN
