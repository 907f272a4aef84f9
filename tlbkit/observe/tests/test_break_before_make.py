"""The watch for a make that comes before the flush of its break."""

import pytest

from tlbkit.arm64 import descriptor as d
from tlbkit.arm64.conflicts import BreakBeforeMakeError
from tlbkit.arm64.tests.support import RO, RW, booted, leaf
from tlbkit.arm64.tlbi import encode_va
from tlbkit.observe.break_before_make import break_before_make

VA, FRAME, OTHER = 0x7000, 0x8000_0000, 0x9000_0000


def flush(cpu, va=VA, name="VALE1IS"):
    """The sequence that takes one page out of every TLB."""
    cpu.dsb("ishst")
    cpu.tlbi(name, encode_va(va, 5))
    cpu.dsb("ish")


def moved(*, flushed, new=OTHER, attributes=RW, before=False, reader=1):
    """Map a page, use it, break it, flush it or not, and make another."""
    box, space = booted(2)
    place = space.map(VA, FRAME)
    cpu = box.cpus[0]
    if before:
        box.cpus[reader].read(VA)
    with break_before_make(box):
        if not before:
            box.cpus[reader].read(VA)
        cpu.store(place, 0)
        if flushed:
            flush(cpu)
        cpu.store(place, leaf(new, attributes))
    return box, place


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("reader", [0, 1])
def test_the_flush_between_break_and_make(reader, before):
    """Without it, whoever still holds the old translation is named; with it, nobody."""
    moved(flushed=True, before=before, reader=reader)
    with pytest.raises(BreakBeforeMakeError, match=f"CPU {reader} still held the old"):
        moved(flushed=False, before=before, reader=reader)


def test_the_same_translation_may_come_back_unflushed():
    """Made again as it was, or with other rights, nothing conflicts."""
    moved(flushed=False, new=FRAME)
    moved(flushed=False, new=FRAME, attributes=RO)


def test_what_no_tlb_holds_needs_no_flush():
    """A translation that was replaced in all TLBs before the make is no hazard."""
    box, space = booted(1)
    (cpu,) = box.cpus
    place = space.map(VA, FRAME)
    with break_before_make(box):
        cpu.read(VA)
        for entry in cpu.tlb.entries():
            cpu.tlb.drop(entry)
        cpu.store(place, 0)
        cpu.store(place, leaf(OTHER))


def test_a_table_in_the_walk_cache_is_watched_too():
    """A table entry that is unlinked and replaced needs a flush that takes tables."""
    for name in ("VAE1IS", "VALE1IS"):
        box, space = booted(1)
        (cpu,) = box.cpus
        space.map(VA, FRAME)
        entry = space.place(VA, 2)
        with break_before_make(box):
            cpu.read(VA)
            cpu.store(entry, 0)
            flush(cpu, name=name)
            if name == "VAE1IS":
                cpu.store(entry, 0x6000_0000 | d.TYPE_TABLE)
                continue
            with pytest.raises(BreakBeforeMakeError, match="walk cache"):
                cpu.store(entry, 0x6000_0000 | d.TYPE_TABLE)


@pytest.mark.parametrize("page", [0, 3, 15])
def test_one_entry_for_a_group_speaks_for_all_its_descriptors(page):
    """A group is cached through one descriptor, and watched through all sixteen."""
    box, space = booted(1)
    (cpu,) = box.cpus
    base = 0x1_0000
    for n in range(16):
        space.map(base + n * 4096, FRAME + n * 4096, RW | d.CONTIGUOUS)
    with break_before_make(box):
        cpu.read(base + 5 * 4096)
        for n in range(16):
            cpu.store(space.place(base + n * 4096), 0)
        place = space.place(base + page * 4096)
        with pytest.raises(BreakBeforeMakeError, match="still held"):
            cpu.store(place, leaf(OTHER))
        flush(cpu, base)
        cpu.store(place, leaf(OTHER))


def test_the_watch_ends_with_its_block():
    """Afterwards the machine is as before, and nobody listens."""
    box, place = moved(flushed=True)
    box.cpus[1].read(VA)
    box.cpus[0].store(place, 0)
    box.cpus[0].store(place, leaf(FRAME))
    assert not any(kind in box.events.heard for kind in ("store", "fill", "drop"))
