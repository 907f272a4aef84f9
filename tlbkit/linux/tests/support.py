"""What the kernel's tests share: small kernels, and what an operation issued."""

from dataclasses import replace

from tlbkit.arm64.machine import Machine
from tlbkit.arm64.models import find_model
from tlbkit.observe.counters import counting
from tlbkit.observe.sanitizer import Sanitizer
from tlbkit.patches.kernels import Kernel

PAGE = 4096


def boot(
    kernel="v6.19",
    *,
    cpus=4,
    model="neoverse-v2",
    without=(),
    rules=True,
    **changes,
):
    """Start *kernel* on a machine whose CPUs are *model* with *changes*.

    It is held to the *rules* of the sanitizer, except in tests that break one: by
    design, or because they change entries themselves and not as a kernel would.
    """
    machine = Machine(cpus, replace(find_model(model), **changes))
    started = Kernel(machine, kernel, without)
    if rules:
        Sanitizer(started).start()
    return started


def touched(kernel, pages, prot="rw", *, cpus=(0,)):
    """Map *pages* pages, write number i to page i from *cpus* in turn, set *prot*."""
    process = kernel.spawn()
    base = process.mmap(pages * kernel.pgtable.page_size, "rw")
    for page in range(pages):
        address = base + page * kernel.pgtable.page_size
        process.write(address, page, cpu=cpus[page % len(cpus)])
    if prot != "rw":
        process.mprotect(base, pages * kernel.pgtable.page_size, prot)
    return process, base


def issued(kernel, operation):
    """Run *operation* and return what it issued."""
    with counting(kernel.machine) as counts:
        operation()
    return counts


def pin(kernel, mm, folio):
    """Pin a folio that *mm* maps, past the tables."""
    mm.has_pinned = True
    kernel.gup.try_grab_folio(folio)


def total(counts):
    """How many TLBI instructions were issued, of whatever form."""
    return sum(counts.tlbi.values())


def stale(kernel, process, cpu, address):
    """The entry that CPU *cpu* holds for *address* of *process*, if any."""
    asid = kernel.context.asid(process.mm)
    found = [
        entry
        for entry in kernel.machine.cpu(cpu).tlb.entries()
        if entry.asid in (asid, asid | kernel.machine.model.kpti)
        and entry.va >> entry.shift == address >> entry.shift
    ]
    return found[0] if found else None
