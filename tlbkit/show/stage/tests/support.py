"""Recordings of watched pages, at random and small."""

from tlbkit import Kernel, Machine
from tlbkit.observe.recorder import recording
from tlbkit.observe.tests.support import PAGE, PAGES, Program


def taped(steps, model="neoverse-n1", version="v6.19"):
    """Play a random program whose pages are watched; return it and the recording."""
    program = Program(model, version)
    program.parent.write(program.base, 1)
    pages = [program.base + page * PAGE for page in range(PAGES)]
    with recording(program.machine, pages) as recorder:
        program.play(steps)
    return program, recorder.finish()


def small(version="v6.19", without=()):
    """CPU 0 writes two pages of a forked process that CPU 1 has read."""
    machine = Machine(4, "neoverse-n1")
    process = Kernel(machine, version).spawn()
    base = process.mmap(2 * PAGE, "rw")
    pages = [base, base + PAGE]
    for page in pages:
        process.write(page, 1)
    child = process.fork(cpu=3)
    for page in pages:
        process.read(page, cpu=1)
    if not without:
        child.exit()
    machine.taken_out = frozenset(without)
    with recording(machine, pages) as recorder:
        for page in pages:
            process.write(page, 2)
    return recorder.finish()
