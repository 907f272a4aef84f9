"""Laws of the access path, and the rules of TLB maintenance as tests on the machine."""

from random import Random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tlbkit.arm64 import descriptor as d
from tlbkit.arm64.cached import GLOBAL
from tlbkit.arm64.conflicts import (
    BreakBeforeMakeError,
    ContiguousMisuseError,
    needs_break,
)
from tlbkit.arm64.cpu import BARRIERS, NoRegimeError
from tlbkit.arm64.fault import Fault, FaultKind
from tlbkit.arm64.granule import GRANULES
from tlbkit.arm64.permission import (
    ACCESS_NAMES,
    EL0_EXECUTE,
    EL0_READ,
    EL0_WRITE,
    EL1_READ,
    EL1_WRITE,
)
from tlbkit.arm64.tests.random_tables import any_image
from tlbkit.arm64.tests.support import (
    CLEAN,
    EVERY_SIZE,
    RO,
    ROOT,
    RW,
    Replay,
    Space,
    booted,
    contents,
    hear,
    leaf,
    machine,
    tiny,
)
from tlbkit.arm64.tlbi import encode_asid, encode_range, encode_va
from tlbkit.arm64.walk import hardware_update, translate, walk
from tlbkit.errors import InputError

VA, FRAME, OTHER = 0x7000, 0x8000_0000, 0x9000_0000
BLOCK = 1 << 21
TRANSLATION_3 = Fault(FaultKind.TRANSLATION, 3)
PERMISSION_3 = Fault(FaultKind.PERMISSION, 3)
seeds = st.integers(0, 1 << 32).map(Random)


def flush(cpu, name, operand=0, *, before="ishst", after="ish"):
    """The canonical sequence: make stores visible, invalidate, wait."""
    cpu.dsb(before)
    cpu.tlbi(name, operand)
    cpu.dsb(after)
    cpu.isb()


def held(cpu, va, asid=5):
    """The translations of *va* that some structure of the CPU holds."""
    return set(cpu.tlb.answers(va, asid))


# Laws.


@settings(max_examples=60)
@given(seeds)
def test_an_access_answers_as_a_walk_does(random):
    """With entries that no store has made stale, TLBs and walk cache change nothing.

    Over random legal regimes and tables: granules, halves, TBI, E0PD, 52 bits, hardware
    management. Small TLBs, and each address twice, so that hits and misses both count.
    """
    image = any_image(random)
    regime = image.regime()
    box = machine(l1d=tiny(), l1i=tiny(1, 2), l2=tiny(2, 4), walk_cache=6)
    for pa, word in image.memory.items():
        box.memory.write(pa, word)
    (cpu,) = box.cpus
    cpu.switch(regime)
    for va in image.vas[:60]:
        for need in random.sample(list(ACCESS_NAMES), 2):
            expected = translate(regime, box.memory, va, need)
            try:
                got = cpu.translate(va, need)
            except ContiguousMisuseError:
                continue
            if any(entry.shift > entry.leaf.shift for entry in cpu.tlb.entries()):
                # Random groups are bad groups; groups have tests of their own.
                flush(cpu, "VMALLE1")
                continue
            if isinstance(expected, Fault):
                assert got == expected
                continue
            size = 1 << expected.leaf.shift
            assert got == expected.pa + va % size
            word = hardware_update(expected, need)
            assert box.memory.read(expected.descriptor_pa) == word
            assert cpu.translate(va, need) == got


stories = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from(("read", "write", "prefetch")),
            st.integers(0, 2),
            st.integers(0, 5),
        ),
        st.tuples(st.just("flush"), st.integers(0, 2), st.integers(0, 5)),
        st.tuples(st.just("drop"), st.integers(0, 2), st.integers(0, 40)),
        st.tuples(
            st.just("store"),
            st.integers(0, 5),
            st.sampled_from((0, RW, RO, CLEAN, RW & ~d.AF, CLEAN & ~d.AF)),
        ),
    ),
    max_size=40,
)


@given(stories)
def test_an_answer_is_some_value_since_the_last_flush(story):
    """An access answers by the tables as they are, or were since the last full flush.

    Which it is may depend on the CPU, never on a moment before the flush; and after a
    flush all CPUs agree with the tables.
    """
    box, space = booted(3, l1d=tiny(1, 2), l2=tiny(1, 4))
    replay = Replay(box)
    places = [space.map(page << 12, 0x8000_0000 + (page << 12)) for page in range(6)]
    since = [{box.memory.read(place)} for place in places]
    for name, *what in story:
        match name:
            case "store":
                page, attributes = what
                old = box.memory.read(places[page])
                pa = 0x8000_0000 + (page << 12)
                new = leaf(pa, attributes) if attributes else 0
                box.cpus[0].store(places[page], new)
                since[page] |= {old, new}
            case "flush":
                cpu, page = what
                flush(box.cpus[0], "VALE1IS", encode_va(page << 12, 5))
                since[page] = {box.memory.read(places[page])}
                assert all(not held(one, page << 12) for one in box.cpus)
            case "drop":
                cpu, number = what
                entries = box.cpus[cpu].tlb.entries()
                if entries:
                    box.cpus[cpu].tlb.drop(entries[number % len(entries)])
            case "prefetch":
                cpu, page = what
                box.cpus[cpu].prefetch(page << 12)
            case _:
                cpu, page = what
                need = EL0_READ if name == "read" else EL0_WRITE
                answer = box.cpus[cpu].translate(page << 12, need)
                since[page].add(box.memory.read(places[page]))
                assert answer in possible(space, places[page], since[page], page, need)
        assert replay.held == contents(box)


def possible(space, place, words, page, need):
    """What an access may answer if the descriptor is one of *words*."""
    answers = set()
    was = space.memory.read(place)
    for word in words:
        space.memory.write(place, word)
        found = translate(space.regime(), space.memory, page << 12, need)
        answers.add(found if isinstance(found, Fault) else found.pa)
    space.memory.write(place, was)
    return answers


@given(stories)
def test_nothing_is_cached_that_would_fault(story):
    """No TLB takes in an invalid descriptor, or one with the access flag clear."""
    box, space = booted(3)
    places = [space.map(page << 12, 0x8000_0000 + (page << 12)) for page in range(6)]
    filled = hear(box, "fill")
    for name, *what in story:
        if name == "store":
            page, attributes = what
            pa = 0x8000_0000 + (page << 12)
            box.cpus[0].store(places[page], leaf(pa, attributes) if attributes else 0)
        elif name in {"read", "write", "prefetch"}:
            cpu, page = what
            if name == "prefetch":
                box.cpus[cpu].prefetch(page << 12)
            else:
                box.cpus[cpu].translate(page << 12, EL0_WRITE)
        for event in filled:
            descriptor = getattr(event.what, "descriptor", d.VALID | d.AF)
            assert descriptor & d.VALID
            assert descriptor & d.AF
        filled.clear()


# S1 to S8: ASIDs and global entries.


def stale(name, operand, *, asid=5, attributes=RW, after="ish"):
    """Whether an entry made under ASID 5 outlives an operation after its removal."""
    box, space = booted(1)
    (cpu,) = box.cpus
    place = space.map(VA, FRAME, attributes)
    assert cpu.read(VA) == 0
    cpu.store(place, 0)
    flush(cpu, name, operand, after=after)
    cpu.switch(space.regime(asid))
    return cpu.read(VA) != TRANSLATION_3


@pytest.mark.parametrize(
    ("rule", "name", "operand", "attributes", "expected"),
    [
        ("S1", "ASIDE1IS", encode_asid(6), RW, True),
        ("S2", "ASIDE1IS", encode_asid(5), RW, False),
        ("S3", "ASIDE1IS", encode_asid(5), RW & ~d.NG, True),
        ("S4", "VAE1IS", encode_va(VA, 9), RW & ~d.NG, False),
        ("S5", "VAE1IS", encode_va(VA, 6), RW, True),
        ("S6", "VAAE1IS", encode_va(VA), RW, False),
        ("all", "VMALLE1IS", 0, RW & ~d.NG, False),
    ],
)
def test_asids_and_global_entries(rule, name, operand, attributes, expected):
    """S1 to S6: ASIDE1 takes what is its own, by-VA forms take global ones as well."""
    assert stale(name, operand, attributes=attributes) is expected, rule


def test_s6_an_any_asid_flush_speaks_for_every_asid():
    """S6: VAAE1IS leaves nothing for the address, whichever ASID filled it."""
    box, space = booted(1)
    (cpu,) = box.cpus
    place = space.map(VA, FRAME)
    for asid in (5, 6, 7):
        cpu.switch(space.regime(asid))
        assert cpu.read(VA) == 0
    cpu.store(place, 0)
    flush(cpu, "VAAE1IS", encode_va(VA))
    for asid in (5, 6, 7):
        cpu.switch(space.regime(asid))
        assert cpu.read(VA) == TRANSLATION_3


def test_s7_a_switch_changes_which_entries_answer():
    """S7: after a switch without a flush, entries of the old ASID are not used."""
    box, space = booted(1)
    other = Space(box.memory, root=0x5000_0000)
    space.map(VA, FRAME)
    other.map(VA, OTHER)
    (cpu,) = box.cpus
    cpu.write(VA, 1)
    cpu.switch(other.regime(6))
    assert cpu.read(VA) == 0
    cpu.write(VA, 2)
    cpu.switch(space.regime(5))
    assert (cpu.read(VA), box.memory.read(OTHER)) == (1, 2)
    assert len(held(cpu, VA, 5) | held(cpu, VA, 6)) == 2


def test_s8_a_reused_asid_finds_what_its_last_owner_left():
    """S8: without a flush the new owner of an ASID reads the old one's page."""
    box, space = booted(1)
    other = Space(box.memory, root=0x5000_0000)
    space.map(VA, FRAME)
    other.map(VA, OTHER)
    (cpu,) = box.cpus
    cpu.write(VA, 1)
    cpu.switch(other.regime(5))
    assert cpu.read(VA) == 1
    flush(cpu, "VMALLE1", before="nshst", after="nsh")
    assert cpu.read(VA) == 0


# S9, S10, T1.5: tables in the walk cache.


@pytest.mark.parametrize(
    ("name", "expected"),
    [("VALE1IS", FRAME + 8), ("VAE1IS", OTHER + 8), ("ASIDE1IS", OTHER + 8)],
)
def test_an_unlinked_table_is_found_until_its_flush(name, expected):
    """S9, S10: after a last-level flush, a walk goes through the table that is gone."""
    box, space = booted(1)
    (cpu,) = box.cpus
    space.map(VA, FRAME)
    cpu.read(VA)
    entry = space.place(VA, 2)
    cpu.store(entry, 0)
    operand = encode_asid(5) if name == "ASIDE1IS" else encode_va(VA, 5)
    flush(cpu, name, operand)
    space.map(VA, OTHER)  # in a new table
    assert cpu.translate(VA + 8, EL0_READ) == expected


@given(seeds)
def test_t1_5_last_level_operations_leave_tables_alone(random):
    """T1.5: a VALE form never drops a table; a VAE form does; VALE at 3 no block."""
    box, space = booted(1)
    (cpu,) = box.cpus
    space.map(VA, FRAME)
    space.map(BLOCK * 4, OTHER, level=2)
    cpu.read(VA)
    cpu.read(BLOCK * 4)
    tables = set(cpu.tlb.walk.items())
    assert len(tables) == 3
    va = random.choice((VA, BLOCK * 4 + random.randrange(BLOCK)))
    flush(cpu, "VALE1", encode_va(va, 5, 3))
    assert set(cpu.tlb.walk.items()) == tables
    assert held(cpu, BLOCK * 4)
    flush(cpu, "VALE1", encode_va(va, 5))
    assert set(cpu.tlb.walk.items()) == tables
    flush(cpu, "VAE1", encode_va(VA, 5))
    assert len(cpu.tlb.walk) == 0


def test_walk_cache_entries_resume_a_walk():
    """A second walk nearby starts at the table that the first one found."""
    box, space = booted(1)
    (cpu,) = box.cpus
    space.map(VA, FRAME)
    space.map(VA + 4096, FRAME + 4096)
    walks = hear(box, "walk")
    cpu.read(VA)
    cpu.read(VA + 4096)
    assert [walk.old and walk.old.level for walk in walks] == [None, 3]


# S11 to S14: blocks, groups, ranges and hints.


@given(st.integers(0, BLOCK - 1), st.integers(0, BLOCK - 1))
def test_s11_a_block_goes_whole(used, flushed):
    """S11: a flush of any address in a block takes the entry for all of it."""
    box, space = booted(1)
    (cpu,) = box.cpus
    base = 4 * BLOCK
    place = space.map(base, FRAME, level=2)
    used &= ~7
    assert cpu.read(base + used) == 0
    cpu.store(place, 0)
    flush(cpu, "VALE1IS", encode_va(base + flushed, 5))
    assert cpu.read(base + used) == Fault(FaultKind.TRANSLATION, 2)


@pytest.mark.parametrize(("size", "expected"), [({12}, True), ({12, 16}, False)])
def test_s12_a_group_held_as_pages_goes_page_by_page(size, expected):
    """S12: after a flush of the first page, other pages may stay, or not."""
    box, space = booted(1, l1d=tiny(1, 32, size), l2=tiny(1, 32, size))
    (cpu,) = box.cpus
    base = 0x1_0000
    for page in range(16):
        space.map(base + page * 4096, FRAME + page * 4096, RW | d.CONTIGUOUS)
    for page in range(16):
        assert cpu.read(base + page * 4096) == 0
    assert len(cpu.tlb.l2) == (16 if expected else 1)
    for page in range(16):
        cpu.store(space.place(base + page * 4096), 0)
    flush(cpu, "VALE1IS", encode_va(base, 5))
    assert cpu.read(base) == TRANSLATION_3
    assert (cpu.read(base + 5 * 4096) == 0) is expected


def test_s13_a_range_that_ends_early_leaves_the_last_page():
    """S13: of 65 pages, an operation on 64 leaves one stale."""
    box, space = booted(1, l2=tiny(1, 128))
    (cpu,) = box.cpus
    places = [space.map(page << 12, FRAME + (page << 12)) for page in range(65)]
    for page in range(65):
        cpu.read(page << 12)
    for place in places:
        cpu.store(place, 0)
    flush(cpu, "RVALE1IS", encode_range(0, 5, scale=1, num=0))
    answers = [cpu.read(page << 12) for page in range(65)]
    assert answers == [TRANSLATION_3] * 64 + [0]


@pytest.mark.parametrize("level", [2, 3, None])
@pytest.mark.parametrize("hint", [1, 2, 3, None])
@pytest.mark.parametrize("name", ["VALE1", "VAE1IS", "RVALE1IS", "RVAAE1"])
def test_s14_a_wrong_level_leaves_the_entry(name, hint, level):
    """S14: a hint that names another level drops nothing, a right one or none does."""
    box, space = booted(1)
    (cpu,) = box.cpus
    level = level or 1
    place = space.map(1 << 30, FRAME, level=level)
    assert cpu.read(1 << 30) == 0
    cpu.store(place, 0)
    if name.startswith("R"):
        operand = encode_range(1 << 30, 5, 0, 0, hint)
    else:
        operand = encode_va(1 << 30, 5, hint)
    flush(cpu, name, operand)
    gone = hint in (None, level)
    assert bool(held(cpu, 1 << 30)) is not gone


@pytest.mark.parametrize("granule", GRANULES, ids=lambda granule: granule.name)
def test_a_hint_of_another_granule_leaves_the_entry(granule):
    """The granule in the operand must be that of the translation."""
    box, space = booted(1)
    (cpu,) = box.cpus
    space.map(VA, FRAME)
    cpu.read(VA)
    flush(cpu, "VALE1", encode_va(VA, 5, 3, granule.page_shift))
    assert bool(held(cpu, VA)) is (granule.page_shift != 12)
    flush(cpu, "RVALE1", encode_range(0, 5, 1, 0, None, granule.page_shift))
    assert bool(held(cpu, VA)) is (granule.page_shift != 12)


# In flight until the barrier that completes it.


@pytest.mark.parametrize("kind", list(BARRIERS))
@pytest.mark.parametrize("name", ["VALE1", "VALE1IS", "VALE1ISnXS", "VALE1OS"])
def test_which_barrier_completes_what(kind, name):
    """Only a full DSB completes; the non-shareable one completes local forms only."""
    box, space = booted(1)
    (cpu,) = box.cpus
    place = space.map(VA, FRAME)
    cpu.read(VA)
    cpu.store(place, 0)
    cpu.dsb("ish")
    cpu.tlbi(name, encode_va(VA, 5))
    assert cpu.in_flight
    assert cpu.read(VA) == 0
    cpu.dsb(kind)
    completes = not kind.endswith(("st", "ld"))
    completes = completes and (kind != "nsh" or name == "VALE1")
    assert bool(cpu.in_flight) is not completes
    assert (cpu.read(VA) == TRANSLATION_3) is completes


@pytest.mark.parametrize("kind", ["ish", "sy"])
def test_another_cpus_barrier_completes_nothing(kind):
    """A TLBI is waited for by its issuer alone."""
    box, space = booted(2)
    one, other = box.cpus
    place = space.map(VA, FRAME)
    for cpu in box.cpus:
        cpu.read(VA)
    one.store(place, 0)
    one.dsb("ish")
    one.tlbi("VALE1IS", encode_va(VA, 5))
    other.dsb(kind)
    assert [cpu.read(VA) for cpu in box.cpus] == [0, 0]
    one.dsb(kind)
    assert [cpu.read(VA) for cpu in box.cpus] == [TRANSLATION_3] * 2


@pytest.mark.parametrize(
    ("before", "name", "stays"),
    [
        (None, "VALE1IS", True),
        ("ishld", "VALE1IS", True),
        ("nshst", "VALE1IS", True),
        ("ishst", "VALE1IS", False),
        ("ish", "VALE1IS", False),
        ("st", "VALE1IS", False),
        (None, "VALE1", True),
        ("nshst", "VALE1", False),
        ("nsh", "VALE1", False),
        ("ishst", "VALE1", False),
    ],
)
@pytest.mark.parametrize("how", ["store", "swap", "compare_exchange"])
def test_without_a_barrier_before_it_a_tlbi_may_come_first(how, before, name, stays):
    """What was cached of a descriptor outlives a TLBI that did not wait for a store."""
    box, space = booted(1)
    (cpu,) = box.cpus
    place = space.map(VA, FRAME)
    cpu.read(VA)
    match how:
        case "store":
            cpu.store(place, 0)
        case "swap":
            assert cpu.swap(place, 0) == leaf(FRAME)
        case _:
            assert cpu.compare_exchange(place, leaf(FRAME), 0) == leaf(FRAME)
    if before is not None:
        cpu.dsb(before)
    cpu.tlbi(name, encode_va(VA, 5))
    cpu.dsb("ish")
    assert (cpu.read(VA) == 0) is stays


def test_a_store_that_made_nothing_stale_spares_nothing():
    """An invalid descriptor made valid before an unordered TLBI leaves no old entry."""
    box, space = booted(1)
    (cpu,) = box.cpus
    place = space.place(VA)
    cpu.store(place, leaf(FRAME))
    cpu.read(VA)
    cpu.tlbi("VALE1IS", encode_va(VA, 5))
    cpu.dsb("ish")
    assert not held(cpu, VA)


def test_an_unknown_barrier_is_answered_with_the_known_ones():
    """A misspelt barrier is an error, not a barrier."""
    (cpu,) = machine().cpus
    with pytest.raises(InputError, match="ishst"):
        cpu.dsb("ishts")


def test_a_range_form_needs_the_feature():
    """On a CPU without FEAT_TLBIRANGE the range forms are undefined."""
    (cpu,) = machine(range_tlbi=False).cpus
    with pytest.raises(InputError, match="FEAT_TLBIRANGE"):
        cpu.tlbi("RVALE1IS", 0)
    assert not cpu.in_flight


def test_with_8_bit_asids_the_upper_half_is_ignored():
    """TCR_EL1.AS = 0: entry and operand are compared in 8 bits."""
    box, space = booted(1, tcr={"AS": 0}, asid=0x105)
    (cpu,) = box.cpus
    space.map(VA, FRAME)
    cpu.read(VA)
    assert held(cpu, VA, 5)
    flush(cpu, "ASIDE1", encode_asid(0xAB05))
    assert not cpu.tlb.entries()


# Hardware management of access flag and dirty state.


def test_the_access_flag_is_set_before_an_entry_is_kept():
    """A first access sets AF in memory, and only then is the translation cached."""
    box, space = booted(1)
    (cpu,) = box.cpus
    place = space.map(VA, FRAME, RW & ~d.AF)
    told = hear(box)
    assert cpu.read(VA) == 0
    assert box.memory.read(place) == leaf(FRAME)
    kinds = [event.kind for event in told]
    assert kinds.index("hardware") < kinds.index("fill", kinds.index("hardware"))
    update = told[kinds.index("hardware")]
    assert (update.what, update.old, update.new) == (
        place,
        leaf(FRAME, RW & ~d.AF),
        leaf(FRAME),
    )


def test_without_hardware_management_software_gets_a_fault():
    """TCR_EL1.HA = 0: an access-flag fault, nothing written, nothing cached."""
    box, space = booted(1, tcr={"HA": 0, "HD": 0})
    (cpu,) = box.cpus
    place = space.map(VA, FRAME, RW & ~d.AF)
    assert cpu.read(VA) == Fault(FaultKind.ACCESS_FLAG, 3)
    assert box.memory.read(place) == leaf(FRAME, RW & ~d.AF)
    assert not cpu.tlb.entries()


def test_the_first_write_sets_the_dirty_state():
    """A clean writable page is read through its entry, and marked when written."""
    box, space = booted(1)
    (cpu,) = box.cpus
    place = space.map(VA, FRAME, CLEAN)
    cpu.read(VA)
    assert box.memory.read(place) == leaf(FRAME, CLEAN)
    assert cpu.write(VA, 7) is None
    assert box.memory.read(place) == leaf(FRAME, RW | d.DBM)
    assert cpu.read(VA) == 7
    assert [entry.descriptor for entry in held(cpu, VA)] == [leaf(FRAME, RW | d.DBM)]


@pytest.mark.parametrize(
    ("now", "expected"),
    [(0, TRANSLATION_3), (leaf(FRAME, RO), PERMISSION_3)],
    ids=["unmapped", "write-protected"],
)
def test_a_dirty_update_looks_at_memory_again(now, expected):
    """A clean entry does not let a write through once software took the page away."""
    box, space = booted(1)
    (cpu,) = box.cpus
    place = space.map(VA, FRAME, CLEAN)
    cpu.read(VA)
    cpu.store(place, now)
    assert cpu.write(VA, 7) == expected
    assert box.memory.read(place) == now
    assert box.memory.read(FRAME) == 0


def test_a_permission_fault_leaves_the_access_flag():
    """Who may not access does not count as having accessed."""
    box, space = booted(1)
    (cpu,) = box.cpus
    place = space.map(VA, FRAME, RO & ~d.AF)
    assert cpu.write(VA, 1) == PERMISSION_3
    assert box.memory.read(place) == leaf(FRAME, RO & ~d.AF)
    assert not cpu.tlb.entries()


# What is checked before a TLB is asked.


def test_a_tagged_address_finds_the_same_entry():
    """TBI: with the top byte ignored, all tags share one entry and one walk."""
    box, space = booted(1, tcr={"TBI0": 1})
    (cpu,) = box.cpus
    space.map(VA, FRAME)
    walks = hear(box, "walk")
    for tag in range(0, 256, 51):
        assert cpu.write(VA | tag << 56, tag) is None
        assert cpu.read(VA) == tag
    assert len(walks) == 1
    assert len(cpu.tlb.entries()) == 1


def test_without_tbi_a_tag_is_part_of_the_address():
    """An address with a tag is out of range, whatever the TLB holds."""
    box, space = booted(1)
    (cpu,) = box.cpus
    space.map(VA, FRAME)
    cpu.read(VA)
    assert cpu.read(VA | 1 << 56) == Fault(FaultKind.TRANSLATION, 0)


def test_e0pd_refuses_el0_even_on_a_hit():
    """E0PD: EL0 faults at once though EL1 has the translation in the TLB."""
    box, space = booted(1, tcr={"E0PD0": 1})
    (cpu,) = box.cpus
    space.map(VA, FRAME)
    assert cpu.read(VA, EL1_READ) == 0
    assert cpu.read(VA) == Fault(FaultKind.TRANSLATION, 0)
    assert cpu.read(VA, EL1_READ) == 0


def test_with_walks_off_a_hit_is_still_a_hit():
    """EPD stops walks on a miss; what is cached goes on to answer."""
    box, space = booted(1)
    (cpu,) = box.cpus
    space.map(VA, FRAME)
    space.map(VA + 4096, FRAME)
    cpu.read(VA)
    cpu.switch(space.regime(EPD0=1))
    assert cpu.read(VA) == 0
    assert cpu.read(VA + 4096) == Fault(FaultKind.TRANSLATION, 0)


def test_both_halves_are_looked_up():
    """A kernel address is translated by TTBR1, is global, and has its own entry."""
    box, space = booted(1)
    upper = Space(box.memory, root=0x5000_0000)
    high = 0xFFFF_0000_0000_0000
    upper.map(VA, FRAME, d.AF | d.INNER_SHAREABLE << d.SH_SHIFT | d.PXN | d.UXN)
    regime = space.regime()
    (cpu,) = box.cpus
    cpu.switch(regime.with_ttbr(ttbr1=upper.regime().ttbr0))
    assert cpu.write(high + VA, 9, EL1_WRITE) is None
    (entry,) = cpu.tlb.entries()
    assert (entry.va, entry.asid) == (high + VA, GLOBAL)
    assert cpu.read(VA) == Fault(FaultKind.TRANSLATION, 0)


def test_fetches_have_a_micro_tlb_of_their_own():
    """A fetch fills L1I and L2; a load of the same page then hits in L2."""
    box, space = booted(1)
    (cpu,) = box.cpus
    space.map(VA, FRAME, RO & ~d.UXN)
    assert cpu.execute(VA) is None
    assert (len(cpu.tlb.l1i), len(cpu.tlb.l1d), len(cpu.tlb.l2)) == (1, 0, 1)
    walks = hear(box, "walk")
    assert cpu.read(VA) == 0
    assert not walks
    assert cpu.tlb.l1d.refills == 1
    assert cpu.write(VA, 1) == PERMISSION_3


def test_a_cpu_without_tables_says_so():
    """Before the first switch there is nothing to translate by."""
    (cpu,) = machine().cpus
    with pytest.raises(NoRegimeError, match="switch"):
        cpu.read(VA)


# Speculation, as its caller drives it.


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [(RW, True), (RO, True), (RW & ~d.AF, False), (None, False)],
)
def test_speculation_fills_what_would_not_fault(attributes, expected):
    """A prefetch caches a translation without any access, or nothing at all."""
    box, space = booted(1)
    (cpu,) = box.cpus
    place = space.place(VA) if attributes is None else space.map(VA, FRAME, attributes)
    word = box.memory.read(place)
    told = hear(box, "fault", "hardware", "read")
    assert cpu.prefetch(VA) is expected
    assert bool(held(cpu, VA)) is expected
    assert cpu.prefetch(VA) is expected
    assert box.memory.read(place) == word
    assert not told


def test_a_speculative_fill_makes_a_later_change_stale():
    """What was filled unasked is used after the tables have changed."""
    box, space = booted(2)
    space.map(VA, FRAME)
    assert box.cpus[1].prefetch(VA)
    box.cpus[0].store(space.place(VA), 0)
    assert box.cpus[0].read(VA) == TRANSLATION_3
    assert box.cpus[1].read(VA) == 0
    (entry,) = held(box.cpus[1], VA)
    box.cpus[1].tlb.drop(entry)
    assert box.cpus[1].read(VA) == TRANSLATION_3


# Misuse.


@pytest.mark.parametrize(
    ("new", "breaks"),
    [
        (leaf(OTHER), True),
        (leaf(FRAME, RW | d.CONTIGUOUS), True),
        (leaf(FRAME, RW & ~d.NG), True),
        (leaf(FRAME, RW | 1 << d.ATTR_INDEX_SHIFT), True),
        (leaf(FRAME, RW & ~d.SH_MASK), True),
        (leaf(FRAME, level=2), True),
        (leaf(FRAME, RO), False),
        (leaf(FRAME, CLEAN & ~d.AF), False),
        (leaf(FRAME, RW & ~d.UXN | 1 << 55 | 1 << 63), False),
        (0, False),
        (leaf(OTHER) & ~d.VALID, False),
    ],
)
@pytest.mark.parametrize("how", ["store", "swap", "compare_exchange"])
def test_what_needs_a_break(how, new, breaks):
    """A live descriptor changes rights in place, and nothing else."""
    box, space = booted(1)
    (cpu,) = box.cpus
    place = space.map(VA, FRAME)
    old = leaf(FRAME)
    arguments = (place, old, new) if how == "compare_exchange" else (place, new)
    told = hear(box)
    assert needs_break(old, new) is breaks
    if not breaks:
        getattr(cpu, how)(*arguments)
        assert box.memory.read(place) == new
        return
    with pytest.raises(BreakBeforeMakeError, match="no step between") as caught:
        getattr(cpu, how)(*arguments)
    assert (caught.value.pa, caught.value.old, caught.value.new) == (place, old, new)
    assert box.memory.read(place) == old
    assert not told


def test_bbml2_lets_sizes_change_in_place():
    """FEAT_BBM level 2: Contiguous bit and block size, and still not the address."""
    box, space = booted(1, bbml2_noabort=True)
    (cpu,) = box.cpus
    place = space.map(VA, FRAME)
    cpu.store(place, leaf(FRAME, RW | d.CONTIGUOUS))
    cpu.store(place, leaf(FRAME, level=2))
    with pytest.raises(BreakBeforeMakeError):
        cpu.store(place, leaf(OTHER, level=2))


@given(st.integers(0, 15), st.integers(0, 15), st.data())
def test_a_group_that_disagrees_is_misuse(used, wrong, data):
    """One odd descriptor is named when the group is cached, unless it is not valid."""
    box, space = booted(1)
    (cpu,) = box.cpus
    base = 0x1_0000
    for page in range(16):
        space.map(base + page * 4096, FRAME + page * 4096, RW | d.CONTIGUOUS)
    right = leaf(FRAME + wrong * 4096, RW | d.CONTIGUOUS)
    flipped = data.draw(
        st.sampled_from(
            (d.CONTIGUOUS, d.NG, d.AP_READ_ONLY, d.UXN, 1 << 12, 1 << 40, d.AF, 1 << 56)
        )
    )
    assume(used != wrong or flipped in (1 << 12, d.AF, 1 << 56))
    place = space.place(base + wrong * 4096)
    box.memory.write(place, right ^ flipped)
    if flipped in (d.AF, 1 << 56):
        assert cpu.read(base + used * 4096) == 0
        return
    with pytest.raises(ContiguousMisuseError) as caught:
        cpu.read(base + used * 4096)
    assert not cpu.tlb.entries()
    if used != wrong:
        assert (caught.value.pa, caught.value.expected) == (place, right)
    box.memory.write(place, 0)
    if used != wrong:
        assert cpu.read(base + used * 4096) == 0


def test_in_a_group_the_dirty_state_of_one_is_that_of_all():
    """With hardware management AP[2] may differ, and the group is one entry."""
    box, space = booted(1)
    (cpu,) = box.cpus
    base = 0x1_0000
    for page in range(16):
        space.map(base + page * 4096, FRAME + page * 4096, CLEAN | d.CONTIGUOUS)
    cpu.read(base)
    assert len(cpu.tlb.l2) == 1
    cpu.write(base + 4096, 1)
    cpu.read(base + 2 * 4096)
    assert len(cpu.tlb.l2) == 1
    assert cpu.write(base + 3 * 4096, 2) is None
    # The entry is writable now, for all of its pages; only one is marked.
    dirty = [
        not box.memory.read(space.place(base + page * 4096)) & d.AP_READ_ONLY
        for page in range(16)
    ]
    assert dirty == [page == 1 for page in range(16)]


# Events.


def test_an_access_is_one_step():
    """All that an access does is told when it is done, so nobody can come between."""
    box, space = booted(1)
    (cpu,) = box.cpus
    space.map(VA, FRAME, CLEAN & ~d.AF)
    told = []

    def act(event):
        told.append((event.kind, box.memory.read(FRAME)))

    box.events.schedule(act)
    cpu.write(VA, 7)
    assert told == [("write", 7)]
    told.clear()
    cpu.read(VA + 4096)
    cpu.prefetch(VA)
    assert [kind for kind, _ in told] == ["fault"]


@given(seeds)
def test_walks_are_told_with_what_they_found(random):
    """A walk event has the address, where the walk went on from, and its outcome."""
    box, space = booted(1, walk_cache=2)
    (cpu,) = box.cpus
    vas = [random.randrange(1 << 35) & ~0xFFF for _ in range(6)]
    for va in vas:
        space.map(va, FRAME)
    walks = hear(box, "walk")
    for va in random.choices([*vas, 1 << 40], k=12):
        cpu.read(va)
        if walks:
            event = walks.pop()
            assert event.what == va
            assert event.new == walk(cpu.regime, box.memory, va, event.old)
            assert event.old is None or event.old.va >> event.old.shift == (
                va >> event.old.shift
            )


def test_descriptor_stores_are_told():
    """Old, new and reason of each store; a failed exchange is none."""
    box, space = booted(1)
    (cpu,) = box.cpus
    place = space.place(VA)
    told = hear(box, "store")
    cpu.store(place, leaf(FRAME), "map")
    cpu.swap(place, 0, "unmap")
    assert cpu.compare_exchange(place, 5, 6, "never") == 0
    cpu.compare_exchange(place, 0, 4, "note")
    assert [(e.what, e.old, e.new, e.why) for e in told] == [
        (place, 0, leaf(FRAME), "map"),
        (place, leaf(FRAME), 0, "unmap"),
        (place, 0, 4, "note"),
    ]


def test_every_size_of_every_granule_is_translated():
    """Pages, blocks and groups of all granules are cached as one entry and answer."""
    for granule in GRANULES:
        box = machine(l1d=tiny(), l2=tiny(), page_shift=granule.page_shift)
        space = Space(box.memory, ROOT, granule)
        (cpu,) = box.cpus
        cpu.switch(space.regime())
        for level in range(granule.first_block_level, 4):
            va = 1 << 46 | level << 42
            space.map(va, 1 << 42, level=level)
            offset = (1 << granule.shift(level)) - 8
            assert cpu.translate(va + offset, EL0_READ) == (1 << 42) + offset
            (entry,) = held(cpu, va)
            assert entry.shift == granule.shift(level)
            assert entry.shift in EVERY_SIZE
        assert cpu.execute(va, EL0_EXECUTE) == PERMISSION_3
