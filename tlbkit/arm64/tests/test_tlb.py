"""Laws of the translation caches: what is found, what is replaced, what is dropped."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlbkit.arm64.cached import GLOBAL, CachedTable
from tlbkit.arm64.conflicts import TlbConflictError
from tlbkit.arm64.events import Stream
from tlbkit.arm64.granule import GRANULE_4K, GRANULE_16K, GRANULE_64K, GRANULES
from tlbkit.arm64.machine import Machine
from tlbkit.arm64.tests.support import (
    EVERY_SIZE,
    Replay,
    booted,
    contents,
    hear,
    machine,
    some_entry,
    some_leaf,
    tiny,
)
from tlbkit.arm64.tlb import WALK_CACHE, Tlb
from tlbkit.arm64.tlbi import (
    OPERATIONS,
    By,
    decode,
    encode_asid,
    encode_range,
    encode_va,
    range_pages,
)
from tlbkit.arm64.walk import Table

ASIDS = (5, 6, 7)
# Close together, so that operations meet entries, in both halves.
BASES = (0, 0x4000_0000, 0xFFFF_8000_0000_0000)
seeds = st.integers(0, 1 << 32).map(Random)


def some_address(random):
    """An address that others are close to."""
    return random.choice(BASES) + random.choice((1, 512, 1 << 18)) * 4096 * (
        random.randrange(40)
    )


def some_items(random, count=30):
    """Entries of all granules, levels, groups and ASIDs, and tables above them."""
    entries, tables = [], []
    for _ in range(count):
        granule = random.choice(GRANULES)
        level = random.choice([n for n in (1, 2, 3) if granule.has_leaf(n)])
        va, asid = some_address(random), random.choice((*ASIDS, GLOBAL))
        group = random.random() < 0.3
        entries.append(some_entry(va, asid, granule, level, group=group))
        granule, level = random.choice(GRANULES), random.choice((1, 2, 3))
        shift = granule.shift(level - 1)
        first = some_address(random) >> shift << shift
        place = 8 * random.randrange(1 << 20)
        tables.append(
            (Table(level, first, shift, 0, 0, place, 3), random.choice(ASIDS))
        )
    return entries, tables


def some_operation(random):
    """An operation and an operand that has a chance to name something."""
    operation = random.choice(list(OPERATIONS.values()))
    va, asid = some_address(random), random.choice(ASIDS)
    granule = random.choice(GRANULES)
    level = random.choice((None, 1, 2, 3))
    match operation.by:
        case By.VA:
            return operation, encode_va(va, asid, level, granule.page_shift)
        case By.RANGE:
            scale, num = random.randrange(4), random.randrange(32)
            shift = granule.page_shift
            return operation, encode_range(va, asid, scale, num, level, shift)
    return operation, encode_asid(asid)


def full_tlb(random, events=None, **changes):
    """A TLB with all kinds of items in it."""
    box = machine(**{"l1d": tiny(1, 8), "l1i": tiny(1, 8), "l2": tiny(4, 8)} | changes)
    tlb = Tlb(0, box.model, events or Stream(), {})
    entries, tables = some_items(random)
    for entry in entries:
        tlb.fill(entry, entry.va, random.choice((tlb.l1i, tlb.l1d)))
    for table, asid in tables:
        tlb.fill_table(table, asid)
    return tlb


# What an operation must drop, worked out from the text of the architecture alone.


def span(item, shift):
    """The addresses that an item answers for."""
    first = item.va >> shift << shift
    return first, first + (1 << shift) - 1


def named_span(operation, operand):
    """The addresses that an operand of a by-address form names."""
    if operation.by is By.VA:
        low = (operand % (1 << 44)) << 12
        first = low if low < 1 << 55 else low + (1 << 64) - (1 << 56)
        return first, first
    tg = {1: 12, 2: 14, 3: 16}[operand >> 46 & 3]
    low = (operand % (1 << 37)) << tg
    first = low if low < 1 << tg + 36 else low + (1 << 64) - (1 << tg + 37)
    pages = range_pages(operand >> 44 & 3, operand >> 39 & 31)
    return first, first + pages * (1 << tg) - 1


def hinted(operation, operand):
    """Granule and level that an operand names; ``None`` for any."""
    named = {1: GRANULE_4K, 2: GRANULE_16K, 3: GRANULE_64K}
    if operation.by is By.VA:
        granule, level = named.get(operand >> 46 & 3), operand >> 44 & 3
        if granule is None or level == 0 or (granule is GRANULE_16K and level == 1):
            return None, None
        return granule, level
    granule, level = named[operand >> 46 & 3], operand >> 37 & 3
    if level == 0 or (granule is GRANULE_16K and level == 1):
        return granule, None
    return granule, level


def granule_of(level, shift):
    """The granule of a leaf."""
    return next(g for g in GRANULES if g.shift(level) == shift)


def must_go(operation, operand, entry):
    """Whether *entry* must be dropped, by the table of operations in the manual."""
    asid = operand >> 48
    if operation.by is By.ALL:
        return True
    if operation.by is By.ASID:
        return entry.asid == asid
    if not operation.any_asid and entry.asid not in (asid, GLOBAL):
        return False
    granule, level = hinted(operation, operand)
    leaf = entry.leaf
    if granule not in (None, granule_of(leaf.level, leaf.shift)):
        return False
    if level not in (None, leaf.level):
        return False
    first, last = named_span(operation, operand)
    low, high = span(entry, max(entry.shift, leaf.shift))
    return first <= high and low <= last


def table_must_go(operation, operand, cached):
    """The same for a table in the walk cache."""
    asid, table = cached
    if operation.last_level:
        return False
    if operation.by is By.ALL:
        return True
    if not operation.any_asid and asid != operand >> 48:
        return False
    if operation.by is By.ASID:
        return True
    granule, level = hinted(operation, operand)
    if granule not in (None, granule_of(table.level - 1, table.shift)):
        return False
    if level is not None and table.level > level:
        return False
    first, last = named_span(operation, operand)
    low, high = span(table, table.shift)
    return first <= high and low <= last


def held_by(tlb):
    """What each structure holds."""
    held = {array.name: set(array) for array in tlb.arrays}
    return held | {WALK_CACHE: set(tlb.walk.items())}


@given(seeds, st.booleans())
def test_a_tlbi_is_exact_and_monotone(random, pieces):
    """It drops what it names, in every structure, keeps the rest and adds nothing."""
    changes = {"l1d": tiny(1, 30, {12, 14, 16})} if pieces else {}
    tlb = full_tlb(random, **changes)
    for _ in range(4):
        operation, operand = some_operation(random)
        before = held_by(tlb)
        tlb.invalidate(operation, decode(operation, operand))
        after = held_by(tlb)
        for name, items in before.items():
            goes = table_must_go if name == WALK_CACHE else must_go
            stays = {item for item in items if not goes(operation, operand, item)}
            assert after[name] == stays, name
        assert sum(map(len, tlb.arrays)) == sum(
            len(list(array)) for array in tlb.arrays
        )


@given(seeds)
def test_an_over_invalidating_tlbi_drops_everything(random):
    """Hardware may drop more than is named; the option drops all, whatever is named."""
    tlb = full_tlb(random, over_invalidates=True)
    operation, operand = some_operation(random)
    tlb.invalidate(operation, decode(operation, operand))
    assert not any(held_by(tlb).values())


@given(seeds)
def test_what_was_not_waited_for_is_spared(random):
    """A TLBI drops what it names but for what was made from the spared descriptors."""
    tlb = full_tlb(random)
    spared = {entry.descriptor_pa for entry in tlb.entries() if random.random() < 0.5}
    before = held_by(tlb)
    operation, operand = some_operation(random)
    tlb.invalidate(operation, decode(operation, operand), spared)
    after = held_by(tlb)
    for array in tlb.arrays:
        for entry in before[array.name]:
            stays = entry.descriptor_pa in spared
            stays = stays or not must_go(operation, operand, entry)
            assert (entry in after[array.name]) is stays
            if stays:  # and is found as before
                asid = 5 if entry.asid == GLOBAL else entry.asid
                assert entry in tlb.answers(entry.va, asid)
    # A second one, that nothing is spared from, finds them.
    tlb.invalidate(operation, decode(operation, operand))
    assert not any(must_go(operation, operand, entry) for entry in tlb.entries())


@given(seeds)
def test_fills_and_drops_tell_what_is_held(random):
    """Who hears fill and drop from the start knows the contents, victims included."""
    box = machine(l1d=tiny(1, 3), l1i=tiny(1, 2), l2=tiny(2, 3), walk_cache=3)
    replay = Replay(box)
    (tlb,) = box.tlbs
    entries, tables = some_items(random)
    for entry, (table, asid) in zip(entries, tables, strict=True):
        tlb.fill(entry, entry.va, random.choice((tlb.l1i, tlb.l1d)))
        tlb.fill_table(table, asid)
        if random.random() < 0.2:
            tlb.drop(random.choice(tlb.entries()))
            tlb.drop(next(iter(tlb.walk.items())))
        if random.random() < 0.1:
            operation, operand = some_operation(random)
            tlb.invalidate(operation, decode(operation, operand))
        assert replay.held == contents(box)


def test_a_refill_is_counted():
    """The counter is what a PMU calls a refill: entries put in, found again or not."""
    tlb = Tlb(0, machine().model, Stream(), {})
    for page in (1, 2, 1):
        tlb.fill(some_entry(page << 12), page << 12, tlb.l1d)
    assert (tlb.l1d.refills, tlb.l2.refills, tlb.l1i.refills) == (3, 3, 0)


# Sizes, pieces and conflicts.


@given(
    st.sampled_from(GRANULES), st.sampled_from((2, 3)), st.booleans(), st.integers(0)
)
def test_one_entry_answers_for_a_whole_block_or_group(granule, level, group, offset):
    """Any address inside finds it, and the next one outside does not."""
    box = machine(l1d=tiny(), l2=tiny())
    tlb = box.tlbs[0]
    entry = some_entry(0x40_0000_0000, 5, granule, level, group=group)
    tlb.fill(entry, entry.va, tlb.l1d)
    probes = tlb.sizes.of(5)
    size = 1 << entry.shift
    assert tlb.l1d.lookup(entry.va + offset % size, probes) == entry
    assert tlb.l1d.lookup(entry.va + size, probes) is None
    assert tlb.l1d.lookup(entry.va - 1, probes) is None


@given(st.integers(0, (1 << 30) - 1), st.integers(0, (1 << 30) - 1))
def test_what_does_not_fit_is_held_in_pieces_and_dropped_whole(used, flushed):
    """A 1 GiB block is kept in 2 MiB pieces, all gone when one address is flushed."""
    box = machine(l1d=tiny(1, 4, {12, 21}), l2=tiny())
    tlb = box.tlbs[0]
    entry = some_entry(0x40_0000_0000, 5, GRANULE_4K, 1)
    for va in (entry.va + used, entry.va + (used ^ 1 << 29)):
        tlb.fill(entry, va, tlb.l1d)
        piece = tlb.l1d.lookup(va, tlb.sizes.of(5))
        assert piece.shift == 21
        assert va >> 21 == piece.va >> 21
        assert piece.pa - piece.va == entry.pa - entry.va
    assert list(tlb.l2) == [entry]
    operand = encode_va(entry.va + flushed, 5)
    tlb.invalidate(OPERATIONS["VALE1"], decode(OPERATIONS["VALE1"], operand))
    assert tlb.entries() == []


def test_an_array_for_no_size_holds_nothing():
    """A translation smaller than everything that an array holds is not kept there."""
    box = machine(l1d=tiny(1, 4, {21}), l2=tiny(1, 4, set()))
    tlb = box.tlbs[0]
    entry = some_entry(0x1000)
    tlb.fill(entry, 0x1000, tlb.l1d)
    assert tlb.entries() == []


@pytest.mark.parametrize("asids", [(5, 5), (5, GLOBAL), (GLOBAL, 5)])
def test_two_answers_are_a_conflict(asids):
    """Where a page and a block, or a global and a private one, match: an error."""
    tlb = machine(l1d=tiny()).tlbs[0]
    page = some_entry(0x20_3000, asids[0])
    block = some_entry(0x20_0000, asids[1], GRANULE_4K, 2)
    for entry in (page, block):
        tlb.fill(entry, entry.va, tlb.l1d)
    probes = tlb.sizes.of(5)
    assert tlb.l1d.lookup(0x20_4000, probes) == block
    with pytest.raises(TlbConflictError, match="two entries answer") as caught:
        tlb.l1d.lookup(0x20_3008, probes)
    assert set(caught.value.entries) == {page, block}


def test_with_bbml2_two_sizes_may_answer():
    """FEAT_BBM level 2 without aborts: both are held, and one of them answers."""
    tlb = machine(l1d=tiny(), bbml2_noabort=True).tlbs[0]
    page = some_entry(0x20_3000, 5)
    block = some_entry(0x20_0000, 5, GRANULE_4K, 2)
    tlb.fill(block, block.va, tlb.l1d)
    tlb.fill(page, page.va, tlb.l1d)
    assert tlb.l1d.lookup(0x20_3008, tlb.sizes.of(5)) in {page, block}
    assert set(tlb.answers(0x20_3008, 5)) == {page, block}


def test_asids_are_apart():
    """An entry answers for its ASID, a global one for all."""
    tlb = machine().tlbs[0]
    tlb.fill(some_entry(0x1000, 5), 0x1000, tlb.l1d)
    tlb.fill(some_entry(0x2000, GLOBAL), 0x2000, tlb.l1d)
    for asid in ASIDS:
        probes = tlb.sizes.of(asid)
        assert (tlb.l1d.lookup(0x1000, probes) is not None) is (asid == 5)
        assert tlb.l1d.lookup(0x2000, probes) is not None


@given(seeds)
def test_sizes_are_noted_for_all_that_is_held(random):
    """Whatever an array or the walk cache holds, its own address finds something."""
    tlb = full_tlb(random)
    for _ in range(3):
        operation, operand = some_operation(random)
        tlb.invalidate(operation, decode(operation, operand))
        entries, tables = some_items(random, 4)
        for entry, (table, asid) in zip(entries, tables, strict=True):
            tlb.fill(entry, entry.va, tlb.l1d)
            tlb.fill_table(table, asid)
        for array in tlb.arrays:
            for entry in array:
                asids = ASIDS if entry.asid == GLOBAL else (entry.asid,)
                for asid in asids:
                    shifts = [shift for shift, _ in tlb.sizes.of(asid)]
                    assert entry.shift in shifts
                    assert shifts == sorted(shifts)
        for asid, table in tlb.walk.items():
            assert table.shift in [shift for shift, _ in tlb.walk.sizes.of(asid)]


def test_what_was_dropped_whole_is_tried_no_more():
    """After ASIDE1 look-ups of its ASID try what is global, after VMALLE1 nothing."""
    tlb = machine().tlbs[0]
    for asid in (5, 6, GLOBAL):
        tlb.fill(some_entry(asid << 12, asid), asid << 12, tlb.l1d)
        tlb.fill_table(Table(3, 0, 21, 0, 0, 0, 3), asid)
    target = decode(OPERATIONS["ASIDE1"], encode_asid(5))
    tlb.invalidate(OPERATIONS["ASIDE1"], target)
    assert [len(tlb.sizes.of(asid)) for asid in (5, 6, 7)] == [1, 2, 1]
    assert [len(tlb.walk.sizes.of(asid)) for asid in (5, 6)] == [1, 2]
    tlb.invalidate(OPERATIONS["VMALLE1"], target)
    assert not any(tlb.sizes.of(asid) for asid in (5, 6, 7))
    assert not any(tlb.walk.sizes.of(asid) for asid in (5, 6))


# The walk cache.


def test_the_walk_cache_answers_with_the_deepest_table():
    """Of the tables on the way to an address, the last one saves most."""
    tlb = machine().tlbs[0]
    tables = [Table(level, 0, 48 - 9 * level, 0, 0, 0, 3) for level in (1, 2, 3)]
    for table in tables:
        tlb.fill_table(table, 5)
    probes = tlb.walk.sizes.of(5)
    assert tlb.walk.lookup(0x1F_F000, probes).level == 3
    assert tlb.walk.lookup(0x20_0000, probes).level == 2
    assert tlb.walk.lookup(0x4000_0000, probes).level == 1
    assert tlb.walk.lookup(0x80_0000_0000, probes) is None
    assert tlb.walk.lookup(0, tlb.walk.sizes.of(6)) is None


def test_the_walk_cache_lets_go_of_the_oldest_use():
    """It has room for some tables; a look-up makes one young."""
    tlb = machine(walk_cache=2).tlbs[0]
    tables = [Table(3, n << 21, 21, 0, 0, 0, 3) for n in range(3)]
    for table in tables[:2]:
        tlb.fill_table(table, 5)
    tlb.walk.lookup(0, tlb.walk.sizes.of(5))
    tlb.fill_table(tables[2], 5)
    assert {table for _, table in tlb.walk.items()} == {tables[0], tables[2]}


def test_a_cpu_may_have_no_walk_cache():
    """With room for nothing, nothing is held and nothing is told."""
    box, space = booted(walk_cache=0)
    space.map(0x1000, 0x8000_0000)
    replay = Replay(box)
    assert box.cpus[0].read(0x1000) == 0
    assert len(box.tlbs[0].walk) == 0
    assert replay.held == contents(box)


def test_dropping_what_is_not_there_does_nothing():
    """Neither an entry that was replaced nor a table that was never held."""
    box = machine()
    tlb = box.tlbs[0]
    told = hear(box)
    entry = some_entry(0x1000)
    tlb.drop(entry)
    tlb.drop(CachedTable(5, Table(3, 0, 21, 0, 0, 0, 3)))
    newer = entry._replace(leaf=some_leaf(permissions=0))
    tlb.fill(newer, 0x1000, tlb.l1d)
    told.clear()
    tlb.drop(entry)
    assert not told
    assert tlb.entries() == [newer]


@given(seeds)
def test_a_broadcast_reaches_all_that_hold_something(random):
    """Visiting only the holders of an ASID drops what visiting every TLB would."""
    box = Machine(4, machine(l1d=tiny(1, 8), l2=tiny(4, 8)).model)
    twins = Machine(4, box.model)
    for tlb, twin in zip(box.tlbs, twins.tlbs, strict=True):
        entries, tables = some_items(random, random.choice((0, 1, 10)))
        for either in (tlb, twin):
            for entry in entries:
                either.fill(entry, entry.va, either.l1d)
            for table, asid in tables:
                either.fill_table(table, asid)
    for _ in range(6):
        operation, operand = some_operation(random)
        if not operation.broadcast:
            continue
        box.cpus[1].tlbi(operation.name, operand)
        box.cpus[1].dsb("ish")
        for twin in twins.tlbs:
            twin.invalidate(operation, decode(operation, operand))
        assert contents(box) == contents(twins)


def test_every_size_has_its_own_name():
    """Sizes fit the bits that a key has for them."""
    assert max(EVERY_SIZE) < 1 << 6
