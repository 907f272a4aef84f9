"""Traces count the same however they are run, and as was worked out elsewhere."""

from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlbkit.arm64 import descriptor as d
from tlbkit.arm64.fault import Fault
from tlbkit.arm64.granule import GRANULES
from tlbkit.arm64.models import Replacement
from tlbkit.arm64.permission import EL0_EXECUTE, EL0_READ, EL0_WRITE
from tlbkit.arm64.tests.support import (
    CLEAN,
    EVERY_SIZE,
    RO,
    ROOT,
    RW,
    Space,
    booted,
    contents,
    hear,
    leaf,
    machine,
    tiny,
)
from tlbkit.arm64.trace import Counts, count, replay
from tlbkit.errors import InputError

seeds = st.integers(0, 1 << 32).map(Random)
NEEDS = (EL0_READ, EL0_WRITE, EL0_EXECUTE)
ATTRIBUTES = (RW, RO, CLEAN, RW & ~d.AF, CLEAN & ~d.AF, RO & ~d.UXN)


# The golden traces.

PAGES = 65_536
GOLDEN = {
    "sequential": (0, 0),
    "random": (15_703, 483_836),
    "zipf": (491_997, 258_085),
}


def golden_pages():
    """The three traces, drawn in this order from one generator."""
    size = 1_000_000
    generator = np.random.default_rng(1)
    return {
        "sequential": np.arange(size) % 4096,
        "random": generator.integers(0, 4096, size),
        "zipf": (generator.zipf(1.2, size) - 1) % PAGES,
    }


def golden_cpu():
    """A CPU of the golden geometry that maps each page of the traces to a frame."""
    pages = {"shifts": {12}}
    arrays = {"l1d": tiny(1, 64, **pages), "l2": tiny(256, 8, **pages)}
    box, space = booted(1, walk_cache=256, **arrays)  # with room for all the tables
    for first in range(0, PAGES, 512):
        place = space.place(first << 12)
        for page in range(512):
            frame = ROOT + (1 << 32) + (first + page << 12)
            box.memory.write(place + 8 * page, leaf(frame))
    return box.cpus[0]


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_counts(name):
    """64 fully associative over 256 x 8, LRU: the counts that others have found.

    Three ways: each access through `Cpu.translate`, `replay`, and `count`.
    """
    l1_hits, l2_hits = GOLDEN[name]
    expected = Counts(1_000_000, l1_hits, l2_hits, 0)
    addresses = golden_pages()[name] << 12
    cpu = golden_cpu()
    assert count(cpu, addresses) == expected
    assert replay(cpu, addresses.tolist()) == expected
    assert expected.walks == 1_000_000 - l1_hits - l2_hits
    cpu = golden_cpu()
    for va in addresses.tolist():
        cpu.translate(va, EL0_READ)
    assert cpu.tlb.l2.refills == expected.walks
    assert cpu.tlb.l1d.refills == expected.walks + l2_hits


# Laws.


def some_space(random, cpus=1):
    """A machine with small TLBs, and pages and blocks of all kinds close together."""
    sizes = random.choice((EVERY_SIZE, {12}, {12, 21}))
    box, space = booted(
        cpus,
        l1d=tiny(1, random.randrange(1, 6), sizes),
        l1i=tiny(random.choice((1, 2)), 2, {12}),
        l2=tiny(random.choice((1, 2, 4)), random.randrange(1, 6)),
        walk_cache=random.choice((0, 2, 64)),
    )
    plain = random.random() < 0.4
    for page in range(24):
        if random.random() < 0.9:
            attributes = RW if plain else random.choice(ATTRIBUTES)
            frame = ROOT + (1 << 32) + (page << 12)
            space.map(page << 12, frame, attributes)
    if not plain:
        for n in range(16):
            frame = ROOT + (1 << 33) + (n << 12)
            space.map(0x3_0000 + (n << 12), frame, RW | d.CONTIGUOUS)
        space.map(1 << 21, 1 << 34, random.choice(ATTRIBUTES), level=2)
        space.map(1 << 30, 1 << 35, random.choice(ATTRIBUTES), level=1)
        space.map(0x5_0000, 1 << 36, RW & ~d.NG)
    return box, space


def some_addresses(random, length=60):
    """Addresses that meet those pages, and some that meet nothing."""
    near = [page << 12 | random.randrange(512) * 8 for page in range(100)]
    far = [(1 << 21) + (page << 12) for page in range(20)]
    far += [(1 << 30) + (page << 21) for page in range(20)]
    far += [1 << 40, 1 << 50, 1 << 63, (1 << 64) - 8, 3 << 56]
    some = random.sample(near, 8) + random.sample(far, random.choice((0, 3)))
    if random.random() < 0.5:
        some = [page << 12 for page in range(24)]
    return random.choices(some, k=length)


def one_by_one(cpu, vas, need):
    """The reference: counts by what is in which array before each access."""
    regime = cpu.regime
    micro = cpu.tlb.l1i if need == EL0_EXECUTE else cpu.tlb.l1d
    l1_hits = l2_hits = faults = 0
    for va in vas:
        name = regime.canonical(va)
        if regime.refusal(va, need) is None:
            answers = set(cpu.tlb.answers(name, regime.asid))
            if answers & set(micro):
                l1_hits += 1
            elif answers & set(cpu.tlb.l2):
                l2_hits += 1
        faults += isinstance(cpu.translate(va, need), Fault)
    return Counts(len(vas), l1_hits, l2_hits, faults)


@settings(max_examples=300)
@given(st.integers(0, 1 << 32), st.booleans())
def test_a_replay_is_the_accesses_one_by_one(seed, heard):
    """Same counts, same contents in the same order of age, same refills, same memory.

    Whatever is mapped, whatever the TLBs hold before, stale entries too, and whether
    somebody listens or not.
    """
    results = []
    for run in (replay, one_by_one):
        random = Random(seed)
        box, space = some_space(random)
        (cpu,) = box.cpus
        if heard and run is replay:
            hear(box)
        for _ in range(3):
            vas, need = some_addresses(random), random.choice(NEEDS)
            counts = run(cpu, vas, need)
            held = [[list(ways.values()) for ways in a.sets] for a in cpu.tlb.arrays]
            numbers = [(array.held, array.refills) for array in cpu.tlb.arrays]
            words = [box.memory.read(space.place(n << 12)) for n in range(24)]
            probes = cpu.tlb.sizes.of(5)
            results.append((run, counts, held, numbers, words, list(probes)))
            page = random.randrange(24)
            cpu.swap(space.place(page << 12), 0)
            if random.random() < 0.3:
                cpu.switch(space.regime(random.choice((5, 6))))
    half = len(results) // 2
    for replayed, plain in zip(results[:half], results[half:], strict=True):
        assert replayed[1:] == plain[1:]


def outdated(how):
    """A CPU that holds something outdated for page 1, and would find a plain page."""
    box, space = booted(1)
    (cpu,) = box.cpus
    place = space.map(0x1000, ROOT, RW & ~d.NG if how == "global" else RW)
    cpu.read(0x1000)
    if how == "block":
        table = box.memory.swap(space.place(0x1000, 2), leaf(ROOT, level=2))
        cpu.tlb.drop(cpu.tlb.entries()[0])
        for cached in tuple(cpu.tlb.walk.items()):
            cpu.tlb.drop(cached)
        cpu.read(0x1000)
        box.memory.write(space.place(0x1000, 2), table)
    space.map(0x1000, ROOT + 4096)
    if how == "only in L1":
        for ways in cpu.tlb.l2.sets:
            ways.clear()
        cpu.execute(0x1000)  # so that L2 holds the new one
    assert place == space.place(0x1000)
    return cpu


@pytest.mark.parametrize("how", ["page", "global", "block", "only in L1"])
def test_a_replay_uses_what_is_outdated(how):
    """An old entry goes on to answer, of whatever size and in whichever TLB it is."""
    replayed, plain = outdated(how), outdated(how)
    vas = [0x1000, 0x2000, 0x1000]
    assert replay(replayed, vas) == one_by_one(plain, vas, EL0_READ)
    assert contents(replayed.machine) == contents(plain.machine)


@pytest.mark.parametrize("attributes", [RW & ~d.NG, RW & ~d.AF, RW | d.CONTIGUOUS])
def test_a_replay_makes_the_right_entries(attributes):
    """Global pages, groups and pages that hardware marks are kept as accesses do."""
    results = []
    for run in (replay, one_by_one):
        box, space = booted(1)
        for page in range(16):
            space.map(page << 12, ROOT + (page << 12), attributes)
        counts = run(box.cpus[0], [0x1000, 0x2000, 0x1000], EL0_READ)
        others = box.cpus[0].tlb.answers(0x1000, 7)  # what another ASID would find
        results.append((counts, contents(box), others))
    assert results[0] == results[1]


@settings(max_examples=200)
@given(seeds, st.sampled_from(NEEDS))
def test_counting_is_replaying_from_empty(random, need):
    """Counted all at once or one by one: the same, and the machine is not touched."""
    box, _ = some_space(random)
    (cpu,) = box.cpus
    if not cpu.tlb.l1d.shifts <= cpu.tlb.l2.shifts:
        return
    vas = some_addresses(random, 200)
    before = contents(box)
    counted = count(cpu, np.array(vas, np.uint64), need)
    assert contents(box) == before
    assert counted == replay(cpu, vas, need)


@pytest.mark.parametrize("granule", GRANULES, ids=lambda granule: granule.name)
@pytest.mark.parametrize("frames", [12, 16])
def test_counting_in_every_granule(granule, frames):
    """Pages, blocks and tags of each granule, whatever the frames of memory are."""
    random = Random(7)
    box = machine(l1d=tiny(1, 4), l2=tiny(2, 4), page_shift=frames)
    space = Space(box.memory, 1 << 40, granule)
    (cpu,) = box.cpus
    cpu.switch(space.regime(TBI0=1))
    size = granule.page_size
    for page in range(12):
        space.map(page * size, page * size)
    block = 1 << granule.shift(2)
    space.map(block, block, level=2)
    some = [page * size + 8 * n for page in range(14) for n in (0, 600)]
    some += [block + n * size for n in range(5)]
    some += [va | 0x5A << 56 for va in some[:6]] + [2 * block, 1 << 52]
    vas = random.choices(some, k=400)
    assert count(cpu, np.array(vas, np.uint64)) == replay(cpu, vas)


def test_a_trace_may_be_empty():
    """No accesses, no counts."""
    box, _ = booted()
    assert count(box.cpus[0], np.array([], np.int64)) == Counts(0, 0, 0, 0)
    assert replay(box.cpus[0], []) == Counts(0, 0, 0, 0)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"l2": tiny(replacement=Replacement.FIFO)}, "L2 replaces the one that came"),
        ({"l1d": tiny(replacement=Replacement.RANDOM)}, "L1D replaces any"),
        ({"l2": tiny(shifts={21})}, "L1D holds sizes that L2 does not"),
    ],
)
def test_what_cannot_be_counted_at_once_is_said(changes, said):
    """Distances say nothing of FIFO or random replacement; a replay works for all."""
    box, space = booted(1, **changes)
    space.map(0x1000, ROOT)
    with pytest.raises(InputError, match=said):
        count(box.cpus[0], np.array([0x1000]))
    assert replay(box.cpus[0], [0x1000, 0x1000]).l1_hits == 1
