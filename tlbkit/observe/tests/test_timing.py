"""Clocks, and who waits for whom."""

import pickle

import pytest
from hypothesis import given, settings

from tlbkit import Kernel, Machine
from tlbkit.linux.kernel.locking import RwSemaphore, SpinLock
from tlbkit.observe.costs import COSTS
from tlbkit.observe.tests.support import PAGE, STEPS, Program
from tlbkit.observe.timing import OTHER_BROADCASTS, OTHER_TLBS, timing

NS = {name: cost.ns for name, cost in COSTS.items()}


def bill_of(machine, operation):
    """Run *operation* and return its bill."""
    with timing(machine) as clocks:
        operation()
    return clocks.bill()


@settings(max_examples=30, deadline=None)
@given(STEPS)
def test_time_is_paid_or_waited(steps):
    """What all CPUs spent is what was paid for and what they waited, nothing else."""
    program = Program()
    bill = bill_of(program.machine, lambda: program.play(steps))
    paid = sum(line.ns for line in bill.lines)
    own = {OTHER_TLBS, OTHER_BROADCASTS}  # these have a price of their own
    waited = sum(ns for (_, what), ns in bill.waits.items() if what not in own)
    assert sum(bill.cpus.values()) == pytest.approx(paid + waited)
    assert bill.elapsed_ns <= sum(bill.cpus.values())


@settings(max_examples=20, deadline=None)
@given(STEPS, STEPS)
def test_time_only_grows(first, second):
    """Nothing that happens later makes a clock go back."""
    program = Program()
    with timing(program.machine) as clocks:
        program.play(first)
        early = clocks.bill()
        program.play(second)
    late = clocks.bill()
    assert all(late.cpus[cpu] >= ns for cpu, ns in early.cpus.items())


def test_nothing_takes_no_time():
    """A window in which nothing happens is free."""
    assert bill_of(Machine(), lambda: None).elapsed_ns == 0


@pytest.mark.parametrize(("kernel", "published"), [("v6.17", 3200), ("v6.19", 2850)])
def test_the_calibrated_figures_come_out(kernel, published):
    """One page none->rw takes what the changelog says, before and after."""
    machine = Machine(8)
    process = Kernel(machine, kernel).spawn()
    address = process.mmap(PAGE)
    process.write(address, 1)
    process.mprotect(address, PAGE, "none")
    bill = bill_of(machine, lambda: process.mprotect(address, PAGE, "rw"))
    assert bill.elapsed_ns == pytest.approx(published)


@pytest.mark.parametrize("cpus", [1, 2, 128])
def test_a_broadcast_waits_for_every_other_cpu(cpus):
    """The completing DSB pays for each CPU besides its own, taking part or not."""
    machine = Machine(cpus)

    def flush():
        machine.cpu(0).tlbi("VMALLE1IS")
        machine.cpu(0).dsb("ish")

    bill = bill_of(machine, flush)
    others = (cpus - 1) * NS["dsb_ish_per_core"]
    assert bill.elapsed_ns == NS["tlbi_issue"] + NS["dsb_ish_base"] + others
    assert bill.waits.get((0, OTHER_TLBS), 0) == pytest.approx(others)


@pytest.mark.parametrize("cpus", [1, 128])
def test_a_local_flush_costs_the_same_everywhere(cpus):
    """Nobody else is asked, so it does not matter how many there are."""
    machine = Machine(cpus)

    def flush():
        machine.cpu(0).tlbi("VMALLE1")
        machine.cpu(0).dsb("nsh")

    assert bill_of(machine, flush).elapsed_ns == NS["local_tlbi"] + NS["dsb_nsh"]


def test_broadcasters_are_in_each_others_way():
    """Each of n CPUs that broadcast at the same time waits for n - 1 others."""
    for busy in (1, 2, 8):
        machine = Machine(8)

        def flush(machine=machine, busy=busy):
            for cpu in machine.cpus[:busy]:
                cpu.tlbi("VMALLE1IS")
                cpu.dsb("ish")

        bill = bill_of(machine, flush)
        extra = (busy - 1) * NS["dvm_contention_per_broadcaster"]
        assert bill.waits.get((0, OTHER_BROADCASTS), 0) == extra


def test_a_broadcast_of_before_is_waited_for():
    """A TLBI that was in flight when the window began makes the DSB a real wait."""
    machine = Machine(2)
    machine.cpu(0).tlbi("VMALLE1IS")
    waited = bill_of(machine, lambda: machine.cpu(0).dsb("ish"))
    idle = bill_of(machine, lambda: machine.cpu(0).dsb("ish"))
    assert waited.elapsed_ns > idle.elapsed_ns == NS["dsb_stores"]


def test_a_cpu_waits_for_the_holder_of_a_lock():
    """Who takes a lock goes on from where its last holder let it go."""
    machine = Machine(2)
    lock = SpinLock(machine, "lock")

    def one_after_the_other():
        for cpu in machine.cpus:
            machine.running = cpu
            lock.acquire()
            cpu.isb()
            lock.release()

    bill = bill_of(machine, one_after_the_other)
    assert bill.cpus == {0: NS["isb"], 1: 2 * NS["isb"]}
    assert bill.waits == {(1, "lock"): NS["isb"]}


def test_readers_do_not_wait_for_readers():
    """A semaphore holds readers up only for writers, and writers for everybody."""
    machine = Machine(3)
    lock = RwSemaphore(machine, "lock")

    def two_readers_and_a_writer():
        for cpu in machine.cpus[:2]:
            machine.running = cpu
            lock.down_read()
            cpu.isb()
            lock.up_read()
        machine.running = machine.cpus[2]
        lock.down_write()
        lock.up_write()

    bill = bill_of(machine, two_readers_and_a_writer)
    assert bill.waits == {(2, "lock"): NS["isb"]}


def test_an_ipi_waits_for_the_slowest():
    """The sender goes on when every target has taken it."""
    machine = Machine(3)

    def interrupt():
        for _ in range(200):
            machine.cpu(2).isb()
        machine.send_ipi(machine.cpus, lambda _: None, "test")

    bill = bill_of(machine, interrupt)
    busy = 200 * NS["isb"]
    assert busy > NS["ipi"]
    assert bill.elapsed_ns == busy + NS["ipi_handler"]
    assert bill.cpus[0] == bill.cpus[2] > bill.cpus[1]


def test_a_bill_can_be_sent():
    """It survives pickling, so that a sweep may run anywhere."""
    program = Program()
    bill = bill_of(program.machine, lambda: program.play([("write", 0, 0)]))
    assert pickle.loads(pickle.dumps(bill)) == bill  # noqa: S301 - our own bytes
    assert bill.to_json()["elapsed_ns"] == bill.elapsed_ns
