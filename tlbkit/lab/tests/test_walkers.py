"""Walkers in tables that change hands: each thing that keeps them honest, taken out."""

from dataclasses import replace

import pytest

from tlbkit.explore.scheduler import Run
from tlbkit.explore.search import explore, replay
from tlbkit.lab.gallery.meetings import SMALL
from tlbkit.lab.gallery.walkers import (
    BASE,
    HUGE,
    SECRET,
    StolenPageError,
    sharers,
    unshare_and_walk,
)
from tlbkit.linux.include.linux.mm_types import ptdesc_pmd_pts_count
from tlbkit.linux.include.linux.pgtable import PGTABLE_LEVEL_PUD
from tlbkit.linux.include.uapi.asm_generic.errno import Signal
from tlbkit.linux.kernel.kernel import PARTS
from tlbkit.linux.mm.mmu_gather import Gather
from tlbkit.patches.unshare_walk_cache import TlbBefore

WALK, LEAVE, REUSE, OTHER = range(4)


def in_the_table(event):
    """The walker has read the PUD entry, and knows where the table is."""
    return event.kind == "gup read" and event.what[0] == PGTABLE_LEVEL_PUD


def of_kind(kind):
    """An event of this kind."""
    return lambda event: event.kind == kind


def never(_event):
    """Not before the flow can go on no more."""
    return False


def directed(scenario, *phases):
    """Run a world by hand, and return its run.

    Each phase is a flow and what must have happened for the next one to begin; a flow
    that cannot go on ends its phase too. Afterwards whoever can go on goes on, the
    walker last.
    """
    world = scenario()
    left = list(phases)
    log = []

    def hear(event):
        log.append(event)
        if left and event.cpu == world.flows[left[0][0]].cpu and left[0][1](event):
            left.pop(0)

    def decide(run):
        enabled = run.enabled()
        while left and left[0][0] not in enabled:
            left.pop(0)
        if left:
            return left[0][0]
        return next(n for n in (REUSE, LEAVE, OTHER, WALK) if n in enabled)

    world.machine.events.listen(hear)
    run = Run(world, decide)
    run.go()
    return run, log


STALL = ((WALK, in_the_table), (LEAVE, never), (REUSE, never))
"""The walker knows the table and stalls; all others go as far as they can."""


# -- the kernel as it is ---------------------------------------------------------------


def test_the_interrupt_waits_for_the_walker_and_the_reuse_for_the_interrupt():
    """The walker has its interrupts off, so nobody changes the table before it ends."""
    run, log = directed(unshare_and_walk(2), *STALL)
    assert run.error is None
    kinds = [(event.cpu, event.kind, event.what) for event in log]
    sent = next(n for n, event in enumerate(log) if event.kind == "ipi")
    ended = kinds.index((0, "irq", "on"))
    reused = next(
        n for n, event in enumerate(log) if event.cpu == 2 and event.kind == "store"
    )
    assert sent < ended < reused
    taken = [event for event in log if event.kind == "gup take"]
    assert taken, "what it brings home is a page of the file"


@pytest.mark.parametrize("first", [LEAVE, OTHER])
def test_of_three_the_last_to_leave_sends_it_for_all(first):
    """The first leaver sends nothing; the second drains the first one's walker too."""
    second = OTHER if first == LEAVE else LEAVE
    run, log = directed(
        unshare_and_walk(3),
        (WALK, in_the_table),
        (first, never),
        (second, never),
        (REUSE, never),
    )
    assert run.error is None
    (ipi,) = [event for event in log if event.kind == "ipi"]
    assert ipi.cpu == {LEAVE: 1, OTHER: 3}[second]
    assert set(ipi.what) == set(range(4)) - {ipi.cpu}


def test_no_schedule_with_one_preemption_steals_a_page():
    """The explorer finds nothing as long as nothing is taken out."""
    search = explore(unshare_and_walk(2), preemptions=1, loads=True)
    assert search.breach is None
    assert search.complete


# -- the counter-examples --------------------------------------------------------------


def test_without_the_interrupt_the_explorer_finds_the_theft():
    """M1: one preemption, after the walker has read the PUD entry, is enough."""
    scenario = unshare_and_walk(2, taken_out={"ipi in tlb_flush_unshared_tables"})
    search = explore(scenario, preemptions=1)
    assert search.breach is not None
    assert isinstance(search.breach.error, StolenPageError)
    assert search.breach.preemptions == 1
    again = replay(scenario, search.breach.schedule)
    assert str(again.error) == str(search.breach.error)
    by_hand, _ = directed(scenario, *STALL)
    assert str(by_hand.error) == str(search.breach.error)


def count_of(kernel, mm):
    """How many others share the table of the first page, or None without one."""
    pmdp = kernel.pgtable.find_pmd(mm, BASE)
    return pmdp and ptdesc_pmd_pts_count(kernel.hugetlb.ptdesc(pmdp))


class OnlyMine(Gather):
    """M2: the interrupt goes to the CPUs of the one who leaves."""

    def tlb_flush_unshared_tables(self, tlb):
        """Interrupt those that ever ran the address space."""
        self.tlb_flush_mmu_tlbonly(tlb)
        if tlb.fully_unshared_tables:
            machine = self._kernel.machine
            mine = [machine.cpu(n) for n in sorted(tlb.mm.cpumask)]
            machine.send_ipi(mine, lambda _: None, "M2")
            tlb.fully_unshared_tables = False


class TooLate(Gather):
    """M3: flush and interrupt are left to the end of the gather."""

    def tlb_flush_unshared_tables(self, tlb):
        """Do nothing yet."""

    def tlb_finish_mmu(self, tlb):
        """Do it now."""
        super().tlb_flush_unshared_tables(tlb)
        super().tlb_finish_mmu(tlb)


class TooEarly(Gather):
    """M5: the interrupt comes before the entry is cleared."""

    def tlb_gather_mmu(self, mm):
        """Interrupt everybody to begin with, if one other process is left."""
        if count_of(self._kernel, mm) == 1:
            self.tlb_remove_table_sync_one()
        return super().tlb_gather_mmu(mm)

    def tlb_flush_unshared_tables(self, tlb):
        """Flush only."""
        tlb.fully_unshared_tables = False
        super().tlb_flush_unshared_tables(tlb)


class Forgetful(Gather):
    """M6: every flush forgets that the interrupt is due."""

    def _reset_range(self, tlb):
        super()._reset_range(tlb)
        tlb.fully_unshared_tables = False


class Hasty(Gather):
    """M7: who is the last is decided before the lock is taken."""

    def tlb_gather_mmu(self, mm):
        """Look at the count now."""
        tlb = super().tlb_gather_mmu(mm)
        tlb.vma_exec = count_of(self._kernel, mm) == 1
        return tlb

    @staticmethod
    def tlb_update_vma_flags(tlb, vma):
        """Leave the flag alone that holds the decision."""

    def tlb_unshare_pmd_ptdesc(self, tlb, table, address):
        """Go by what the count was."""
        super().tlb_unshare_pmd_ptdesc(tlb, table, address)
        tlb.fully_unshared_tables = tlb.vma_exec


@pytest.mark.parametrize(
    ("gather", "number", "phases"),
    [
        (OnlyMine, 3, ((WALK, in_the_table), (LEAVE, never), (OTHER, never))),
        (TooLate, 2, ((WALK, in_the_table), (REUSE, never))),
        (
            TooEarly,
            2,
            (
                (LEAVE, of_kind("notifier range")),
                (WALK, in_the_table),
                (LEAVE, never),
            ),
        ),
        (Forgetful, 2, STALL),
        (
            Hasty,
            3,
            (
                (LEAVE, of_kind("notifier range")),
                (OTHER, of_kind("notifier range")),
                (WALK, in_the_table),
                (LEAVE, never),
                (OTHER, never),
            ),
        ),
    ],
)
def test_each_mistake_lets_a_page_be_stolen(gather, number, phases):
    """Each mistake has a schedule that fails; the kernel as it is passes the same."""
    scenario = unshare_and_walk(number, parts={**PARTS, "gather": gather})
    run, _ = directed(scenario, *phases)
    assert isinstance(run.error, StolenPageError)
    right, _ = directed(unshare_and_walk(number), *phases)
    assert right.error is None


def test_with_two_sharers_an_interrupt_to_the_leavers_cpus_is_enough():
    """M2 is seen with three sharers only: then a walker of another process is left."""
    run, _ = directed(unshare_and_walk(2, parts={**PARTS, "gather": OnlyMine}), *STALL)
    assert run.error is None


# -- the hardware twin -----------------------------------------------------------------


class NotLast(Gather):
    """M4: who is not the last leaves its flush out, as it does the interrupt."""

    def tlb_unshare_pmd_ptdesc(self, tlb, table, address):
        """Record nothing if others stay."""
        super().tlb_unshare_pmd_ptdesc(tlb, table, address)
        if not tlb.fully_unshared_tables:
            self._reset_range(tlb)


def what_a_stale_way_reads(parts, number=2, model=SMALL):
    """What a thread of the last process reads at BASE when all have left and reused.

    It has used the second page before, so its CPU knows the way to the table, but not
    the first page; None if it is told that nothing is mapped there.
    """
    scene = sharers(number, parts, model)
    last = scene.processes[-1]
    thread = last.thread(0)
    thread.read(BASE + HUGE)
    for process in reversed(scene.processes[1:]):
        scene.leave(process, process.cpu)
    scene.reuse()
    try:
        return thread.read(BASE)
    except Signal:
        return None


def test_a_leaf_only_flush_leaves_the_way_to_the_table():
    """M8: CPU 0 still has the PUD entry, and reads what the new owner put there."""
    assert what_a_stale_way_reads({**PARTS, "tlb": TlbBefore}) == SECRET
    assert what_a_stale_way_reads(PARTS) is None


@pytest.mark.parametrize(
    "hides", [{"range_tlbi": False}, {"walk_cache": 0}], ids=["no range", "no cache"]
)
def test_other_cpus_hide_the_leaf_only_flush(hides):
    """Without range TLBIs one GiB is flushed by ASID; without a walk cache, no way."""
    model = replace(SMALL, **hides)
    parts = {**PARTS, "tlb": TlbBefore}
    assert what_a_stale_way_reads(parts, model=model) is None


@pytest.mark.parametrize("number", [2, 3])
def test_the_flush_is_due_whoever_is_last(number):
    """M4: the last one flushes its own ASID, not that of those who left before."""
    parts = {**PARTS, "gather": NotLast}
    assert what_a_stale_way_reads(parts, number) == (SECRET if number == 3 else None)
    assert what_a_stale_way_reads(PARTS, number) is None
