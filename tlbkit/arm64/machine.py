"""A machine: CPUs that share memory, one event stream, and the messages of TLBI."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from tlbkit.arm64.cpu import Cpu
from tlbkit.arm64.interconnect import Interconnect
from tlbkit.arm64.models import DEFAULT_MODEL, CpuModel, find_model
from tlbkit.arm64.tags import Tags
from tlbkit.errors import InputError, TlbkitError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tlbkit.arm64.tlb import Tlb


MAX_CPUS = 512


class StuckError(TlbkitError):
    """A CPU waits for something that no other CPU is running to bring about."""

    def __init__(self, cpu: int, what: str) -> None:
        super().__init__(
            f"CPU {cpu} waits for {what}, and nothing else runs that could end the wait"
        )
        self.cpu = cpu
        self.what = what


class OnMachine(Protocol):
    """What runs on a machine: a kernel is the only kind there is."""

    machine: Machine


class Machine(Interconnect):
    """CPUs of one model around one memory, deterministic.

    Descriptor stores are visible at once, TLBs fill on accesses only, and a TLBI takes
    effect at its issuer's completing DSB: one of the behaviours that Arm permits.

    Args:
        cpus: How many, from 1 to 512.
        model: A `CpuModel`, or the name of one.

    Attributes:
        software: What was started on it and takes all of it for its own, if anything.

    Errors:
        InputError: There is no such model, or the number of CPUs is not allowed.
    """

    def __init__(self, cpus: int = 1, model: str | CpuModel = DEFAULT_MODEL) -> None:
        if not 1 <= cpus <= MAX_CPUS:
            raise InputError(f"cpus={cpus}: a machine has 1 to {MAX_CPUS} CPUs")
        super().__init__(cpus, find_model(model) if isinstance(model, str) else model)
        self.tags = Tags(self.model.page_shift)
        shared = self.model.shared_tlb
        self.cpus = tuple(
            Cpu(number, self, self.tlbs[number // shared]) for number in range(cpus)
        )
        self.running = self.cpus[0]
        self.software: object | None = None
        self.waiter: Callable[[Callable[[], bool], str], None] | None = None

    def cpu(self, number: int) -> Cpu:
        """Return CPU *number*; `InputError` says which there are."""
        if not 0 <= number < len(self.cpus):
            raise InputError(
                f"cpu={number}: this machine has CPUs 0 to {len(self.cpus) - 1}"
            )
        return self.cpus[number]

    def lost_power(self, tlb: Tlb) -> None:
        """Note that a CPU of *tlb* has no power; with the last, its contents go."""
        if all(cpu.current is None for cpu in self.cpus if cpu.tlb is tlb):
            tlb.lose("its CPU has no power")

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


def machine_of(watched: Machine | OnMachine) -> Machine:
    """Return the machine that is meant: itself, or what a kernel runs on.

    Raises:
        InputError: It is neither.
    """
    machine = getattr(watched, "machine", watched)
    if isinstance(machine, Machine):
        return machine
    raise InputError(
        f"{watched!r} has no events: give a Machine, or the Kernel that runs on it"
    )
