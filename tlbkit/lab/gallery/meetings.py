"""Flows that meet: what the explorer lets interleave, and what must hold in the end.

Each meeting starts on a fresh kernel, with everything prepared that makes it short. The
threads that only use memory hold the kernel to its word: what a thread wrote, it reads
back, and what a child has got does not change. At the end all processes exit, and
nothing may be left over. Beside that the sanitizer looks at each step.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from tlbkit.arm64.fault import Fault
from tlbkit.arm64.machine import Machine
from tlbkit.arm64.models import NEOVERSE_V2, CpuModel, TlbGeometry
from tlbkit.arm64.walk import walk
from tlbkit.errors import TlbkitError
from tlbkit.explore.scheduler import Flow, World
from tlbkit.linux.arch.arm64.include.asm.pgtable import pte_uffd_wp
from tlbkit.linux.arch.arm64.mm.fault import OutOfMemoryError
from tlbkit.linux.include.linux.pagemap import folio_lock, folio_unlock
from tlbkit.linux.include.uapi.asm_generic.errno import Signal, SystemCallError
from tlbkit.linux.kernel.kernel import Kernel
from tlbkit.observe.sanitizer import Sanitizer

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from contextlib import AbstractContextManager

    from tlbkit.explore.scheduler import Scenario
    from tlbkit.linux.process import Process, Thread

PAGE: Final = 4096
BOOT_FRAMES: Final = 2

SMALL: Final = replace(
    NEOVERSE_V2, l2=TlbGeometry(1, 64, NEOVERSE_V2.l2.shifts), walk_cache=16
)
"""The CPU of the meetings: Grace with a TLB that is made in no time."""


class LostWriteError(TlbkitError):
    """A thread does not read what it wrote, though nobody else writes there.

    Attributes:
        address: Where it wrote.
        wrote: What.
    """

    def __init__(self, cpu: int, address: int, wrote: int, read: int) -> None:
        super().__init__(
            f"lost write: CPU {cpu} wrote {wrote:#x} to {address:#x}, "
            f"and {f'{read:#x}' if read >= 0 else 'nothing'} is there"
        )
        self.address = address
        self.wrote = wrote


class ChildChangedError(TlbkitError):
    """A child's private memory changed after it was forked."""

    def __init__(self, address: int, had: int, has: int) -> None:
        super().__init__(
            f"leak into a child: {address:#x} held {had:#x} after fork, now {has:#x}"
        )


class DisagreementError(TlbkitError):
    """Two CPUs read different words at one address of one process."""

    def __init__(self, address: int, words: list[int]) -> None:
        said = ", ".join(f"CPU {n} {word:#x}" for n, word in enumerate(words))
        super().__init__(f"CPUs disagree about {address:#x}: {said}")


class ForbiddenWriteError(TlbkitError):
    """A write succeeds after the call that forbids it has returned."""

    def __init__(self, address: int) -> None:
        super().__init__(f"a write to {address:#x} succeeds though it was forbidden")


class UnnoticedWriteError(TlbkitError):
    """A write to a page that userfaultfd protects, of which nobody was told."""

    def __init__(self, address: int) -> None:
        super().__init__(f"{address:#x} was written while it was write-protected")


class KilledError(TlbkitError):
    """A thread is killed for an access that it may make."""

    def __init__(self, cpu: int, signal: str) -> None:
        super().__init__(
            f"the thread on CPU {cpu} is killed, and did nothing: {signal}"
        )


class LeakError(TlbkitError):
    """Frames are in use after everybody has gone."""

    def __init__(self, frames: int) -> None:
        super().__init__(f"{frames} frames leaked: nobody is left who could free them")


class BrokenPromiseError(TlbkitError):
    """A pool keeps huge pages back for somebody who does not exist."""

    def __init__(self, pages: int) -> None:
        super().__init__(f"{pages} huge pages are promised, and nobody is left")


@dataclass
class Stage:
    """A fresh kernel, and what a meeting prepares on it.

    Attributes:
        kernel: The kernel.
        flows: The flows that meet.
        watched: Addresses at which all CPUs must agree in the end, with the process.
        ends: Further checks at the end.
        more: How much more often each thread uses memory than a meeting asks for.
    """

    kernel: Kernel
    flows: list[Flow] = field(default_factory=list)
    watched: list[tuple[Process, int]] = field(default_factory=list)
    ends: list[Callable[[], None]] = field(default_factory=list)
    more: int = 0

    def flow(self, name: str, cpu: int, run: Callable[[], None]) -> None:
        """Add a flow; an error of a call, a signal and the OOM killer only end it."""

        def forgiving() -> None:
            with contextlib.suppress(Signal, SystemCallError, OutOfMemoryError):
                run()

        self.flows.append(Flow(name, cpu, forgiving))

    def writer(self, thread: Thread, address: int, *, times: int = 1) -> None:
        """Add a flow that writes its own word, and reads it back.

        Args:
            thread: Whose CPU it runs on.
            address: Of the page; each CPU has a word of its own in it.
            times: How often.
        """
        word = address + 8 * thread.cpu

        def run() -> None:
            for n in range(times + self.more):
                value = 0x100 * (thread.cpu + 1) + n
                thread.write(word, value)
                found = thread.read(word)
                if found != value:
                    raise LostWriteError(thread.cpu, word, value, found)

        self.flow(f"thread on CPU {thread.cpu} writes", thread.cpu, run)

    def reader(self, thread: Thread, address: int, *, times: int = 2) -> None:
        """Add a flow that only reads."""

        def run() -> None:
            for _ in range(times + self.more):
                thread.read(address)

        self.flow(f"thread on CPU {thread.cpu} reads", thread.cpu, run)

    def finish(self) -> None:
        """Hold everybody to what must be true in the end."""
        self.look()
        self.leave()

    def look(self) -> None:
        """See whether everybody finds what is to be there."""
        cpus = range(len(self.kernel.machine.cpus))
        for process, address in self.watched:
            words = [_peek(process, address, cpu) for cpu in cpus]
            if len(set(words)) > 1:
                raise DisagreementError(address, words)
        self.kernel.page_alloc.fail = None
        for check in self.ends:
            check()

    def leave(self) -> None:
        """Let all processes end; nothing may be left over."""
        kernel = self.kernel
        for one in tuple(kernel.processes):
            one.exit()
        kernel.swap.lru_add_drain_all()
        self._drop_swap_cache()
        kernel.huge_memory.shrink_huge_zero_folio_scan()
        kernel.rcu.quiesce()
        if kernel.page_alloc.in_use != BOOT_FRAMES:
            raise LeakError(kernel.page_alloc.in_use - BOOT_FRAMES)
        for pool in kernel.hugetlb.hstates:
            if pool.free_huge_pages != pool.nr_huge_pages:
                used = pool.nr_huge_pages - pool.free_huge_pages
                raise LeakError(used << pool.order)
            if pool.resv_huge_pages:
                raise BrokenPromiseError(pool.resv_huge_pages)

    def _drop_swap_cache(self) -> None:
        """Free what reclaim has left in the swap cache for nobody, as it does later."""
        kernel = self.kernel
        for folio in tuple(kernel.swap_state.folios.values()):
            folio.refcount += 1
            folio_lock(kernel.machine, folio)
            kernel.swapfile.folio_free_swap(folio)
            folio_unlock(kernel.machine, folio)
            kernel.swap.folio_put(folio)


def _peek(process: Process, address: int, cpu: int) -> int:
    """Return what a CPU reads, or -1 where it may not."""
    try:
        return process.read(address, cpu=cpu)
    except Signal:
        return -1


def stored(process: Process, address: int) -> int:
    """Return what is stored at an address by the tables, or -1 if no page is there."""
    machine = process.mm.mmap_lock.machine
    found = walk(machine.cpus[0].regime, machine.memory, address)
    if isinstance(found, Fault):
        return -1
    return machine.memory.read(found.pa + address - found.va)


@dataclass(frozen=True)
class Meeting:
    """Flows that meet.

    Attributes:
        name: Short, for tables.
        title: In words.
        prepare: Puts the flows on a stage.
        chapter: The page of the book that tells of the flow that changes something.
        cpus: Of the machine.
        model: Of its CPUs.
    """

    name: str
    title: str
    prepare: Callable[[Stage], None]
    chapter: str
    cpus: int = 2
    model: CpuModel = SMALL

    def to_json(self) -> dict[str, Any]:
        """Return what can be told of it as a plain dictionary."""
        return {
            "name": self.name,
            "title": self.title,
            "cpus": self.cpus,
            "cpu": self.model.name,
            "chapter": self.chapter,
        }

    def scenario(
        self,
        taken_out: Collection[str] = (),
        machine: type[Machine] = Machine,
        rules: Callable[[Kernel], AbstractContextManager[object]] = Sanitizer,
        *,
        more: int = 0,
        leave: bool = True,
        boot: Callable[[Machine], Kernel] = Kernel,
    ) -> Scenario:
        """Return what makes the world of this meeting.

        Args:
            taken_out: What is taken out, once everything is prepared.
            machine: The class of machine.
            rules: Holds the kernel to its rules.
            more: As `Stage` says.
            leave: Whether all processes end when the flows are done.
            boot: Starts a kernel on a machine: another one than today's, if given.
        """
        points = frozenset(taken_out)

        def make() -> World:
            kernel = boot(machine(self.cpus, self.model))
            stage = Stage(kernel, more=more)
            self.prepare(stage)
            if points:
                kernel.machine.taken_out = points
            return World(
                kernel.machine,
                tuple(stage.flows),
                lambda _: rules(kernel),
                stage.finish if leave else stage.look,
                again=True,
            )

        return make


def _touched(stage: Stage, pages: int = 1) -> tuple[Process, Thread, int]:
    """Return a process on CPU 0, its thread on CPU 1, and pages that both have used."""
    process = stage.kernel.spawn(0)
    thread = process.thread(1)
    base = process.mmap(pages * PAGE)
    for page in range(pages):
        process.write(base + page * PAGE, 1)
        thread.write(base + page * PAGE + 8, 1)
    return process, thread, base


def expect_no_write(process: Process, address: int) -> None:
    """Hold a process to a protection that takes writing away."""
    try:
        process.write(address, 0)
    except Signal:
        return
    raise ForbiddenWriteError(address)


def _protect(stage: Stage) -> None:
    process, thread, base = _touched(stage)
    stage.flow("mprotect(r)", 0, lambda: process.mprotect(base, PAGE, "r"))
    stage.writer(thread, base, times=2)
    stage.ends.append(lambda: expect_no_write(process, base))


def _untouched(stage: Stage) -> tuple[Process, Thread, int]:
    """Return a process on CPU 0, its thread on CPU 1, and a page that none has used.

    The page beside it is in use, so that there are tables.
    """
    process, thread, base = _touched(stage, 2)
    process.munmap(base, PAGE)
    process.mmap(PAGE, addr=base, fixed=True)
    return process, thread, base


def _protect_untouched(stage: Stage) -> None:
    process, thread, base = _untouched(stage)
    stage.flow("mprotect(r)", 0, lambda: process.mprotect(base, PAGE, "r"))
    stage.writer(thread, base)
    stage.ends.append(lambda: expect_no_write(process, base))


def _unmap_untouched(stage: Stage) -> None:
    process, thread, base = _untouched(stage)
    stage.flow("munmap", 0, lambda: process.munmap(base, PAGE))
    stage.writer(thread, base)


def _permit(stage: Stage) -> None:
    process, thread, base = _touched(stage)
    process.mprotect(base, PAGE, "r")
    process.read(base)
    thread.read(base)
    stage.flow("mprotect(rw)", 0, lambda: process.mprotect(base, PAGE, "rw"))
    stage.writer(thread, base, times=2)
    stage.watched.append((process, base))


def _unmap(stage: Stage) -> None:
    process, thread, base = _touched(stage)
    other = process.mmap(PAGE)

    def run() -> None:
        process.munmap(base, PAGE)
        process.write(other, 5)  # a new page: the frame that was just freed

    stage.flow("munmap, then a new page", 0, run)
    stage.writer(thread, base, times=2)


def _exit(stage: Stage) -> None:
    process, _, _ = _touched(stage)
    stranger = stage.kernel.spawn(1)
    theirs = stranger.mmap(PAGE)
    stage.flow("exit", 0, process.exit)
    stage.writer(stranger, theirs, times=2)


def _fork(stage: Stage) -> None:
    process, thread, base = _touched(stage)
    children: list[tuple[Process, int]] = []
    word = base + 8

    def run() -> None:
        child = process.fork(0)
        children.append((child, child.read(word)))

    def unchanged() -> None:
        for child, had in children:
            has = child.read(word)
            if has != had:
                raise ChildChangedError(word, had, has)

    stage.flow("fork", 0, run)
    stage.writer(thread, base, times=2)
    stage.ends.append(unchanged)
    stage.watched.append((process, word))


def _shared(stage: Stage) -> tuple[Process, Thread, int]:
    """Return a process that shares a page with its child, read on both CPUs."""
    process, thread, base = _touched(stage)
    process.fork(0)
    process.read(base)
    thread.read(base)
    return process, thread, base


def _fork_and_unmap(stage: Stage) -> None:
    process, thread, base = _touched(stage)
    stage.flow("fork", 0, lambda: quiet(process.fork, 0))
    stage.flow("munmap", 1, lambda: thread.munmap(base, PAGE))


def _copy(stage: Stage) -> None:
    process, thread, base = _shared(stage)
    stage.writer(process, base)
    stage.reader(thread, base)
    stage.watched.append((process, base))


def _copies(stage: Stage) -> None:
    process, thread, base = _shared(stage)
    stage.writer(process, base)
    stage.writer(thread, base)
    stage.watched += [(process, base), (process, base + 8)]


def _copy_and_child(stage: Stage) -> None:
    process, _, base = _shared(stage)
    child = stage.kernel.processes[-1]
    child.migrate(1)
    child.read(base)
    stage.writer(process, base)
    stage.writer(child, base)


def _reuse(stage: Stage) -> None:
    process, thread, base = _shared(stage)
    stage.kernel.processes[-1].exit()
    stage.kernel.swap.lru_add_drain_all()
    process.read(base)
    thread.read(base)
    stage.writer(process, base)
    stage.writer(thread, base)
    stage.watched += [(process, base), (process, base + 8)]


def _first_touch(stage: Stage) -> None:
    process = stage.kernel.spawn(0)
    thread = process.thread(1)
    base = process.mmap(PAGE)
    stage.writer(process, base)
    stage.writer(thread, base)
    stage.watched += [(process, base), (process, base + 8)]


def _zero_page(stage: Stage) -> None:
    process = stage.kernel.spawn(0)
    thread = process.thread(1)
    base = process.mmap(PAGE)
    process.read(base)
    thread.read(base)
    stage.writer(process, base)
    stage.writer(thread, base)
    stage.watched += [(process, base), (process, base + 8)]


def _move(stage: Stage, *, thread_at: str, pages: int = 1) -> None:
    """MOVE of pages while a thread uses the source or the destination."""
    process, thread, base = _touched(stage, pages)
    target = process.mmap(pages * PAGE)
    fd = process.userfaultfd()
    fd.register(target, pages * PAGE)
    fd.serve(None)
    stage.flow("UFFDIO_MOVE", 0, lambda: quiet(fd.move, target, base, pages * PAGE))
    last = (pages - 1) * PAGE
    if thread_at == "destination":
        stage.writer(thread, target + last, times=2)
        return
    word = base + last + 8
    wrote: list[int] = []

    def write() -> None:
        for value in range(0x200, 0x202 + stage.more):
            thread.write(word, value)
            wrote.append(value)

    def kept() -> None:
        words = [stored(process, at) for at in (word, word - base + target)]
        if wrote and wrote[-1] not in words:
            raise LostWriteError(1, word, wrote[-1], words[0])

    stage.flow("thread on CPU 1 writes", 1, write)
    stage.ends.append(kept)


def quiet(call: Callable[..., object], *arguments: int) -> None:
    """Make a call whose answer nobody needs."""
    call(*arguments)


def keeps(
    stage: Stage,
    process: Process,
    thread: Thread,
    word: int,
    places: tuple[int, ...],
    *,
    times: int = 1,
) -> None:
    """Add a flow that writes to *word*; its last write must be in one of *places*.

    Args:
        stage: Where it goes.
        process: Who looks in the end; a page in swap is read in for it.
        thread: Who writes.
        word: An address.
        places: Addresses at which the page may be in the end.
        times: How often.
    """
    wrote: list[int] = []

    def write() -> None:
        for value in range(0x200, 0x200 + times + stage.more):
            thread.write(word, value)
            wrote.append(value)

    def kept() -> None:
        if wrote and all(_peek(process, at, 0) != wrote[-1] for at in places):
            found = stored(process, places[0])
            raise LostWriteError(thread.cpu, word, wrote[-1], found)

    stage.flow(f"thread on CPU {thread.cpu} writes", thread.cpu, write)
    stage.ends.append(kept)


def given_up(
    stage: Stage, process: Process, thread: Thread, base: int, length: int
) -> None:
    """Add a flow that gives pages up and has them reclaimed, and one that writes.

    What is written once MADV_FREE has returned is kept; what was there before may go.
    """
    word = base + 8
    freed: list[bool] = []
    wrote: list[int] = []

    def run() -> None:
        process.madvise(base, length, "free")
        freed.append(True)
        process.madvise(base, length, "pageout")

    def write() -> None:
        late = bool(freed)
        thread.write(word, 0x200)
        if late:
            wrote.append(0x200)

    def kept() -> None:
        found = _peek(process, word, 0)
        if wrote and wrote[-1] != found:
            raise LostWriteError(thread.cpu, word, wrote[-1], found)

    stage.flow("MADV_FREE, then MADV_PAGEOUT", 0, run)
    stage.flow(f"thread on CPU {thread.cpu} writes", thread.cpu, write)
    stage.ends.append(kept)


def reclaim(stage: Stage, base: int, cpu: int = 0) -> None:
    """Add a flow that reclaims a page or block, as kswapd does.

    It comes by the page, and takes no lock of the address space.

    Args:
        stage: Where it goes.
        base: Where the process on CPU 0 maps it.
        cpu: Where it runs.
    """
    kernel = stage.kernel
    kernel.swap.lru_add_drain_all()
    found = walk(kernel.machine.cpus[0].regime, kernel.machine.memory, base)
    assert not isinstance(found, Fault)
    folio = kernel.page_alloc.folio_of(found.pa // PAGE)
    vmscan = kernel.vmscan

    def run() -> None:
        if folio.refcount and vmscan.folio_isolate_lru(folio):
            vmscan.reclaim_pages([folio])

    stage.flow("reclaim", cpu, run)


def move_mapping(process: Process | Thread, old: int, length: int, new: int) -> None:
    """Move a mapping to another address with mremap, whatever is there."""
    process.mremap(old, length, length, maymove=True, fixed=True, new_address=new)


def _moves(stage: Stage) -> None:
    process, thread, base = _touched(stage)
    target = process.mmap(PAGE)
    fd = process.userfaultfd()
    fd.register(target, PAGE)
    other = fd.used_by(thread)
    stage.flow("UFFDIO_MOVE on CPU 0", 0, lambda: quiet(fd.move, target, base, PAGE))
    stage.flow("UFFDIO_MOVE on CPU 1", 1, lambda: quiet(other.move, target, base, PAGE))


def _move_and_protect(stage: Stage) -> None:
    process, thread, base = _touched(stage)
    target = process.mmap(PAGE)
    fd = process.userfaultfd()
    fd.register(target, PAGE)
    stage.flow("UFFDIO_MOVE", 0, lambda: quiet(fd.move, target, base, PAGE))
    stage.flow("mprotect(r)", 1, lambda: thread.mprotect(base, PAGE, "r"))


def _move_and_unmap(stage: Stage) -> None:
    process, thread, base = _touched(stage)
    target = process.mmap(PAGE)
    fd = process.userfaultfd()
    fd.register(target, PAGE)
    stage.flow("UFFDIO_MOVE", 0, lambda: quiet(fd.move, target, base, PAGE))
    stage.flow("munmap", 1, lambda: thread.munmap(base, PAGE))


def _writeprotect(stage: Stage) -> None:
    process, thread, base = _touched(stage)
    fd = process.userfaultfd("WP_ASYNC")
    fd.register(base, PAGE, missing=False, wp=True)
    stage.flow("UFFDIO_WRITEPROTECT", 0, lambda: fd.writeprotect(base, PAGE))
    stage.writer(thread, base, times=2)
    stage.watched.append((process, base + 8))


def _writeprotect_cold(stage: Stage) -> None:
    process = stage.kernel.spawn(0)
    thread = process.thread(1)
    base = process.mmap(PAGE)
    process.write(base, 1)
    fd = process.userfaultfd("WP_ASYNC")
    fd.register(base, PAGE, missing=False, wp=True)
    stage.flow("UFFDIO_WRITEPROTECT", 0, lambda: fd.writeprotect(base, PAGE))
    stage.writer(thread, base)
    stage.watched += [(process, base), (process, base + 8)]


def _writeprotects(stage: Stage) -> None:
    process, thread, base = _touched(stage)
    fd = process.userfaultfd("WP_ASYNC")
    fd.register(base, PAGE, missing=False, wp=True)
    other = fd.used_by(thread)
    machine = stage.kernel.machine
    ptep = stage.kernel.pgtable.find_pte(process.mm, base)
    assert ptep is not None

    def run() -> None:
        other.writeprotect(base, PAGE)
        # Nothing comes between the look at the entry and the access.
        marked = pte_uffd_wp(machine.memory.read(ptep))
        if machine.cpu(1).write(base + 8, 2) is None and marked:
            raise UnnoticedWriteError(base)

    stage.flow("UFFDIO_WRITEPROTECT", 0, lambda: fd.writeprotect(base, PAGE))
    stage.flow("UFFDIO_WRITEPROTECT, then a write", 1, run)


def _writeprotect_and_unmap(stage: Stage) -> None:
    process, thread, base = _touched(stage)
    fd = process.userfaultfd("WP_ASYNC")
    fd.register(base, PAGE, missing=False, wp=True)
    stage.flow("UFFDIO_WRITEPROTECT", 0, lambda: fd.writeprotect(base, PAGE))
    stage.flow("munmap", 1, lambda: thread.munmap(base, PAGE))


def _move_and_fill(stage: Stage) -> None:
    process, thread, base = _touched(stage)
    target = process.mmap(PAGE)
    fd = process.userfaultfd()
    fd.register(target, PAGE)
    other = fd.used_by(thread)
    stage.flow("UFFDIO_MOVE", 0, lambda: quiet(fd.move, target, base, PAGE))
    stage.flow("UFFDIO_ZEROPAGE", 1, lambda: quiet(other.zeropage, target, PAGE))


def _move_run_and_fill(stage: Stage) -> None:
    process, thread, base = _touched(stage, 2)
    target = process.mmap(2 * PAGE)
    fd = process.userfaultfd()
    fd.register(target, 2 * PAGE)
    other = fd.used_by(thread)
    last = target + PAGE
    stage.flow("UFFDIO_MOVE", 0, lambda: quiet(fd.move, target, base, 2 * PAGE))
    stage.flow("UFFDIO_ZEROPAGE", 1, lambda: quiet(other.zeropage, last, PAGE))


def _move_zeros(stage: Stage) -> None:
    process = stage.kernel.spawn(0)
    thread = process.thread(1)
    base = process.mmap(PAGE)
    process.read(base)
    thread.read(base)
    target = process.mmap(PAGE)
    fd = process.userfaultfd()
    fd.register(target, PAGE)
    wrote: list[int] = []

    def write() -> None:
        thread.write(base, 2)
        wrote.append(2)

    def kept() -> None:
        words = [stored(process, at) for at in (base, target)]
        if wrote and wrote[-1] not in words:
            raise LostWriteError(1, base, wrote[-1], words[0])

    stage.flow("UFFDIO_MOVE", 0, lambda: quiet(fd.move, target, base, PAGE))
    stage.flow("thread on CPU 1 writes", 1, write)
    stage.ends.append(kept)


def _move_and_unmap_target(stage: Stage) -> None:
    process, thread, base = _touched(stage)
    target = process.mmap(PAGE)
    fd = process.userfaultfd()
    fd.register(target, PAGE)
    stage.flow("UFFDIO_MOVE", 0, lambda: quiet(fd.move, target, base, PAGE))
    stage.flow("munmap", 1, lambda: thread.munmap(target, PAGE))


def _contiguous(stage: Stage) -> tuple[Process, Thread, int]:
    """Return a process whose 16 pages are one contiguous block, in both TLBs."""
    stage.kernel.huge_memory.set_hugepages_enabled(64, "always")
    process = stage.kernel.spawn(0)
    thread = process.thread(1)
    base = -(-process.mmap(32 * PAGE) // (16 * PAGE)) * 16 * PAGE
    process.write(base, 1)
    thread.write(base + 8, 1)
    return process, thread, base


def _unfold(stage: Stage) -> None:
    process, thread, base = _contiguous(stage)
    stage.flow("mprotect(r) of one page", 0, lambda: process.mprotect(base, PAGE, "r"))
    stage.writer(thread, base + PAGE)
    stage.watched.append((process, base + PAGE + 8))


def _fork_contiguous(stage: Stage) -> None:
    process, thread, base = _contiguous(stage)
    stage.flow("fork", 0, lambda: quiet(process.fork, 0))
    stage.writer(thread, base)
    stage.watched.append((process, base + 8))


def _fills(stage: Stage) -> None:
    process, thread, base = _touched(stage)
    target = process.mmap(PAGE)
    fd = process.userfaultfd()
    fd.register(target, PAGE)
    other = fd.used_by(thread)
    stage.flow("UFFDIO_COPY", 0, lambda: quiet(fd.copy, target, base, PAGE))
    stage.flow("UFFDIO_ZEROPAGE", 1, lambda: quiet(other.zeropage, target, PAGE))


_CONTPTE: Final = "book/machine/tlb.md"
_FAULT: Final = "book/kernel/fault-path.md"
_FORK: Final = "book/kernel/fork.md"
_GATHER: Final = "book/kernel/mmu-gather.md"
_MOVE: Final = "book/commits/userfaultfd-move.md"
_MPROTECT: Final = "book/commits/mprotect.md"
_WRITE_FAULT: Final = "book/commits/write-fault.md"

MEETINGS: Final = {
    one.name: one
    for one in (
        Meeting("protect", "mprotect(r) while a thread writes", _protect, _MPROTECT),
        Meeting("permit", "mprotect(rw) while a thread writes", _permit, _MPROTECT),
        Meeting(
            "unmap", "munmap and a new page, while a thread writes", _unmap, _GATHER
        ),
        Meeting("exit", "exit while another process works", _exit, _GATHER),
        Meeting("fork", "fork while a thread writes", _fork, _FORK),
        Meeting("fork and unmap", "fork and munmap", _fork_and_unmap, _FORK),
        Meeting("copy", "copy on write while a thread reads", _copy, _FAULT),
        Meeting("copies", "two threads write to a shared page", _copies, _FAULT),
        Meeting(
            "child", "parent and child write to a shared page", _copy_and_child, _FAULT
        ),
        Meeting(
            "reuse", "two threads write to a page that was shared", _reuse, _WRITE_FAULT
        ),
        Meeting(
            "first touch", "two threads write where no page is", _first_touch, _FAULT
        ),
        Meeting(
            "zero page", "two threads write to the zero page", _zero_page, _WRITE_FAULT
        ),
        Meeting(
            "move source",
            "UFFDIO_MOVE while a thread writes to the source",
            lambda stage: _move(stage, thread_at="source"),
            _MOVE,
        ),
        Meeting(
            "move run",
            "UFFDIO_MOVE of two pages while a thread writes to the second",
            lambda stage: _move(stage, thread_at="source", pages=2),
            _MOVE,
        ),
        Meeting(
            "move target",
            "UFFDIO_MOVE while a thread writes to the destination",
            lambda stage: _move(stage, thread_at="destination"),
            _MOVE,
        ),
        Meeting("moves", "two UFFDIO_MOVE of one page", _moves, _MOVE),
        Meeting(
            "move and protect", "UFFDIO_MOVE and mprotect(r)", _move_and_protect, _MOVE
        ),
        Meeting("move and unmap", "UFFDIO_MOVE and munmap", _move_and_unmap, _MOVE),
        Meeting(
            "write-protect",
            "UFFDIO_WRITEPROTECT and a writer",
            _writeprotect,
            _MPROTECT,
        ),
        Meeting(
            "protect untouched",
            "mprotect(r) while a thread writes where no page is",
            _protect_untouched,
            _MPROTECT,
        ),
        Meeting(
            "unmap untouched",
            "munmap while a thread writes where no page is",
            _unmap_untouched,
            _GATHER,
        ),
        Meeting(
            "write-protect cold",
            "UFFDIO_WRITEPROTECT while a thread writes for the first time",
            _writeprotect_cold,
            _MPROTECT,
        ),
        Meeting(
            "write-protects",
            "two UFFDIO_WRITEPROTECT, and a write after the second",
            _writeprotects,
            _GATHER,
        ),
        Meeting(
            "write-protect and unmap",
            "UFFDIO_WRITEPROTECT and munmap",
            _writeprotect_and_unmap,
            _MPROTECT,
        ),
        Meeting(
            "move and fill", "UFFDIO_MOVE and UFFDIO_ZEROPAGE", _move_and_fill, _MOVE
        ),
        Meeting(
            "move run and fill",
            "UFFDIO_MOVE of two pages and UFFDIO_ZEROPAGE of the second",
            _move_run_and_fill,
            _MOVE,
        ),
        Meeting(
            "move zeros",
            "UFFDIO_MOVE of the zero page while a thread writes to it",
            _move_zeros,
            _MOVE,
        ),
        Meeting(
            "move and unmap target",
            "UFFDIO_MOVE and munmap of the destination",
            _move_and_unmap_target,
            _MOVE,
        ),
        Meeting(
            "unfold", "mprotect(r) of a page of a contiguous block", _unfold, _CONTPTE
        ),
        Meeting(
            "fork contiguous",
            "fork while a contiguous block is written",
            _fork_contiguous,
            _CONTPTE,
        ),
        Meeting("fills", "UFFDIO_COPY and UFFDIO_ZEROPAGE of one page", _fills, _MOVE),
    )
}
"""Every meeting, by its name."""
