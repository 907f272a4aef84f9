"""A machine: CPUs that share memory, one event stream, and the messages of TLBI."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.arm64.cached import GLOBAL
from tlbkit.arm64.cpu import Cpu
from tlbkit.arm64.events import Stream
from tlbkit.arm64.memory import PhysicalMemory
from tlbkit.arm64.models import DEFAULT_MODEL, CpuModel, find_model
from tlbkit.arm64.tags import Tags
from tlbkit.arm64.tlb import Tlb
from tlbkit.arm64.tlbi import decode
from tlbkit.callers import caller
from tlbkit.errors import InputError, TlbkitError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import FrameType

    from tlbkit.arm64.cpu import Invalidation
    from tlbkit.arm64.tlbi import Operation

MAX_CPUS = 512


class StuckError(TlbkitError):
    """A CPU waits for something that no other CPU is running to bring about."""

    def __init__(self, cpu: int, what: str) -> None:
        super().__init__(
            f"CPU {cpu} waits for {what}, and nothing else runs that could end the wait"
        )
        self.cpu = cpu
        self.what = what


class Machine:
    """CPUs of one model around one memory, deterministic.

    Descriptor stores are visible at once, TLBs fill on accesses only, and a TLBI takes
    effect at its issuer's completing DSB: one of the behaviours that Arm permits.

    Args:
        cpus: How many, from 1 to 512.
        model: A `CpuModel`, or the name of one.

    Errors:
        InputError: There is no such model, or the number of CPUs is not allowed.
    """

    def __init__(self, cpus: int = 1, model: str | CpuModel = DEFAULT_MODEL) -> None:
        if not 1 <= cpus <= MAX_CPUS:
            raise InputError(f"cpus={cpus}: a machine has 1 to {MAX_CPUS} CPUs")
        self.model = find_model(model) if isinstance(model, str) else model
        self.memory = PhysicalMemory(self.model.page_shift)
        self.tags = Tags(self.model.page_shift)
        self.events = Stream()
        self.without: frozenset[str] = frozenset()
        shared = self.model.shared_tlb
        self._holders: dict[int, dict[int, Tlb]] = {}
        self.tlbs = tuple(
            Tlb(first, self.model, self.events, self._holders)
            for first in range(0, cpus, shared)
        )
        self.cpus = tuple(
            Cpu(number, self, self.tlbs[number // shared]) for number in range(cpus)
        )
        self.running = self.cpus[0]
        self.waiter: Callable[[Callable[[], bool], str], None] | None = None

    def cpu(self, number: int) -> Cpu:
        """Return CPU *number*; `InputError` says which there are."""
        if not 0 <= number < len(self.cpus):
            raise InputError(
                f"cpu={number}: this machine has CPUs 0 to {len(self.cpus) - 1}"
            )
        return self.cpus[number]

    def complete(self, issuer: Cpu, done: Iterable[Invalidation]) -> None:
        """Take out of every TLB concerned what these operations name."""
        asid_bits = issuer.asid_bits
        for operation, operand, spared in done:
            target = decode(
                operation, operand, lpa2=self.model.lpa2, asid_bits=asid_bits
            )
            if operation.broadcast:
                tlbs = self.concerned(operation, target.asid)
            else:
                tlbs = (issuer.tlb,)
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

    def send_ipi(
        self, targets: Iterable[Cpu], handler: Callable[[Cpu], None], why: str
    ) -> None:
        """Interrupt *targets* and wait until each has run *handler*."""
        if self.omits("ipi"):
            return
        sender = self.running
        others = [cpu for cpu in targets if cpu is not sender]
        if "ipi" in self.events.heard:
            numbers = tuple(cpu.number for cpu in others)
            self.events.emit(sender.number, "ipi", numbers, why=why)
        late: list[Cpu] = []

        def taken(cpu: Cpu) -> None:
            handler(cpu)
            late.remove(cpu)

        for cpu in others:
            if cpu.irqs_on:
                handler(cpu)
            else:
                late.append(cpu)
                cpu.interrupt(taken)
        self.wait(lambda: not late, why)

    def wait(self, done: Callable[[], bool], what: str) -> None:
        """Let others run until *done*; where nothing else runs, raise `StuckError`."""
        if done():
            return
        if self.waiter is None:
            raise StuckError(self.running.number, what)
        self.waiter(done, what)

    def omits(self, operation: str) -> bool:
        """Tell whether *operation* was taken out at the place that now asks for it.

        `without` holds texts as ``"dsb ish in flush_tlb_page"``: the operation, and a
        function that is being executed.
        """
        if not self.without:
            return False
        wanted = {
            place
            for what, _, place in (text.partition(" in ") for text in self.without)
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

        `without` takes the test out of the very function that asks, as it names
        operations: ``"pte_same in wp_page_copy"``. Then it passes, whatever is found.
        """
        if condition or not self.without:
            return bool(condition)
        return f"{check} in {caller().f_code.co_name}" in self.without

    def sees(self, check: str, condition: object) -> bool:
        """Return whether a test sees what it looks for, as the kernel's test says.

        The other sense of `holds`: what is taken out sees nothing.
        """
        if not condition or not self.without:
            return bool(condition)
        return f"{check} in {caller().f_code.co_name}" not in self.without
