"""What the CPUs of a machine share: memory, the events, and the messages of TLBI."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NamedTuple

from tlbkit.arm64.cached import GLOBAL
from tlbkit.arm64.events import Stream
from tlbkit.arm64.memory import PhysicalMemory
from tlbkit.arm64.tlb import Tlb
from tlbkit.arm64.tlbi import Operation, decode
from tlbkit.callers import caller

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import FrameType

    from tlbkit.arm64.models import CpuModel


class Invalidation(NamedTuple):
    """A TLBI that was issued.

    Attributes:
        operation: The instruction.
        operand: Its register.
        spared: Where descriptors stand whose change it did not wait for.
    """

    operation: Operation
    operand: int
    spared: frozenset[int]


class Interconnect(ABC):
    """What a CPU needs of the machine that it is part of.

    Args:
        cpus: How many CPUs there are.
        model: What they are.

    Attributes:
        model: As given.
        memory: The physical memory.
        events: What happens, for whoever listens.
        taken_out: What was taken out, as `omits` and `holds` name it.
        tlbs: One for each CPU, or for each group of CPUs that shares one.
    """

    def __init__(self, cpus: int, model: CpuModel) -> None:
        self.model = model
        self.memory = PhysicalMemory(model.page_shift)
        self.events = Stream()
        self.taken_out: frozenset[str] = frozenset()
        self._holders: dict[int, dict[int, Tlb]] = {}
        self.tlbs = tuple(
            Tlb(first, model, self.events, self._holders)
            for first in range(0, cpus, model.shared_tlb)
        )

    @abstractmethod
    def lost_power(self, tlb: Tlb) -> None:
        """Note that a CPU of *tlb* has no power; with the last, its contents go."""

    def complete(
        self, issuer: Tlb, asid_bits: int, done: Iterable[Invalidation]
    ) -> None:
        """Take out of every TLB concerned what these operations name.

        Args:
            issuer: The TLB of the CPU that waits for them.
            asid_bits: How many bits of an ASID count there.
            done: What it has issued.
        """
        for operation, operand, spared in done:
            target = decode(
                operation, operand, lpa2=self.model.lpa2, asid_bits=asid_bits
            )
            if operation.broadcast:
                tlbs = self.concerned(operation, target.asid)
            else:
                tlbs = (issuer,)
            for tlb in tlbs:
                tlb.invalidate(operation, target, spared)

    def concerned(self, operation: Operation, asid: int) -> tuple[Tlb, ...]:
        """Return the TLBs that may hold something that a broadcast names."""
        if operation.any_asid or self.model.over_invalidates:
            return self.tlbs
        holders = self._holders.get(asid, {})
        if not operation.whole:
            holders = self._holders.get(GLOBAL, {}) | holders
        return tuple(holders.values())

    def omits(self, operation: str) -> bool:
        """Tell whether *operation* was taken out at the place that now asks for it.

        `taken_out` holds texts as ``"dsb ish in flush_tlb_page"``: the operation, and a
        function that is being executed.
        """
        if not self.taken_out:
            return False
        wanted = {
            place
            for what, _, place in (text.partition(" in ") for text in self.taken_out)
            if what == operation
        }
        frame: FrameType | None = caller() if wanted else None
        while frame is not None:
            if frame.f_code.co_name in wanted:
                return True
            frame = frame.f_back
        return False

    def holds(self, check: str, condition: object) -> bool:
        """Return whether what is asked again still holds, as the kernel's test says.

        `taken_out` takes the test out of the very function that asks, as it names
        operations: ``"pte_same in wp_page_copy"``. Then it passes, whatever is found.
        """
        if condition or not self.taken_out:
            return bool(condition)
        return f"{check} in {caller().f_code.co_name}" in self.taken_out

    def sees(self, check: str, condition: object) -> bool:
        """Return whether a test sees what it looks for, as the kernel's test says.

        The other sense of `holds`: what is taken out sees nothing.
        """
        if not condition or not self.taken_out:
            return bool(condition)
        return f"{check} in {caller().f_code.co_name}" not in self.taken_out
