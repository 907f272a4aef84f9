"""Having other CPUs do something: kernel/smp.c."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.kernel.locking import LockError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tlbkit.arm64.cpu import Cpu
    from tlbkit.linux.kernel.kernel import Kernel


class Smp:
    """Calls of functions on other CPUs."""

    __slots__ = ("_machine",)

    def __init__(self, kernel: Kernel) -> None:
        self._machine = kernel.machine

    def smp_call_function(self, function: Callable[[Cpu], None], why: str) -> None:
        """Have every other CPU interrupted and run *function*, and wait for them all.

        A CPU that has interrupts off is waited for until it has them on.

        Raises:
            LockError: Interrupts are off here; two that call each other so would wait
                for ever.

        Source: kernel/smp.c, smp_call_function()
        """
        machine = self._machine
        if not machine.running.irqs_on:
            raise LockError(
                machine.running.number, "interrupts", "must be on here and are off"
            )
        machine.send_ipi(machine.cpus, function, why)
