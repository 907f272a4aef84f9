"""Which address space each CPU runs: kernel/sched/core.c, as far as the MMU sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tlbkit.arm64.cpu import Cpu
    from tlbkit.linux.include.linux.mm_types import MmStruct
    from tlbkit.linux.kernel.kernel import Kernel


class Sched:
    """Switches CPUs between address spaces.

    Attributes:
        current: For each CPU, the address space that runs there, or ``None``.
        killed: Address spaces whose process was sent SIGKILL and has not ended yet.
    """

    __slots__ = ("_kernel", "_machine", "current", "killed")

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._machine = kernel.machine
        self.current: list[MmStruct | None] = [None] * len(kernel.machine.cpus)
        self.killed: set[MmStruct] = set()

    def fatal_signal_pending(self, mm: MmStruct) -> bool:
        """Tell whether the process of *mm* is to die, so that long work may stop.

        Source: include/linux/sched/signal.h, fatal_signal_pending()
        """
        return mm in self.killed

    def run_on(self, mm: MmStruct, cpu: Cpu) -> None:
        """Let *cpu* be the one that executes from here on, in address space *mm*.

        Source: none; whoever runs a CPU says what it executes.
        """
        self._machine.running = cpu
        if self.current[cpu.number] is not mm:
            self.context_switch(mm, cpu)

    def context_switch(self, mm: MmStruct, cpu: Cpu) -> None:
        """Switch the running CPU to *mm*; the DSB also ends flushes not waited for.

        Source: kernel/sched/core.c, context_switch()
        """
        if cpu.in_flight:
            cpu.dsb("ish")  # __switch_to()
        self._kernel.context.check_and_switch_context(mm)
        self.current[cpu.number] = mm

    def leave(self, mm: MmStruct) -> None:
        """Take *mm* off every CPU, as it goes away.

        Source: none; a CPU that is idle goes on in the tables of nobody.
        """
        self.killed.discard(mm)
        for number, running in enumerate(self.current):
            if running is mm:
                self.current[number] = None
