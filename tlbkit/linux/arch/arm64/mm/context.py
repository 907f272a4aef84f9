"""Address-space identifiers: arch/arm64/mm/context.c.

An ASID lives as long as its generation. When numbers run out a new generation begins,
those in use on a CPU are kept, and each CPU flushes its own TLB when it next needs a
number from the new generation: no broadcast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.errors import TlbkitError

if TYPE_CHECKING:
    from tlbkit.arm64.cpu import Cpu
    from tlbkit.arm64.regime import Regime
    from tlbkit.linux.include.linux.mm_types import MmStruct
    from tlbkit.linux.kernel.kernel import Kernel


class OutOfAsidsError(TlbkitError):
    """There are no more numbers than CPUs that hold one."""

    def __init__(self, numbers: int) -> None:
        super().__init__(
            f"all {numbers - 1} ASIDs run on CPUs; use fewer CPUs or more ASID bits"
        )
        self.numbers = numbers


class Context:
    """Hands out ASIDs and switches CPUs between address spaces."""

    __slots__ = (
        "_active",
        "_asid_bits",
        "_asid_mask",
        "_cur_idx",
        "_flush_pending",
        "_generation",
        "_indices",
        "_kernel",
        "_kpti",
        "_machine",
        "_map",
        "_reserved",
    )

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._machine = kernel.machine
        model = kernel.machine.model
        self._asid_bits = model.asid_bits
        self._asid_mask = (1 << model.asid_bits) - 1
        self._kpti = model.kpti
        self._indices = 1 << (model.asid_bits - model.kpti)
        self._generation = 1 << model.asid_bits
        self._map: set[int] = set()
        self._cur_idx = 1  # index 0 belongs to init_mm and its global mappings
        cpus = len(kernel.machine.cpus)
        self._active = [0] * cpus
        self._reserved = [0] * cpus
        self._flush_pending: set[int] = set()

    def asid(self, mm: MmStruct) -> int:
        """Return the hardware ASID of *mm*, the kernel's own of the pair: ASID().

        Source: arch/arm64/include/asm/mmu.h, ASID()
        """
        return mm.context & self._asid_mask

    def check_and_switch_context(self, mm: MmStruct) -> None:
        """Make the running CPU translate by *mm*'s tables.

        A number of the current generation is used as it is; otherwise a new one is
        taken, and a flush that a rollover left to this CPU is done now.

        Source: arch/arm64/mm/context.c, check_and_switch_context()
        """
        cpu = self._machine.running
        if not self._current(mm.context) or not self._active[cpu.number]:
            if not self._current(mm.context):
                mm.context = self._new_context(mm)
                mm.regimes = None
            if cpu.number in self._flush_pending:
                self._flush_pending.remove(cpu.number)
                self._kernel.tlbflush.local_flush_tlb_all()
        self._active[cpu.number] = mm.context
        mm.cpumask.add(cpu.number)
        self.enter_user(mm, cpu)

    def enter_user(self, mm: MmStruct, cpu: Cpu) -> None:
        """Use the ASID that user space runs under: the odd one of a pair with KPTI.

        Source: none; it stands for the way out through the trampolines of KPTI.
        """
        cpu.switch(self._regimes(mm)[1])

    def enter_kernel(self, mm: MmStruct, cpu: Cpu) -> None:
        """Use the ASID under which the kernel touches user memory.

        Source: none; it stands for the way in through the trampolines of KPTI.
        """
        cpu.switch(self._regimes(mm)[0])

    def _current(self, context: int) -> bool:
        return context >> self._asid_bits == self._generation >> self._asid_bits

    def _asid_of(self, index: int) -> int:
        return index << self._kpti

    def _new_context(self, mm: MmStruct) -> int:
        """Return a number of this generation, the old one again if it is still free."""
        if mm.context:
            renewed = self._generation | self.asid(mm)
            if self._keep_reserved(mm.context, renewed):
                return renewed
            index = self.asid(mm) >> self._kpti
            if index not in self._map:
                self._map.add(index)
                return renewed
        found = self._find_free(self._cur_idx)
        if found is None:
            self._generation += 1 << self._asid_bits
            self._flush_context()
            found = self._find_free(1)
        if found is None:
            # As many CPUs as numbers: the kernel refuses to boot such a machine.
            raise OutOfAsidsError(self._indices)
        self._map.add(found)
        self._cur_idx = found
        return self._generation | self._asid_of(found)

    def _find_free(self, start: int) -> int | None:
        for index in range(start, self._indices):
            if index not in self._map:
                return index
        return None

    def _keep_reserved(self, context: int, renewed: int) -> bool:
        """Carry a number that was in use at the rollover into this generation."""
        hit = False
        for number, reserved in enumerate(self._reserved):
            if reserved == context:
                hit = True
                self._reserved[number] = renewed
        return hit

    def _flush_context(self) -> None:
        """Begin a generation: keep what runs now, and make every CPU owe a flush."""
        self._map.clear()
        for number, active in enumerate(self._active):
            # A CPU that was here before and has not switched since keeps its number.
            kept = active or self._reserved[number]
            self._active[number] = 0
            self._reserved[number] = kept
            if kept:
                self._map.add((kept & ((1 << self._asid_bits) - 1)) >> self._kpti)
        self._flush_pending = {cpu.number for cpu in self._machine.cpus}

    def _regimes(self, mm: MmStruct) -> tuple[Regime, Regime]:
        """Return the registers of *mm*, for the kernel's and for the user's ASID."""
        if mm.regimes is None:
            asid = self.asid(mm)
            kernel = self._kernel.regime(mm.pgd, asid)
            user = self._kernel.regime(mm.pgd, asid | 1) if self._kpti else kernel
            mm.regimes = (kernel, user)
        return mm.regimes
