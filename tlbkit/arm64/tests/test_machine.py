"""Laws of many CPUs: what reaches whom, when it is done, and who waits."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlbkit.arm64.cpu import AFTER_UNLOCK, BEFORE_STORE, Cpu, NoRegimeError
from tlbkit.arm64.fault import Fault, FaultKind
from tlbkit.arm64.machine import MAX_CPUS, Machine, StuckError
from tlbkit.arm64.models import NEOVERSE_V2
from tlbkit.arm64.tests.support import (
    Replay,
    Space,
    booted,
    contents,
    hear,
    leaf,
    machine,
    tiny,
)
from tlbkit.arm64.tlbi import (
    OPERATIONS,
    By,
    Operation,
    encode_asid,
    encode_range,
    encode_va,
)
from tlbkit.errors import InputError

VA, FRAME, OTHER = 0x7000, 0x8000_0000, 0x9000_0000
UNMAPPED = Fault(FaultKind.TRANSLATION, 3)
seeds = st.integers(0, 1 << 32).map(Random)
numbers = st.integers(0, 3)


def operand_for(operation, va=VA, asid=5):
    """An operand that names one page of one ASID, or as little more as can be."""
    match operation.by:
        case By.VA:
            return encode_va(va, asid)
        case By.RANGE:
            return encode_range(va & ~0x1FFF, asid, 0, 0)
    return encode_asid(asid)


# T1.6: local and broadcast.


@given(numbers, st.sampled_from(list(OPERATIONS)))
def test_t1_6_local_forms_stay_at_home_and_broadcasts_reach_all(number, name):
    """A local form leaves other CPUs untouched; IS and OS take it from every CPU."""
    box, space = booted(4)
    space.map(VA, FRAME)
    for cpu in box.cpus:
        assert cpu.read(VA) == 0
    before = contents(box)
    operation = OPERATIONS[name]
    cpu = box.cpus[number]
    cpu.dsb("ish")
    cpu.tlbi(name, operand_for(operation))
    cpu.dsb("ish")
    for other in box.cpus:
        mine = {
            key: what for key, what in contents(box).items() if key[0] == other.number
        }
        if operation.broadcast or other is cpu:
            assert not other.tlb.entries()
        else:
            assert mine == {key: before[key] for key in mine}


@given(seeds)
def test_a_broadcast_is_a_local_form_on_every_cpu(random):
    """What a broadcast leaves is what the same form leaves if each CPU issues it."""
    box, space = booted(4)
    twin, its = booted(4)
    pages = range(6)
    for page in pages:
        for tables in (space, its):
            tables.map(page << 12, FRAME + (page << 12))
    for _ in range(20):
        number, page = random.randrange(4), random.choice(pages)
        for machine_ in (box, twin):
            machine_.cpus[number].read(page << 12)
    name = random.choice([name for name in OPERATIONS if name.endswith("IS")])
    operation = OPERATIONS[name]
    operand = operand_for(operation, random.choice(pages) << 12)
    box.cpus[1].tlbi(name, operand)
    box.cpus[1].dsb("ish")
    for cpu in twin.cpus:
        cpu.tlbi(operation.local_name, operand)
        cpu.dsb("nsh")
    assert contents(box) == contents(twin)


def test_a_broadcast_visits_only_tlbs_that_may_hold_something():
    """On 256 CPUs, a flush of what two of them ran looks at two TLBs."""
    box, space = booted(256)
    space.map(VA, FRAME)
    for number in (3, 200):
        box.cpus[number].read(VA)
    operation = OPERATIONS["VALE1IS"]
    concerned = box.concerned(operation, 5)
    assert [tlb.cpu for tlb in concerned] == [3, 200]
    assert box.concerned(operation, 6) == ()
    assert len(box.concerned(OPERATIONS["VAALE1IS"], 6)) == 256
    box.cpus[0].tlbi("ASIDE1IS", encode_asid(5))
    box.cpus[0].dsb("ish")
    assert box.concerned(operation, 5) == ()


def test_a_thread_that_moves_leaves_its_entries_behind():
    """Migration: the old CPU still holds what the thread used there."""
    box, space = booted(2)
    old, new = box.cpus
    place = space.map(VA, FRAME)
    assert (old.read(VA), new.read(VA)) == (0, 0)
    new.store(place, 0)
    new.dsb("nshst")
    new.tlbi("VALE1", encode_va(VA, 5))
    new.dsb("nsh")
    assert new.read(VA) == UNMAPPED
    assert old.read(VA) == 0


# Options of the CPU model.


def test_over_invalidation_takes_what_is_not_named():
    """Hardware may drop more than it must: the flush of one page drops all pages."""
    box, space = booted(2, over_invalidates=True)
    for page in (1, 2):
        space.map(page << 12, FRAME)
        for cpu in box.cpus:
            cpu.read(page << 12)
    box.cpus[0].tlbi("VALE1IS", encode_va(0x1000, 77))
    assert box.cpus[1].tlb.entries()
    box.cpus[0].dsb("ish")
    assert not any(contents(box).values())


def test_cpus_that_share_a_tlb_share_a_local_flush():
    """CnP: what one CPU fills the next one hits; what it flushes locally is gone."""
    box = machine(4, shared_tlb=2)
    space = Space(box.memory)
    space.map(VA, FRAME)
    for cpu in box.cpus:
        cpu.switch(space.regime(cnp=1))
    walks = hear(box, "walk")
    for cpu in box.cpus:
        cpu.read(VA)
    assert [event.cpu for event in walks] == [0, 2]
    box.cpus[1].tlbi("VMALLE1")
    box.cpus[1].dsb("nsh")
    walks.clear()
    for cpu in box.cpus:
        cpu.read(VA)
    assert [event.cpu for event in walks] == [0]


@pytest.mark.parametrize("name", ["VALE1IS", "VAE1IS", "ASIDE1IS", "VMALLE1IS"])
def test_a_cpu_without_power_has_nothing_to_flush(name):
    """S16: a broadcast finds no entry where the TLB was not kept, and misses none.

    Neither before the change nor after it does the CPU translate by what it once held.
    """
    box, space = booted(2)
    place = space.map(VA, FRAME)
    regime = box.cpus[0].regime
    box.memory.write(OTHER, 7)
    for cpu in box.cpus:
        assert cpu.read(VA) == 0
    replay, told = Replay(box), hear(box, "drop")
    box.cpus[1].power_down()
    assert {event.why for event in told} == {"its CPU has no power"}
    assert replay.held == contents(box)
    assert not any(held for key, held in contents(box).items() if key[0] == 1)
    del told[:]

    issuer = box.cpus[0]
    issuer.store(place, 0)
    issuer.dsb("ishst")
    issuer.tlbi(name, operand_for(OPERATIONS[name]))
    issuer.dsb("ish")
    assert {event.cpu for event in told} == {0}

    issuer.store(place, leaf(OTHER))
    box.cpus[1].switch(regime)
    assert box.cpus[1].read(VA) == 7
    assert replay.held == contents(box)


def test_a_cpu_without_power_translates_nothing():
    """Its registers are lost too, and what it had issued is complete."""
    box, space = booted(2)
    place = space.map(VA, FRAME)
    for cpu in box.cpus:
        cpu.read(VA)
    sleeper = box.cpus[1]
    sleeper.store(place, 0)
    sleeper.dsb("ishst")
    sleeper.tlbi("VAE1IS", encode_va(VA, 5))
    sleeper.power_down()
    assert not sleeper.in_flight
    assert box.cpus[0].read(VA) == UNMAPPED
    with pytest.raises(NoRegimeError):
        sleeper.read(VA)
    sleeper.power_down()  # again is no error


def test_a_shared_tlb_is_kept_while_one_cpu_has_power():
    """Of two threads of a core, the second takes the TLB down with it."""
    box = machine(2, shared_tlb=2)
    space = Space(box.memory)
    space.map(VA, FRAME)
    for cpu in box.cpus:
        cpu.switch(space.regime(cnp=1))
    box.cpus[0].read(VA)
    box.cpus[0].power_down()
    assert len(box.tlbs[0].entries()) == 1
    box.cpus[1].power_down()
    assert not box.tlbs[0].entries()


def test_sharing_a_tlb_needs_cnp():
    """A TTBR without CnP on a CPU that shares its TLB is refused."""
    box = machine(2, shared_tlb=2)
    with pytest.raises(InputError, match="CnP"):
        box.cpus[0].switch(Space(box.memory).regime())


@pytest.mark.parametrize("cpus", [0, -1, MAX_CPUS + 1])
def test_a_machine_has_so_many_cpus(cpus):
    """None is too few, and there is a most."""
    with pytest.raises(InputError, match=str(MAX_CPUS)):
        Machine(cpus)


def test_a_cpu_that_is_not_there_is_an_error():
    """The message says which there are."""
    with pytest.raises(InputError, match="0 to 1"):
        machine(2).cpu(2)


def test_machines_live_side_by_side():
    """Nothing is shared between two machines but the model."""
    (one, space), (other, _) = booted(1), booted(1)
    space.map(VA, FRAME)
    one.cpus[0].write(VA, 1)
    assert other.memory.read(FRAME) == 0
    assert not any(contents(other).values())


# Interrupts.


def test_an_ipi_runs_on_each_target_and_is_waited_for():
    """All targets but the sender run the handler before the sender goes on."""
    box = machine(4)
    box.running = box.cpus[2]
    told = hear(box, "ipi")
    ran = []
    box.send_ipi(box.cpus, lambda cpu: ran.append(cpu.number), "sync")
    assert ran == [0, 1, 3]
    assert [(event.cpu, event.what, event.why) for event in told] == [
        (2, (0, 1, 3), "sync")
    ]


def test_irqs_off_hold_an_ipi():
    """A CPU with interrupts off takes it when the last of nested holds ends."""
    box = machine(2)
    target = box.cpus[1]
    target.irq_disable()
    target.irq_disable()
    ran: list[int] = []

    def meanwhile(done, what):
        assert (done(), what, ran) == (False, "sync", [])
        target.irq_enable()
        assert not ran
        target.irq_enable()
        assert done()

    box.waiter = meanwhile
    box.send_ipi(box.cpus, lambda cpu: ran.append(cpu.number), "sync")
    assert ran == [1]
    assert target.irqs_on


def test_a_wait_that_nothing_can_end_is_an_error():
    """Where no other CPU runs, waiting for one that holds interrupts off is named."""
    box = machine(2)
    box.cpus[1].irq_disable()
    with pytest.raises(StuckError, match="sync") as caught:
        box.send_ipi(box.cpus, print, "sync")
    assert (caught.value.cpu, caught.value.what) == (0, "sync")


# What is taken out.


def flush_tlb_page(cpu):
    """A flush whose parts are taken out by name."""
    cpu.dsb("ishst")
    cpu.tlbi("VALE1IS", encode_va(VA, 5))
    cpu.dsb("ish")
    cpu.isb()


@pytest.mark.parametrize(
    ("without", "kinds"),
    [
        (set(), ["dsb", "tlbi", "dsb", "isb"]),
        ({"dsb ish in flush_tlb_page"}, ["dsb", "tlbi", "isb"]),
        ({"dsb ishst in flush_tlb_page"}, ["tlbi", "dsb", "isb"]),
        ({"tlbi VALE1IS in flush_tlb_page"}, ["dsb", "dsb", "isb"]),
        ({"isb in flush_tlb_page"}, ["dsb", "tlbi", "dsb"]),
        ({"tlbi in flush_tlb_page"}, ["dsb", "dsb", "isb"]),
        ({"dsb ish in flush_tlb_mm", "dsb in flush_tlb_page"}, None),
    ],
)
def test_one_operation_is_left_out_of_one_function(without, kinds):
    """`without` takes out what it names, where it names it, and nothing else."""
    box, space = booted(2)
    place = space.map(VA, FRAME)
    box.cpus[1].read(VA)
    box.taken_out = frozenset(without)
    told = hear(box, "dsb", "tlbi", "isb")
    box.cpus[0].store(place, 0)
    flush_tlb_page(box.cpus[0])
    whole = ["dsb", "tlbi", "dsb", "isb"]
    assert [event.kind for event in told] == (kinds or whole)
    works = kinds in (None, whole) or without == {"isb in flush_tlb_page"}
    assert (box.cpus[1].read(VA) == UNMAPPED) is works


def test_a_check_is_skipped_where_it_is_named_only():
    """A check is taken out of one function, not out of those that it calls."""
    box = machine(1)

    def outer():
        return box.holds("same", condition=False), inner()

    def inner():
        return box.holds("same", condition=False)

    assert outer() == (False, False)
    box.taken_out = frozenset({"same in outer"})
    assert outer() == (True, False)


@given(condition=st.booleans())
def test_a_check_that_is_taken_out_passes(condition):
    """It says what the kernel's test says; taken out, that nothing has changed."""
    box = machine(1)

    def holds():
        return box.holds("same", condition)

    def sees():
        return box.sees("dirty", condition)

    assert (holds(), sees()) == (condition, condition)
    box.taken_out = frozenset({"same in sees", "dirty in holds"})
    assert (holds(), sees()) == (condition, condition)
    box.taken_out = frozenset({"same in holds", "dirty in sees"})
    assert (holds(), sees()) == (True, False)


def change(cpu, place):
    """Take an entry away under a lock, and flush there."""
    cpu.enter_section()
    cpu.store(place, 0)
    flush_tlb_page(cpu)
    cpu.leave_section()
    cpu.catch_up()


@pytest.mark.parametrize(
    ("moved", "kinds"),
    [
        ("", ["store", "dsb", "tlbi", "dsb", "isb"]),
        (AFTER_UNLOCK, ["store", "dsb", "dsb", "isb", "tlbi", "dsb"]),
        (BEFORE_STORE, ["dsb", "tlbi", "dsb", "store", "isb"]),
    ],
)
def test_a_flush_is_moved(moved, kinds):
    """Behind the unlock or before the store: nothing is lost, and the order changes."""
    box, space = booted(2)
    place = space.map(VA, FRAME)
    box.cpus[1].read(VA)
    box.taken_out = frozenset({f"{moved} in change"})
    told = hear(box, "store", "dsb", "tlbi", "isb")
    change(box.cpus[0], place)
    assert [event.kind for event in told] == kinds
    assert box.memory.read(place) == 0


def test_what_no_flush_overtakes_is_stored_before_the_unlock():
    """A store waits for a flush under the same lock, and no longer."""
    box, space = booted(2)
    place = space.map(VA, FRAME)
    box.taken_out = frozenset({f"{BEFORE_STORE} in store_twice"})
    told = hear(box, "store")

    def store_twice():
        box.cpus[0].enter_section()
        box.cpus[0].store(place, 0)
        assert not told
        box.cpus[0].swap(place, 0)
        assert len(told) == 1
        box.cpus[0].leave_section()

    store_twice()
    assert len(told) == 2


def test_an_ipi_can_be_left_out():
    """Nobody is interrupted and nobody waits."""
    box = machine(2)
    box.taken_out = frozenset({"ipi in test_an_ipi_can_be_left_out"})
    ran: list[Cpu] = []
    box.send_ipi(box.cpus, ran.append, "sync")
    assert not ran


# The stream.


@given(seeds)
def test_events_tell_what_every_tlb_holds(random):
    """Replayed fill and drop events give the contents, whoever runs in between."""
    geometry = {"l1d": tiny(1, 2), "l1i": tiny(1, 2), "l2": tiny(2, 2), "walk_cache": 2}
    box, space = booted(3, **geometry)
    places = [space.map(page << 12, FRAME + (page << 12)) for page in range(6)]
    replay = Replay(box)
    depth = 0

    def act(_event=None):
        """Do something on some CPU, as a scheduler does between two events."""
        nonlocal depth
        if depth == 2:
            return
        depth += 1
        cpu, page = random.choice(box.cpus), random.randrange(6)
        match random.randrange(6):
            case 0:
                box.cpus[0].swap(places[page], 0)
            case 1:
                if not box.memory.read(places[page]):
                    box.cpus[0].store(places[page], leaf(FRAME + (page << 12)))
            case 2:
                operation = random.choice(list(OPERATIONS.values()))
                cpu.dsb("ishst")
                cpu.tlbi(operation.name, operand_for(operation, page << 12))
                cpu.dsb(random.choice(("ish", "nsh")))
            case 3:
                cpu.execute(page << 12)
            case _:
                cpu.read(page << 12)
        depth -= 1

    box.events.schedule(act)
    for _ in range(12):
        act()
        if not depth:
            assert replay.held == contents(box)


def test_the_list_of_tlbis_in_flight_can_be_followed():
    """TLBI events add to it, and the barriers that complete them take away."""
    box = machine(1)
    (cpu,) = box.cpus
    followed = []

    def follow(event):
        if event.kind == "tlbi":
            followed.append((event.what, event.new))
        elif event.what == "nsh":
            followed[:] = [one for one in followed if one[0].broadcast]
        elif not event.what.endswith(("st", "ld")):
            followed.clear()

    box.events.listen(follow, {"tlbi", "dsb"})
    steps = "VALE1 VALE1IS nshst ishst nsh VMALLE1 ASIDE1OSnXS ld ish"
    for step in steps.split():
        if step in OPERATIONS:
            cpu.tlbi(step, 9)
        else:
            cpu.dsb(step)
        assert cpu.in_flight == followed
    assert not followed


def test_a_switch_is_told_and_flushes_nothing():
    """The event has both regimes; switching to the same one is no switch."""
    box, space = booted(1)
    (cpu,) = box.cpus
    space.map(VA, FRAME)
    cpu.read(VA)
    old, new = cpu.regime, space.regime(6)
    told = hear(box)
    cpu.switch(old)
    assert not told
    cpu.switch(new)
    (event,) = told
    assert (event.kind, event.old, event.new) == ("switch", old, new)
    assert len(cpu.tlb.entries()) == 1


def test_nobody_listens_for_nothing():
    """A machine that nobody listens to numbers no events."""
    box, space = booted(2)
    space.map(VA, FRAME)
    box.cpus[0].write(VA, 1)
    flush_tlb_page(box.cpus[0])
    assert box.events.number == 0
    assert box.model.name == NEOVERSE_V2.name


@pytest.mark.parametrize("kind", ["ish", "nsh"])
def test_a_tlbi_is_in_flight_until_the_last_tlb_has_answered(kind):
    """A DSB that waits has its TLBIs in flight; one issued meanwhile outlives it."""
    box, space = booted()
    space.map(VA, FRAME)
    (cpu,) = box.cpus
    cpu.read(VA)
    waited_for: list[tuple[Operation, int]] = []

    def interrupt(_):
        if not waited_for:
            waited_for.extend(cpu.in_flight)
            cpu.tlbi("VAE1", encode_va(OTHER, 5))

    box.events.listen(interrupt, {"drop"})
    cpu.tlbi("VAE1", encode_va(VA, 5))
    cpu.dsb(kind)
    assert waited_for == [(OPERATIONS["VAE1"], encode_va(VA, 5))]
    assert cpu.in_flight == [(OPERATIONS["VAE1"], encode_va(OTHER, 5))]
