"""What is known of one way of a thread: while it is gone, and when it has been."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from tlbkit.arm64.ordering import Data, Depends, Entry, Hardware, Table
from tlbkit.arm64.ordering.entries import answer
from tlbkit.explore.herd.values import Held

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tlbkit.arm64.ordering import Instruction

NOTHING = Held(0)
NO_FLAGS = Held((0, 1))  # Z is clear


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

    def unsettled(self, page: str, cpu: int) -> bool:
        """Tell whether a store may fault, or make hardware write to the entry."""
        if True in self.may(page, cpu, write=True):
            return True
        entries = {self.first[page], *(self.stored or ())}
        managed = self.hardware[cpu] is not Hardware.NONE
        return managed and any(
            not (entry.young and entry.writable) for entry in entries if entry.valid
        )

    def fixed_frame(self, page: str) -> str | None:
        """Return the frame of a page that always has the same one, else None."""
        return None if page in self.touched else self.first[page].frame


@dataclass(slots=True)
class State:
    """A thread on its way."""

    registers: dict[str, Held]
    at: int = 0
    flags: Held = NO_FLAGS
    handling: bool = False
    faulted: bool = False
    reserved: tuple[Data | Table, str, int] | None = None
    steps: list[Instruction] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    registers_at: dict[int, Mapping[str, Held]] = field(default_factory=dict)
    jumps: dict[int, int] = field(default_factory=dict)
    stores: list[tuple[Data | Table, frozenset[str]]] = field(default_factory=list)

    def copy(self) -> State:
        """Return a state that goes on by itself."""
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
class Access:
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
