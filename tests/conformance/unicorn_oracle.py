"""An MMU that is not ours: the AArch64 CPU of Unicorn.

`UnicornMMU` holds a table image and is asked in two ways. `translate` executes
``AT S1E..`` for a list of addresses; what that leaves in PAR_EL1 is the judgement. The
little program runs at EL2 with the EL2 MMU off, so that the image under test need not
map it, and an AT instruction walks the tables anew each time. `translate_one` is the
same for one address with the least effort, for the benchmark. `fetches` starts
execution at an address and sees whether there is an instruction abort, which is the
only way to ask about the right to execute; it tells neither kind nor level.

Unicorn 2.1.4 is built on the core of QEMU 5.0.1, which differs from the architecture
in ways that a test must leave out by rule:

- IPS is ignored, so there are no address size faults: keep addresses within IPS.
- A block at a level that has none (4K level 0; 16K levels 0 and 1; 64K level 1) is
  taken for a block: have no such descriptors.
- TxSZ is clamped to 16..39: stay inside.
- PAR_EL1.SH repeats the descriptor for Device and Non-cacheable memory, where it
  should read 0b10: do not compare it there.
- HA, HD and DBM do nothing, nor do E0PD, EPAN and DS: leave them 0.
- The Contiguous bit is ignored, which is a correct way to treat a hint.
"""

import struct

from unicorn.arm64_const import (
    UC_ARM64_REG_CP_REG,
    UC_ARM64_REG_PSTATE,
    UC_ARM64_REG_X0,
    UC_ARM64_REG_X1,
    UC_CPU_ARM64_MAX,
)
from unicorn.unicorn_const import (
    UC_ARCH_ARM64,
    UC_ERR_FETCH_UNMAPPED,
    UC_HOOK_INTR,
    UC_MODE_ARM,
)
from unicorn.unicorn_py3 import Uc, UcError

# Where things are in physical memory. Tables may lie anywhere in their window.
PROGRAM = 0x0800_0000
ADDRESSES = 0x0810_0000
TABLES = 0x4000_0000
TABLES_SIZE = 0x0400_0000
WINDOW_SIZE = 0x0020_0000
LARGEST_BATCH = (PROGRAM + WINDOW_SIZE - ADDRESSES) // 8

PSTATE_EL2H = 0x3C9  # EL2 with its own stack pointer, interrupts masked
PSTATE_BY_EL = (0x3C0, 0x3C5)
PSTATE_PAN = 1 << 22
SCTLR_MMU_ON = 0x30D0_0801  # M, and the bits that read as one

# A system register as Unicorn names it: CRn, CRm, op0, op1, op2.
REGISTERS = {
    "SCR_EL3": (1, 1, 3, 6, 0),
    "HCR_EL2": (1, 1, 3, 4, 0),
    "SCTLR": (1, 0, 3, 0, 0),
    "TTBR0": (2, 0, 3, 0, 0),
    "TTBR1": (2, 0, 3, 0, 1),
    "TCR": (2, 0, 3, 0, 2),
    "MAIR": (10, 2, 3, 0, 0),
}
# What Unicorn's interrupt hook calls an instruction abort.
INSTRUCTION_ABORT = 3

SCR_RW_NS = 1 << 10 | 1  # lower levels are AArch64, and Non-secure
HCR_RW = 1 << 31  # EL1 is AArch64; without it, walks follow the AArch32 rules

# CRm and op2 of SYS #0, C7: the address translation instructions.
INSTRUCTIONS = {
    "S1E1R": (8, 0),
    "S1E1W": (8, 1),
    "S1E0R": (8, 2),
    "S1E0W": (8, 3),
    "S1E1RP": (9, 0),
    "S1E1WP": (9, 1),
}
PROGRAM_SIZE = 0x40
SHORT_PROGRAM = 0x20  # from the beginning of the other


def program(crm: int, op2: int) -> bytes:
    """Replace each of X1 addresses from X0 on by the PAR_EL1 that it leads to."""
    return struct.pack(
        "<7I",
        0xF940_0002,  # loop: ldr  x2, [x0]
        0xD508_7002 | crm << 8 | op2 << 5,  # at   ..., x2
        0xD503_3FDF,  # isb
        0xD538_7402,  # mrs  x2, par_el1
        0xF800_8402,  # str  x2, [x0], #8
        0xF100_0421,  # subs x1, x1, #1
        0x54FF_FF41,  # b.ne loop
    )


def short_program(crm: int, op2: int) -> bytes:
    """Replace the address in X0 by the PAR_EL1 that it leads to."""
    return struct.pack(
        "<3I",
        0xD508_7000 | crm << 8 | op2 << 5,  # at   ..., x0
        0xD503_3FDF,  # isb
        0xD538_7400,  # mrs  x0, par_el1
    )


class UnicornMMU:
    """Unicorn's AArch64 MMU, holding one table image at a time."""

    def __init__(self) -> None:
        self._cpu = Uc(UC_ARCH_ARM64, UC_MODE_ARM)
        self._cpu.ctl_set_cpu_model(UC_CPU_ARM64_MAX)
        self._cpu.mem_map(PROGRAM, WINDOW_SIZE)
        self._cpu.mem_map(TABLES, TABLES_SIZE)
        self._entry: dict[str, int] = {}
        for number, (name, encoding) in enumerate(INSTRUCTIONS.items()):
            self._entry[name] = PROGRAM + number * PROGRAM_SIZE
            entry = self._entry[name]
            self._cpu.mem_write(entry, program(*encoding))
            self._cpu.mem_write(entry + SHORT_PROGRAM, short_program(*encoding))
        self._exceptions: list[int] = []
        self._cpu.hook_add(UC_HOOK_INTR, self._exception)
        self._set("SCR_EL3", SCR_RW_NS)
        self._enter(PSTATE_EL2H)
        self._loaded: dict[int, int] = {}

    def _set(self, register: str, value: int) -> None:
        """Write a system register."""
        self._cpu.reg_write(UC_ARM64_REG_CP_REG, (*REGISTERS[register], value))

    def _enter(self, pstate: int) -> None:
        """Go to an exception level; it counts from the next system register write."""
        self._cpu.reg_write(UC_ARM64_REG_PSTATE, pstate)
        self._set("HCR_EL2", HCR_RW)

    def _exception(self, cpu: Uc, number: int, _: object) -> None:
        """Note an exception instead of taking it."""
        self._exceptions.append(number)
        cpu.emu_stop()

    def load(self, registers: dict[str, int], memory: dict[int, int]) -> None:
        """Hold another image.

        Args:
            registers: TCR, MAIR, TTBR0, TTBR1 and maybe SCTLR.
            memory: address to word of the tables.
        """
        for pa in self._loaded.keys() - memory.keys():
            self._cpu.mem_write(pa, bytes(8))
        for pa, word in memory.items():
            self._cpu.mem_write(pa, word.to_bytes(8, "little"))
        self._loaded = memory
        for register, value in ({"SCTLR": SCTLR_MMU_ON} | registers).items():
            self._set(register, value)

    def translate(self, instruction: str, vas: list[int], pan: int = 0) -> list[int]:
        """PAR_EL1 after ``AT`` *instruction* for each of *vas*."""
        assert len(vas) <= LARGEST_BATCH
        self._cpu.mem_write(ADDRESSES, struct.pack(f"<{len(vas)}Q", *vas))
        self._cpu.reg_write(UC_ARM64_REG_X0, ADDRESSES)
        self._cpu.reg_write(UC_ARM64_REG_X1, len(vas))
        self._cpu.reg_write(UC_ARM64_REG_PSTATE, PSTATE_EL2H | pan * PSTATE_PAN)
        entry = self._entry[instruction]
        self._cpu.emu_start(entry, entry + 28)
        answers = self._cpu.mem_read(ADDRESSES, 8 * len(vas))
        return list(struct.unpack(f"<{len(vas)}Q", answers))

    def translate_one(self, instruction: str, va: int) -> int:
        """PAR_EL1 after ``AT`` *instruction* for *va*; PAN stays as it last was."""
        cpu = self._cpu
        cpu.reg_write(UC_ARM64_REG_X0, va)
        entry = self._entry[instruction] + SHORT_PROGRAM
        cpu.emu_start(entry, entry + 12)
        raw: int = cpu.reg_read(UC_ARM64_REG_X0)
        return raw

    def fetches(self, vas: list[int], el: int) -> list[bool]:
        """Whether an instruction fetch from each of *vas* at *el* translates."""
        self._enter(PSTATE_BY_EL[el])
        answers = []
        for va in vas:
            self._exceptions.clear()
            try:
                self._cpu.emu_start(va, va + 4, count=1)
            except UcError as error:
                # It got as far as physical memory, where there is nothing.
                if error.errno != UC_ERR_FETCH_UNMAPPED:
                    raise
            answers.append(INSTRUCTION_ABORT not in self._exceptions)
        self._enter(PSTATE_EL2H)
        return answers
