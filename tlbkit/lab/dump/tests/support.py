"""Page tables of a kernel that runs here, in the forms of tools for real ones."""

from tlbkit.arm64.fault import Fault
from tlbkit.arm64.machine import Machine
from tlbkit.arm64.permission import (
    EL0_EXECUTE,
    EL0_READ,
    EL0_WRITE,
    EL1_EXECUTE,
    EL1_READ,
    EL1_WRITE,
)
from tlbkit.arm64.walk import Table, walk
from tlbkit.patches.kernels import Kernel

LINEAR = 0xFFFF_0000_0000_0000
"""Where physical address 0 is in the kernel's own map."""


def running(cpu="neoverse-v2", thp="always"):
    """A process with pages of every kind, and the addresses to ask for."""
    kernel = Kernel(Machine(1, cpu))
    kernel.huge_memory.enabled = thp
    page = kernel.pgtable.page_size
    process = kernel.spawn()
    base = process.mmap(8 * page, addr=1 << 40)
    for n in range(4):
        process.write(base + n * page, n)
    process.read(base + 5 * page)
    process.mprotect(base + page, page, "r")
    process.mprotect(base + 2 * page, page, "none")
    process.mprotect(base + 3 * page, page, "rx")
    huge = kernel.pgtable.pmd_size
    block = process.mmap(2 * huge, addr=(1 << 40) + 64 * huge)
    process.write(block, 1)
    vas = [base + n * page + 8 for n in range(9)]
    return kernel, process, [*vas, block, block + huge - 8, block + huge]


def vtop(kernel, process, va):
    """What `crash` would print for one address."""
    regime = kernel.machine.cpus[process.cpu].regime
    granule, half = regime.halves[0].granule, regime.starts[0]
    memory = kernel.machine.memory
    tables: list[Table] = []
    found = walk(regime, memory, va, None, tables)
    hops = half[2]
    bases = [half[1], *(table.pa for table in tables)]
    names = dict(zip((3, 2, 1, 0), ("PTE", "PMD", "PUD", "PGD"), strict=True))
    lines = []
    for number, (base, hop) in enumerate(zip(bases, hops, strict=False)):
        pa = base + (va >> hop[0] & hop[1])
        name = "PGD" if not number else names[hop[3].level]
        lines.append(f"   {name}: {LINEAR + pa:x} => {memory.read(pa):x}")
    where = "(not mapped)"
    if not isinstance(found, Fault):
        where = f"{found.pa + va - found.va:x}"
    assert granule is not None
    return "\n".join(
        [
            f"crash> vtop {va:x}",
            "VIRTUAL           PHYSICAL        ",
            f"{va:<16x}  {where}",
            "",
            f"PAGE DIRECTORY: {LINEAR + bases[0]:x}",
            *lines,
            "",
        ]
    ), found


def rights(found, el):
    """What EL0 or EL1 may do by a translation, as a dump says it."""
    bits = (
        (EL1_READ, EL1_WRITE, EL1_EXECUTE) if el else (EL0_READ, EL0_WRITE, EL0_EXECUTE)
    )
    return "".join(
        letter if found.leaf.permissions & bit else "-"
        for letter, bit in zip("rwx", bits, strict=True)
    )
