"""arch/arm64/mm/context.c: who has which ASID, and what a rollover flushes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlbkit.arm64.events import Event
from tlbkit.linux.arch.arm64.mm.context import OutOfAsidsError
from tlbkit.linux.tests.support import PAGE, boot, issued, touched


def small(*, cpus=2, kpti=False, asid_bits=8):
    """A kernel whose ASIDs soon run out."""
    return boot(cpus=cpus, kpti=kpti, asid_bits=asid_bits)


def run_once(kernel, process, cpu=0):
    """Let *process* touch its memory on *cpu*."""
    kernel.machine.running = kernel.machine.cpu(cpu)
    base = process.mm.vmas[1].start
    process.read(base, cpu=cpu)


def processes(kernel, count):
    """Start *count* processes that each have a page with their number in it."""
    started = []
    for number in range(count):
        process = kernel.spawn()
        process.write(process.mmap(PAGE), number)
        started.append(process)
    return started


@pytest.mark.parametrize("kpti", [False, True])
def test_processes_of_one_generation_have_numbers_of_their_own(kpti):
    """No two live address spaces share an ASID, and with KPTI none shares a pair."""
    kernel = small(kpti=kpti)
    asids = [kernel.context.asid(one.mm) for one in processes(kernel, 100)]
    assert len(set(asids)) == 100
    if kpti:
        assert all(asid % 2 == 0 for asid in asids)


def test_kpti_uses_the_odd_number_for_user_space():
    """User space runs under the other number of the pair, and its entries carry it."""
    kernel = boot(kpti=True, cpus=1)
    process, _ = touched(kernel, 1)
    asid = kernel.context.asid(process.mm)
    assert {entry.asid for entry in kernel.machine.cpus[0].tlb.entries()} == {asid | 1}


def test_t1_9_a_rollover_flushes_each_cpu_once_and_lazily():
    """T1.9: after a rollover each CPU flushes its own TLB at its next switch, once."""
    kernel = small(cpus=3)
    first, second = processes(kernel, 2)
    for cpu in (0, 1, 2):
        run_once(kernel, first, cpu)
    others = processes(kernel, 253)  # takes every number that is left

    def roll():
        processes(kernel, 1)

    counts = issued(kernel, roll)
    assert counts.tlbi == {"VMALLE1": 1}  # CPU 0, which needed the number
    for cpu in (1, 2):
        counts = issued(kernel, lambda c=cpu: run_once(kernel, second, c))
        assert counts.tlbi == {"VMALLE1": 1}
        counts = issued(kernel, lambda c=cpu: run_once(kernel, others[0], c))
        assert counts.tlbi == {}


def test_what_runs_keeps_its_number_through_a_rollover():
    """An address space on a CPU goes on under its ASID in the new generation."""
    kernel = small(cpus=2)
    staying = processes(kernel, 1)[0]
    run_once(kernel, staying, 1)
    asid = kernel.context.asid(staying.mm)
    processes(kernel, 300)
    run_once(kernel, staying, 0)
    assert kernel.context.asid(staying.mm) == asid


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 39), st.integers(0, 2)), max_size=60),
    st.booleans(),
)
def test_nobody_ever_reads_another_s_memory(turns, kpti):
    """Through any switches and rollovers each process reads what it wrote."""
    kernel = boot(cpus=3, asid_bits=8, kpti=kpti)
    kernel.context._indices = 20
    alive = processes(kernel, 40)
    for who, cpu in turns:
        process = alive[who]
        assert process.read(process.mm.vmas[1].start, cpu=cpu) == who


def test_more_cpus_than_numbers_is_an_error():
    """If every number is on a CPU, there is none to give."""
    kernel = small(cpus=8)
    kernel.context._indices = 5
    for cpu, process in enumerate(processes(kernel, 4)):
        run_once(kernel, process, cpu)
    one_more = kernel.spawn(cpu=5)
    with pytest.raises(OutOfAsidsError):
        one_more.mmap(PAGE)


def test_only_cpus_in_the_mask_hold_entries():
    """A CPU that never ran an address space has no entry of it."""
    kernel = boot(cpus=4, model="neoverse-n1")
    process, base = touched(kernel, 8, cpus=(0, 2))
    assert process.mm.cpumask == {0, 2}
    asid = kernel.context.asid(process.mm)
    for cpu in kernel.machine.cpus:
        holds = any(entry.asid == asid for entry in cpu.tlb.entries())
        assert holds == (cpu.number in process.mm.cpumask)
    seen: list[Event] = []
    kernel.machine.events.listen(seen.append)
    process.mprotect(base, PAGE, "r")
    assert [e.what.name for e in seen if e.kind == "tlbi"] == ["VALE1IS"]


def test_a_thread_that_moves_leaves_its_entries_behind():
    """Migration flushes nothing: the old CPU's entries wait there, and may go stale."""
    kernel = boot(cpus=2)
    process, base = touched(kernel, 4)
    before = len(kernel.machine.cpus[0].tlb.entries())

    def move():
        process.migrate(1)
        process.read(base)

    assert issued(kernel, move).tlbi == {}
    assert len(kernel.machine.cpus[0].tlb.entries()) == before


def test_cpus_that_share_a_tlb_are_told_to():
    """CnP: with the bit in both TTBRs, a neighbour hits what the first CPU filled."""
    kernel = boot(cpus=4, shared_tlb=2)
    process, base = touched(kernel, 1)
    walks: list[Event] = []
    kernel.machine.events.listen(walks.append, ("walk",))
    for cpu in range(4):
        assert process.read(base, cpu=cpu) == process.read(base)
    assert {event.cpu for event in walks} == {2}
    assert all(
        cpu.regime.ttbr0.CnP and cpu.regime.ttbr1.CnP for cpu in kernel.machine.cpus
    )
