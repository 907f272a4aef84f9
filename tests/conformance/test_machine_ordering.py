"""The machine that the kernel runs on is one behaviour of the ordering model.

Every litmus test that ships is run on a `Machine`, step by step, in every order in
which its threads can take turns. However it ends, the model must be able to end so too,
even with FEAT_ETS2, which allows the least.
"""

from collections.abc import Iterator
from itertools import combinations

import pytest

from tlbkit.arm64 import descriptor as d
from tlbkit.arm64.fault import Fault, FaultKind
from tlbkit.arm64.machine import Machine
from tlbkit.arm64.ordering.entries import INVALID, Entry, Hardware
from tlbkit.arm64.ordering.program import (
    Accesses,
    CompareAndSwap,
    Data,
    Domain,
    Dsb,
    Instruction,
    Isb,
    Load,
    Program,
    Store,
    Swap,
    Tlbi,
)
from tlbkit.arm64.ordering.state import Outcome
from tlbkit.arm64.tlbi import encode_va
from tlbkit.explore.litmus import LitmusTest, catalogue, outcomes
from tlbkit.lab.bare import Tables

ASID = 1
PAGE = 4096
FIRST_PAGE, FIRST_FRAME = 0x10_0000, 0x8000_0000


class Run:
    """One run of a program on a machine of its own."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.machine = Machine(len(program.threads))
        self.pages = {
            name: FIRST_PAGE + n * PAGE for n, (name, _) in enumerate(program.tables)
        }
        self.frames = {
            name: FIRST_FRAME + n * PAGE for n, (name, _) in enumerate(program.frames)
        }
        memory = self.machine.memory
        tables = Tables(memory)
        self.words = {name: tables.entry(va) for name, va in self.pages.items()}
        for name, entry in program.tables:
            memory.write(self.words[name], self.encode(entry))
        for name, value in program.frames:
            memory.write(self.frames[name], value)
        regime = tables.regime(
            ASID,
            HA=int(program.hardware is not Hardware.NONE),
            HD=int(program.hardware is Hardware.DIRTY),
        )
        for cpu in self.machine.cpus:
            cpu.switch(regime)
        self.registers: dict[tuple[int, str], int | Entry] = {}
        for number, thread in enumerate(program.threads):
            for step in thread:
                if register := getattr(step, "register", ""):
                    self.registers[number, register] = 0
        self.faults: list[tuple[FaultKind, str] | None] = [None] * len(program.threads)

    def encode(self, entry: Entry) -> int:
        """The descriptor of an entry."""
        if not entry.valid:
            return 0
        word = self.frames[entry.frame] | d.TYPE_PAGE | d.AP_EL0 | d.NG
        word |= d.AF * entry.young | d.DBM * entry.dbm
        return word | d.AP_READ_ONLY * (not entry.writable)

    def decode(self, word: int) -> Entry:
        """The entry of a descriptor."""
        if not word & d.VALID:
            return INVALID
        address = word & ((1 << 48) - 1) & -PAGE
        frame = next(name for name, pa in self.frames.items() if pa == address)
        return Entry(
            valid=True,
            frame=frame,
            writable=not word & d.AP_READ_ONLY,
            young=bool(word & d.AF),
            dbm=bool(word & d.DBM),
        )

    def step(self, number: int, instruction: Instruction) -> bool:
        """Let CPU *number* execute one instruction; false if it faulted."""
        cpu = self.machine.cpus[number]
        memory = self.machine.memory  # a CPU would refuse what breaks Linux's own rules
        match instruction:
            case Load(Data(page), register):
                value = cpu.read(self.pages[page])
                if isinstance(value, Fault):
                    self.faults[number] = (value.kind, page)
                    return False
                self.keep(number, register, value)
            case Store(Data(page), value):
                fault = cpu.write(self.pages[page], value)
                if fault is not None:
                    self.faults[number] = (fault.kind, page)
                    return False
            case Load(target, register):
                word = memory.read(self.words[target.page])
                self.keep(number, register, self.decode(word))
            case Store(target, Entry() as entry):
                memory.write(self.words[target.page], self.encode(entry))
            case Swap(target, entry, register):
                old = memory.swap(self.words[target.page], self.encode(entry))
                self.keep(number, register, self.decode(old))
            case CompareAndSwap(target, expected, entry, register):
                old = memory.compare_exchange(
                    self.words[target.page], self.encode(expected), self.encode(entry)
                )
                self.keep(number, register, self.decode(old))
            case Dsb(accesses, domain):
                cpu.dsb(_barrier(accesses, domain))
            case Isb():
                cpu.isb()
            case Tlbi(page, broadcast):
                name = ("VMALLE1" if page is None else "VAE1") + "IS" * broadcast
                cpu.tlbi(name, 0 if page is None else encode_va(self.pages[page], ASID))
        return True

    def keep(self, number: int, register: str, value: int | Entry) -> None:
        """Put *value* into a register, if one is named."""
        if register:
            self.registers[number, register] = value

    def outcome(self) -> Outcome:
        """How it has ended, as the model says it."""
        memory = self.machine.memory
        return Outcome(
            frozenset((n, name, value) for (n, name), value in self.registers.items()),
            tuple(self.faults),
            tuple((name, memory.read(pa)) for name, pa in self.frames.items()),
            tuple(
                (name, self.decode(memory.read(pa))) for name, pa in self.words.items()
            ),
        )


def _barrier(accesses: Accesses, domain: Domain) -> str:
    """The assembler's name of a DSB."""
    if domain is Domain.SYSTEM:
        return str(accesses.value) or "sy"
    return f"{domain.value}{accesses.value}"


def schedules(program: Program) -> Iterator[list[int]]:
    """Every order in which one or two threads can take turns."""
    steps = [len(thread) for thread in program.threads]
    assert len(steps) <= 2
    for places in combinations(range(sum(steps)), steps[0]):
        chosen = set(places)
        yield [0 if turn in chosen else 1 for turn in range(sum(steps))]


def ends(program: Program) -> set[Outcome]:
    """How a program ends on the machine, in every order of turns."""
    found: set[Outcome] = set()
    for schedule in schedules(program):
        run = Run(program)
        left = [list(thread) for thread in program.threads]
        for number in schedule:
            if left[number] and not run.step(number, left[number].pop(0)):
                left[number] = []
        found.add(run.outcome())
    return found


@pytest.mark.parametrize("test", catalogue(), ids=lambda test: test.name)
def test_the_machine_ends_as_the_model_can(test: LitmusTest) -> None:
    """No run of the machine ends in a way that Arm's rules forbid."""
    assert ends(test.program) <= outcomes(test, ets2=True)


def test_the_machine_shows_staleness() -> None:
    """It is not the strongest behaviour either: without a flush it does stay stale."""
    tests = {test.name: test for test in catalogue()}
    stale = ends(tests["mp-unmap+dsb+dsb-isb"].program)
    assert any(not any(outcome.faults) for outcome in stale)
    flushed = ends(tests["mp-unmap+dsb-tlbi-dsb+dsb-isb"].program)
    assert flushed <= outcomes(tests["mp-unmap+dsb-tlbi-dsb+dsb-isb"], ets2=True)
