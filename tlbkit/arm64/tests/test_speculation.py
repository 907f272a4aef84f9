"""What CPUs do unasked is up to the caller, and never more than is allowed."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlbkit.arm64 import descriptor as d
from tlbkit.arm64.fault import Fault, FaultKind
from tlbkit.arm64.speculation import (
    Drop,
    Fill,
    drop_all,
    fill_all,
    never,
    options,
    perform,
    speculating,
)
from tlbkit.arm64.tests.support import RO, RW, Replay, booted, contents, hear, leaf
from tlbkit.arm64.tlbi import encode_va

FRAME, OTHER = 0x8000_0000, 0x9000_0000
PAGES = [0x1000, 0x2000, 0x3000, 0x4000]
UNMAPPED = Fault(FaultKind.TRANSLATION, 3)


def mapped(cpus=2):
    """A machine with a page of each kind: usable, read-only, old, and not there."""
    box, space = booted(cpus)
    for va, attributes in zip(PAGES, (RW, RO, RW & ~d.AF), strict=False):
        space.map(va, FRAME + va, attributes)
    return box, space


def unmap(box, space, va, *, flush=True):
    """Take a page away, by CPU 0."""
    cpu = box.cpus[0]
    cpu.store(space.place(va), 0)
    if flush:
        cpu.dsb("ishst")
        cpu.tlbi("VALE1IS", encode_va(va, 5))
        cpu.dsb("ish")


def test_only_what_would_not_fault_may_be_filled():
    """Translation and access-flag faults are never cached; permission is no matter."""
    box, _ = mapped()
    assert list(options(box, PAGES)) == [
        Fill(cpu, va) for cpu in (0, 1) for va in PAGES[:2]
    ]
    box.cpus[0].read(PAGES[0])
    fills = [option for option in options(box, PAGES) if isinstance(option, Fill)]
    assert Fill(0, PAGES[0]) not in fills
    assert Fill(1, PAGES[0]) in fills
    drops = {option.what for option in options(box, ()) if isinstance(option, Drop)}
    assert drops == set(box.tlbs[0].entries()) | set(box.tlbs[0].walk.items())


@given(st.integers(0, 1 << 32).map(Random))
def test_any_choice_of_options_keeps_the_stream_true(random):
    """Whatever is done unasked, and when: the events tell what every TLB holds."""
    box, space = mapped()
    replay = Replay(box)

    def some(possible):
        return [option for option in possible if random.random() < 0.3][:1]

    with speculating(box, PAGES, some):
        for _ in range(8):
            box.cpus[random.randrange(2)].read(random.choice(PAGES))
            assert replay.held == contents(box)
        for va in PAGES:
            unmap(box, space, va)
            assert [cpu.read(va) for cpu in box.cpus] == [UNMAPPED] * 2


@pytest.mark.parametrize(
    ("policy", "walks"), [(never, [True, False]), (drop_all, [True, True])]
)
def test_how_often_a_page_is_walked(policy, walks):
    """Kept translations save the second walk; where nothing is kept, it comes again."""
    box, _ = mapped()
    with speculating(box, PAGES, policy):
        told = hear(box, "walk")
        for expected in walks:
            told.clear()
            box.cpus[0].read(PAGES[0])
            assert bool(told) is expected
            assert all(event.old is None for event in told)


@pytest.mark.parametrize(
    ("policy", "stale"), [(never, False), (fill_all, True), (drop_all, False)]
)
def test_eager_filling_finds_a_missing_flush(policy, stale):
    """A CPU that never used a page may hold it all the same, until it is flushed."""
    box, space = mapped()
    with speculating(box, PAGES, policy):
        box.cpus[0].write(PAGES[1], 0)
        unmap(box, space, PAGES[0], flush=False)
        assert (box.cpus[1].read(PAGES[0]) == 0) is stale
        unmap(box, space, PAGES[1])
        assert box.cpus[1].read(PAGES[1]) == UNMAPPED


def test_a_fill_after_the_flush_sees_the_new_tables():
    """Unasked fills between flush and make find nothing, and after it the new page."""
    box, space = mapped()
    with speculating(box, PAGES, fill_all):
        box.cpus[1].write(PAGES[0], 1)
        unmap(box, space, PAGES[0])
        box.cpus[0].store(space.place(PAGES[0]), leaf(OTHER))
        assert box.cpus[1].read(PAGES[0]) == 0


def test_one_option_at_a_time():
    """What is performed is done once, and a drop of what has gone is nothing."""
    box, _ = mapped()
    perform(box, Fill(1, PAGES[0]))
    (entry,) = box.tlbs[1].entries()
    assert entry.va == PAGES[0]
    drop = Drop(1, entry)
    told = hear(box, "drop")
    perform(box, drop)
    assert {event.why for event in told} == {"dropped unasked"}
    told.clear()
    perform(box, drop)
    assert not told
