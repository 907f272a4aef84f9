"""What the explorer's tests share: small worlds, a rule, and all ways to end."""

from contextlib import contextmanager
from dataclasses import replace

from tlbkit.arm64.fault import Fault
from tlbkit.arm64.machine import Machine
from tlbkit.arm64.models import NEOVERSE_V2, TlbGeometry
from tlbkit.arm64.permission import EL0_READ, EL0_WRITE
from tlbkit.arm64.tests.support import booted
from tlbkit.arm64.tlbi import encode_va
from tlbkit.arm64.walk import walk
from tlbkit.errors import TlbkitError
from tlbkit.explore.scheduler import Flow, World
from tlbkit.explore.search import explore
from tlbkit.linux.include.uapi.asm_generic.errno import Signal
from tlbkit.linux.kernel.kernel import Kernel
from tlbkit.linux.kernel.locking import SpinLock

PAGE = 4096
SMALL = replace(NEOVERSE_V2, l2=TlbGeometry(1, 64, NEOVERSE_V2.l2.shifts))
ASID = 5


class StaleError(TlbkitError):
    """The rule of these tests: nobody does what the tables forbid."""


@contextmanager
def nobody_trespasses(machine, kernel=None):
    """An access goes where the tables say, unless somebody is still changing them."""

    def hear(event):
        cpu = machine.cpus[event.cpu]
        mm = kernel.sched.current[event.cpu] if kernel else None
        if mm is not None and (mm.tlb_flush_pending or mm.mmap_lock.writer):
            return
        need = EL0_WRITE if event.kind == "write" else EL0_READ
        found = walk(cpu.regime, machine.memory, event.what.va)
        if isinstance(found, Fault) or (
            found.pa + event.what.va - found.va != event.what.pa
            or not found.leaf.permissions_dirty & need
        ):
            raise StaleError(f"CPU {event.cpu}: {event.kind} {event.what.va:#x}")

    machine.events.listen(hear, {"read", "write"})
    try:
        yield
    finally:
        machine.events.leave(hear)


def process_world(operation, *, without=(), writes=2, rules=True):
    """CPU 0 makes a system call; CPU 1, of the same process, writes to the page."""

    def scenario():
        machine = Machine(2, SMALL)
        kernel = Kernel(machine)
        process = kernel.spawn(0)
        thread = process.thread(1)
        base = process.mmap(PAGE)
        thread.write(base, 1)
        machine.taken_out = frozenset(without)

        def write():
            try:
                for value in range(writes):
                    thread.write(base, value)
            except Signal:
                pass

        calls = {
            "mprotect": lambda: process.mprotect(base, PAGE, "r"),
            "munmap": lambda: process.munmap(base, PAGE),
            "write": lambda: process.write(base, 9),
        }
        flows = Flow(operation, 0, calls[operation]), Flow("writes", 1, write)
        if not rules:
            return World(machine, flows)
        return World(machine, flows, lambda m: nobody_trespasses(m, kernel))

    return scenario


def program_world(programs, ends=None):
    """Flows of single steps on a bare machine; each list in *programs* is one flow.

    Steps: ``("store", word)``, ``("load", word)``, ``("add", lock, word)`` under a
    lock, ``("access", page)``, ``("unmap", page)``, ``("flush", page)``. What the
    flows saw, and what is left, goes into *ends*.
    """

    def scenario():
        machine, space = booted(len(programs), l2=TlbGeometry(1, 16, frozenset({12})))
        places = [space.map(page * PAGE, 0x8000_0000 + page * PAGE) for page in (1, 2)]
        locks = [SpinLock(machine, f"lock {n}") for n in range(2)]
        seen: list[list[object]] = [[] for _ in programs]

        def flow(number):
            cpu = machine.cpus[number]

            def run():
                for step in programs[number]:
                    take(cpu, number, *step)

            return run

        def take(cpu, number, what, *on):
            word = 0x7000_0000 + 8 * on[-1]
            match what:
                case "store":
                    cpu.store(word, 2 * (number + 1))
                case "load":
                    seen[number].append(machine.memory.read(word))
                    cpu.isb()
                case "add":
                    with locks[on[0]]:
                        old = machine.memory.read(word)
                        cpu.isb()
                        cpu.store(word, old + 2)
                case "access":
                    seen[number].append(str(cpu.read((1 + on[0]) * PAGE)))
                case "unmap":
                    cpu.store(places[on[0]], 0)
                case "flush":
                    cpu.dsb("ishst")
                    cpu.tlbi("VALE1IS", encode_va((1 + on[0]) * PAGE, ASID))
                    cpu.dsb("ish")

        def finish():
            if ends is not None:
                words = tuple(machine.memory.read(0x7000_0000 + 8 * n) for n in (0, 1))
                held = tuple(frozenset(cpu.tlb.entries()) for cpu in machine.cpus)
                ends.add((words, held, tuple(map(tuple, seen))))

        flows = tuple(Flow(f"P{n}", n, flow(n)) for n in range(len(programs)))
        return World(machine, flows, nobody_trespasses, finish)

    return scenario


def everything(programs, **how):
    """All that some flows can end with, and whether one of their schedules fails."""
    ends: set[object] = set()
    search = explore(program_world(programs, ends), **how)
    return ends, search.breach is not None
