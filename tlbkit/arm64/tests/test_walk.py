"""Laws and examples of the table walk."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlbkit.arm64 import descriptor as d
from tlbkit.arm64.fault import Fault, FaultKind
from tlbkit.arm64.granule import GRANULE_4K, GRANULE_16K, GRANULE_64K, GRANULES
from tlbkit.arm64.image import Words
from tlbkit.arm64.permission import (
    EL0_ANY,
    EL0_EXECUTE,
    EL0_READ,
    EL0_WRITE,
    EL1_EXECUTE,
    EL1_READ,
    EL1_READ_PAN,
    EL1_WRITE,
    EL1_WRITE_PAN,
    access_bit,
)
from tlbkit.arm64.regime import Capabilities, Regime
from tlbkit.arm64.registers import MAIR, TCR, TTBR
from tlbkit.arm64.tests import reference
from tlbkit.arm64.tests.random_tables import any_image
from tlbkit.arm64.walk import Table, Translation, hardware_update, translate, walk

images = st.integers(0, 1 << 32).map(lambda seed: any_image(Random(seed)))
granules = st.sampled_from(GRANULES)
ACCESSES = [
    (kind, el, pan) for kind in ("ld", "st", "ex") for el in (0, 1) for pan in (0, 1)
]
LIMITS = (d.PXN_TABLE, d.UXN_TABLE, d.AP_TABLE_NO_EL0, d.AP_TABLE_READ_ONLY)
START = 0x10_0000
PAGE = d.TYPE_PAGE | d.AF | d.AP_EL0 | d.INNER_SHAREABLE << d.SH_SHIFT
BLOCK = PAGE & ~d.TYPE_MASK | d.TYPE_BLOCK


class Recording(Words):
    """Memory that notes what is read."""

    __slots__ = ("read_from",)

    def __init__(self, words):
        super().__init__(words)
        self.read_from = []

    def read(self, pa, /):
        """The word, as ever."""
        self.read_from.append(pa)
        return super().read(pa)


def regime(granule=GRANULE_4K, va_bits=48, pa_bits=48, capabilities=None, **fields):
    """A regime whose lower half starts at START, with Normal memory at AttrIndx 0."""
    return Regime.of(
        tcr=TCR.of(granule, va_bits, pa_bits, **fields),
        mair=MAIR.of(0xFF, 0x00, 0x44),
        ttbr0=TTBR.at(START),
        ttbr1=TTBR.at(START),
        capabilities=capabilities,
    )


def path(setup, va, leaf, level=3, links=0):
    """The words of tables that lead *va* to *leaf* at *level*.

    *links* is ORed into every table descriptor on the way.
    """
    half = setup.half(va)
    words = {}
    table = setup.bases[va >> 55 & 1]
    for at in range(half.start_level, level + 1):
        entries = half.granule.table_entries(at, half.input_bits)
        entry_pa = table + 8 * (va >> half.granule.shift(at) & entries - 1)
        table = 0x100_0000 + (at + 1) * 0x10_0000
        words[entry_pa] = leaf if at == level else table | d.TYPE_TABLE | links
    return words


def summary(answer, va, need):
    """An answer in the form in which the reference gives it."""
    if isinstance(answer, Fault):
        return "fault", answer.kind.value, answer.level
    leaf = answer.leaf
    return (
        "ok",
        answer.pa | va & (1 << leaf.shift) - 1,
        leaf.attr,
        leaf.sh,
        answer.descriptor_pa,
        hardware_update(answer, need),
        leaf.group_shift,
        leaf.not_global,
    )


def found(setup, memory, va):
    """The translation of an address that has one."""
    answer = walk(setup, memory, va)
    assert isinstance(answer, Translation), str(answer)
    return answer


# Laws


@settings(max_examples=60, deadline=None)
@given(images)
def test_every_access_meets_what_the_reference_says(image):
    """Result, fault, update and group are those of the slow walker, options and all."""
    setup, memory = image.regime(), Words(image.memory)
    pa_bits = image.capabilities.pa_bits
    for va in image.vas:
        for kind, el, pan in ACCESSES:
            need = access_bit(kind, el=el, pan=pan)
            ours = summary(translate(setup, memory, va, need), va, need)
            expected = reference.access(
                image.registers, pa_bits, memory.read, va, kind, el, pan
            )
            assert ours == expected, (hex(va), kind, el, pan)


@settings(max_examples=30, deadline=None)
@given(images, st.integers(0, d.MASK64))
def test_a_walk_is_a_function_of_registers_and_the_words_it_reads(image, noise):
    """Changing any word that a walk did not read does not change its answer."""
    setup = image.regime()
    for va in image.vas:
        memory = Recording(image.memory)
        answer = walk(setup, memory, va)
        read = set(memory.read_from)
        others = {pa: word ^ noise for pa, word in image.memory.items()}
        kept = {pa: image.memory.get(pa, 0) for pa in read}
        assert walk(image.regime(), Words(others | kept), va) == answer


@settings(max_examples=30, deadline=None)
@given(images)
def test_a_walk_may_resume_below_any_table_it_followed(image):
    """Starting at a table of the walk gives the same answer and the tables below."""
    setup, memory = image.regime(), Words(image.memory)
    for va in image.vas:
        tables: list[Table] = []
        answer = walk(setup, memory, va, tables=tables)
        for number, table in enumerate(tables):
            below: list[Table] = []
            assert walk(setup, memory, va, resume=table, tables=below) == answer
            assert below == tables[number + 1 :]


@settings(max_examples=30, deadline=None)
@given(images)
def test_tables_tell_what_they_cover(image):
    """A table names its descriptor and its range, which holds the address."""
    setup, memory = image.regime(), Words(image.memory)
    for va in image.vas:
        tables: list[Table] = []
        walk(setup, memory, va, tables=tables)
        half, canonical = setup.half(va), setup.canonical(va)
        for number, table in enumerate(tables):
            assert table.level == half.start_level + number + 1
            assert table.shift == half.granule.shift(table.level - 1)
            assert table.va >> table.shift == canonical >> table.shift
            assert table.va % (1 << table.shift) == 0
            assert memory.read(table.descriptor_pa) == table.descriptor
            assert table.restrictions & ~half.limits == 0


@settings(max_examples=30, deadline=None)
@given(images)
def test_a_translation_tells_what_it_covers(image):
    """A translation names its descriptor and its page, which holds the address."""
    setup, memory = image.regime(), Words(image.memory)
    for va in image.vas:
        answer = walk(setup, memory, va)
        if isinstance(answer, Fault):
            continue
        size = 1 << answer.leaf.shift
        assert answer.va == setup.canonical(va) & -size
        assert answer.pa % size == 0
        assert memory.read(answer.descriptor_pa) == answer.descriptor


@settings(max_examples=30, deadline=None)
@given(images, st.integers(1, 0xFF))
def test_the_top_byte_counts_unless_tbi_says_otherwise(image, tag):
    """With TBI an address translates as it does with any other top byte."""
    setup, memory = image.regime(), Words(image.memory)
    tcr = setup.controls.tcr
    for va in image.vas:
        answer = walk(setup, memory, va)
        tagged = walk(setup, memory, va ^ tag << 56)
        if tcr.TBI1 if va >> 55 & 1 else tcr.TBI0:
            assert tagged == answer
        else:
            level_0 = Fault(FaultKind.TRANSLATION, 0)
            assert level_0 in {tagged, answer}


@given(granules, st.integers(0, (1 << 36) - 1), st.integers(0, d.MASK64))
def test_a_block_is_as_good_as_the_pages_it_stands_for(granule, va, bits):
    """Each page of a block has the address, the rights and the type of a real page."""
    setup = regime(granule, HA=1, HD=1)
    base, size = 0x40_0000_0000, 1 << granule.shift(2)
    attributes = bits & setup.halves[0].attributes & ~d.CONTIGUOUS
    block = found(
        setup, Words(path(setup, va, base | attributes | d.TYPE_BLOCK, level=2)), va
    )
    inside = va % size & -granule.page_size
    page = found(
        setup, Words(path(setup, va, base + inside | attributes | d.TYPE_PAGE)), va
    )
    assert block.pa + inside == page.pa
    assert block.va + inside == page.va
    for name in ("permissions", "permissions_dirty", "attr", "sh", "young"):
        assert getattr(block.leaf, name) == getattr(page.leaf, name)
    assert block.leaf.not_global == page.leaf.not_global


@given(
    granules, st.integers(0, d.MASK64), st.sampled_from(LIMITS), st.sampled_from(LIMITS)
)
def test_a_table_only_takes_away(granule, bits, some, more):
    """A further limit gives nobody anything but what EL0's own rights held back.

    EL1 does not execute what EL0 may write, and PAN guards what EL0 may reach; so
    when a table takes EL0's rights away, EL1 can gain these.
    """
    setup = regime(granule, HA=1, HD=1)
    leaf = bits & setup.halves[0].attributes | d.TYPE_PAGE
    few = found(setup, Words(path(setup, 0, leaf, links=some)), 0).leaf
    fewer = found(setup, Words(path(setup, 0, leaf, links=some | more)), 0).leaf
    for name in ("permissions", "permissions_dirty"):
        before, after = getattr(few, name), getattr(fewer, name)
        held_back = EL1_EXECUTE | EL1_READ_PAN | EL1_WRITE_PAN
        assert after & ~before & ~held_back == 0
        assert after & ~before == 0 or before & ~after & EL0_ANY


@given(st.integers(0, d.MASK64))
def test_hpd_gives_the_limits_to_software(links):
    """With HPD a table descriptor takes nothing away."""
    limits = links & d.TABLE_LIMITS
    setup = regime(HPD0=1)
    free = walk(setup, Words(path(setup, 0, PAGE)), 0)
    assert walk(setup, Words(path(setup, 0, PAGE, links=limits)), 0) == free


@given(st.integers(0, d.MASK64), st.integers(0, d.MASK64))
def test_equal_leaves_are_one_object(bits, software):
    """Leaves are interned, over addresses, levels of software bits, and contexts."""
    setup = regime(HA=1)
    word = bits & setup.halves[0].attributes | d.TYPE_PAGE
    one = found(setup, Words(path(setup, 0, word)), 0).leaf
    word |= 0x1234_5000 | software & 0b1111 << 55
    switched = setup.with_ttbr(ttbr0=TTBR.at(START, asid=9))
    two = found(switched, Words(path(setup, 0x4000_0000, word)), 0x4000_0000).leaf
    assert two is one


@given(st.integers(0, d.MASK64))
def test_hardware_touches_af_and_ap2_only(bits):
    """What hardware writes back differs in the two flags at most."""
    setup = regime(HA=1, HD=1)
    word = bits & setup.halves[0].attributes | d.TYPE_PAGE
    for need in (EL0_READ, EL0_WRITE, EL1_READ, EL1_WRITE):
        answer = translate(setup, Words(path(setup, 0, word)), 0, need)
        if isinstance(answer, Translation):
            update = hardware_update(answer, need)
            assert update & d.AF
            assert (update ^ word) & ~(d.AF | d.AP_READ_ONLY) == 0
            assert not (update & ~word & d.AP_READ_ONLY)


# Faults: which comes first


def test_faults_come_in_the_architectures_order():
    """Each repair of one walk brings the next fault of the list to light."""
    good = path(regime(), 0, PAGE)
    top, _, _, last = sorted(good)
    far = 1 << 40
    small = {"pa_bits": 40}
    read_only = PAGE & ~d.AP_EL0

    def fault(words, va=0, **fields):
        answer = translate(regime(**small | fields), Words(words), va, EL0_WRITE)
        return (answer.kind.value, answer.level) if isinstance(answer, Fault) else None

    assert fault({}, va=1 << 48) == ("translation", 0)
    assert fault({}, EPD0=1) == ("translation", 0)
    assert fault({top: far | d.TYPE_BLOCK}) == ("translation", 0)
    assert fault({top: far | d.TYPE_TABLE}) == ("address_size", 0)
    assert fault({**good, last: far | d.TYPE_BLOCK}) == ("translation", 3)
    assert fault({**good, last: far | read_only & ~d.AF}) == ("address_size", 3)
    assert fault({**good, last: read_only & ~d.AF}) == ("access_flag", 3)
    assert fault({**good, last: read_only}) == ("permission", 3)
    assert fault(good) is None


def test_a_start_table_too_far_up_is_a_fault_at_level_0():
    """The base of TTBR is held against the output size before anything is read."""
    setup = regime(pa_bits=32).with_ttbr(ttbr0=TTBR.at(1 << 32))
    memory = Recording({})
    assert walk(setup, memory, 0) == Fault(FaultKind.ADDRESS_SIZE, 0)
    assert walk(setup, memory, 1 << 50) == Fault(FaultKind.TRANSLATION, 0)
    assert memory.read_from == []


def test_a_half_that_is_switched_off_is_never_read():
    """EPD1 answers for the upper half and leaves the lower one alone."""
    setup = regime(EPD1=1)
    memory = Recording(path(setup, 0, PAGE))
    assert walk(setup, memory, d.MASK64) == Fault(FaultKind.TRANSLATION, 0)
    assert memory.read_from == []
    assert isinstance(walk(setup, memory, 0), Translation)


@pytest.mark.parametrize(
    ("granule", "level"), [(GRANULE_4K, 0), (GRANULE_16K, 1), (GRANULE_64K, 1)]
)
def test_a_block_where_there_is_none_is_a_translation_fault(granule, level):
    """With 48-bit descriptors these levels have tables only."""
    cpu = Capabilities(pa_bits=48)
    setup = regime(granule, capabilities=cpu)
    words = Words(path(setup, 0, BLOCK, level=level))
    assert walk(setup, words, 0) == Fault(FaultKind.TRANSLATION, level)


# Access flag and dirty state


@pytest.mark.parametrize(
    ("fields", "word", "need", "answer"),
    [
        ({}, PAGE & ~d.AF, EL0_READ, "access_flag"),
        ({"HA": 1}, PAGE & ~d.AF, EL0_READ, PAGE),
        ({"HA": 1}, PAGE, EL0_READ, PAGE),
        ({"HA": 1}, PAGE | d.AP_READ_ONLY | d.DBM, EL0_WRITE, "permission"),
        ({"HD": 1}, PAGE | d.AP_READ_ONLY | d.DBM, EL0_WRITE, "permission"),
        ({"HA": 1, "HD": 1}, PAGE | d.AP_READ_ONLY, EL0_WRITE, "permission"),
        (
            {"HA": 1, "HD": 1},
            PAGE & ~d.AF | d.AP_READ_ONLY | d.DBM,
            EL0_WRITE,
            PAGE | d.DBM,
        ),
        (
            {"HA": 1, "HD": 1},
            PAGE | d.AP_READ_ONLY | d.DBM,
            EL0_READ,
            PAGE | d.AP_READ_ONLY | d.DBM,
        ),
    ],
)
def test_hardware_manages_flags_only_where_it_is_told(fields, word, need, answer):
    """HA sets AF; HA and HD make a clean DBM page dirty; otherwise it is a fault."""
    setup = regime(**fields)
    result = translate(setup, Words(path(setup, 0, word)), 0, need)
    if isinstance(result, Fault):
        assert result.kind.value == answer
    else:
        assert hardware_update(result, need) == answer


def test_a_table_limit_beats_the_dirty_state():
    """What a table made read-only, hardware does not make writable."""
    setup = regime(HA=1, HD=1)
    clean = PAGE | d.AP_READ_ONLY | d.DBM
    words = Words(path(setup, 0, clean, links=d.AP_TABLE_READ_ONLY))
    assert translate(setup, words, 0, EL0_WRITE) == Fault(FaultKind.PERMISSION, 3)


def test_a_clean_page_can_be_executed_until_it_is_written():
    """AP[2] as it stands decides what WXN and EL1 think of a writable-clean page."""
    setup = regime(HA=1, HD=1)
    clean = PAGE | d.AP_READ_ONLY | d.DBM | d.UXN
    leaf = found(setup, Words(path(setup, 0, clean)), 0).leaf
    assert leaf.permissions & access_bit("ex", el=1)
    assert not leaf.permissions_dirty & access_bit("ex", el=1)


# 52 bits


LPA2 = {"va_bits": 52, "pa_bits": 52, "DS": 1}


@pytest.mark.parametrize(
    ("granule", "level", "base", "word"),
    [
        # OA[49:48] in place, OA[51:50] in 9:8.
        (GRANULE_4K, 3, 0xD_0000_0000_1000, 0x0001_0000_0000_1300),
        (GRANULE_4K, 0, 0x8_0080_0000_0000, 0x0000_0080_0000_0200),
        (GRANULE_16K, 3, 0x7_0000_0000_4000, 0x0003_0000_0000_4100),
        (GRANULE_16K, 1, 0xC_0010_0000_0000, 0x0000_0010_0000_0300),
        # OA[51:48] in 15:12.
        (GRANULE_64K, 3, 0xA_0000_0001_0000, 0x0000_0000_0001_A000),
        (GRANULE_64K, 1, 0x5_0400_0000_0000, 0x0000_0400_0000_5000),
    ],
)
def test_52_bit_leaves_lead_where_arm_says(granule, level, base, word):
    """Pages and the highest blocks, with an address above 48 bits."""
    setup = regime(granule, **LPA2)
    va = 0x9_8765_4321_0000
    kind = d.TYPE_PAGE if level == 3 else d.TYPE_BLOCK
    words = path(setup, va, word | kind | d.AF, level=level)
    answer = found(setup, Words(words), va)
    assert answer.pa == base
    assert answer.leaf.shift == granule.shift(level)
    assert answer.leaf.group_shift == answer.leaf.shift


def test_52_bit_walks_start_at_level_minus_1_with_4k():
    """VA[51:48] index a table of 16 entries at level -1."""
    setup = regime(**LPA2)
    va = 0xF << 48
    memory = Recording(path(setup, va, PAGE))
    assert isinstance(walk(setup, memory, va), Translation)
    assert memory.read_from[0] == START + 0xF * 8
    assert len(memory.read_from) == 5
    nothing = Words({})
    assert walk(setup, nothing, va) == Fault(FaultKind.TRANSLATION, -1)


def test_52_bit_tables_lead_where_arm_says():
    """A table descriptor and TTBR hold high address bits in their own places."""
    high = 0x6 << 48
    setup = regime(**LPA2).with_ttbr(ttbr0=TTBR.at(high | 0x1000))
    words = {
        high | 0x1000: 0x0002_0000_0000_2003 | 0b01 << 8,
        high | 0x2000: 0x0002_0000_0000_3003 | 0b01 << 8,
        high | 0x3000: 0x0002_0000_0000_4001 & ~0xFFF | 0b01 << 8 | d.AF | d.TYPE_BLOCK,
    }
    answer = found(setup, Words(words), 0)
    assert answer.pa == high
    assert answer.leaf.level == 1


@pytest.mark.parametrize(("half", "sh"), [(0, 0b10), (1, 0b11)])
def test_with_lpa2_shareability_is_tcrs(half, sh):
    """SH of the descriptor is address, so the half's SH field counts for leaves."""
    setup = regime(**LPA2, SH0=0b10, SH1=0b11)
    va = -(1 << 51) & d.MASK64 if half else 0
    answer = found(setup, Words(path(setup, va, PAGE & ~d.SH_MASK)), va)
    assert answer.leaf.sh == sh


@pytest.mark.parametrize("granule", GRANULES, ids=lambda granule: granule.name)
def test_high_bits_without_room_for_them_are_an_address_size_fault(granule):
    """A 52-bit descriptor under a 48-bit IPS faults where it stands."""
    setup = regime(granule, DS=1)
    layout = d.address_format(granule, wide=True)
    word = layout.place(1 << 50) | d.AF | d.TYPE_PAGE
    answer = walk(setup, Words(path(setup, 0, word)), 0)
    assert answer == Fault(FaultKind.ADDRESS_SIZE, 3)


# The rest


@pytest.mark.parametrize(
    ("granule", "level", "shift"),
    [
        (GRANULE_4K, 3, 16),
        (GRANULE_4K, 2, 25),
        (GRANULE_4K, 1, 34),
        (GRANULE_16K, 3, 21),
        (GRANULE_16K, 2, 30),
        (GRANULE_64K, 3, 21),
        (GRANULE_64K, 2, 34),
    ],
)
def test_the_contiguous_bit_makes_groups(granule, level, shift):
    """One entry may cover the group if, and only if, the bit is set."""
    setup = regime(granule)
    kind = d.TYPE_PAGE if level == 3 else d.TYPE_BLOCK
    for bit, expected in ((d.CONTIGUOUS, shift), (0, granule.shift(level))):
        words = Words(path(setup, 0, kind | d.AF | bit, level=level))
        assert found(setup, words, 0).leaf.group_shift == expected


def test_a_group_larger_than_the_half_is_none():
    """The bit is a hint, and there it hints at nothing."""
    setup = regime(GRANULE_4K, va_bits=32)
    words = Words(path(setup, 0, BLOCK | d.CONTIGUOUS, level=1))
    assert found(setup, words, 0).leaf.group_shift == 30


@pytest.mark.parametrize(
    ("index", "attr", "sh"), [(0, 0xFF, 3), (1, 0, 2), (2, 0x44, 2)]
)
def test_memory_type_and_shareability_are_in_the_result(index, attr, sh):
    """MAIR's byte, and outer shareable for Device and Non-cacheable."""
    setup = regime()
    word = PAGE | index << d.ATTR_INDEX_SHIFT
    leaf = found(setup, Words(path(setup, 0, word)), 0).leaf
    assert (leaf.attr, leaf.sh) == (attr, sh)


def test_nt_and_low_bits_of_a_block_are_no_address():
    """Bits between the page size and the block size do not move a block."""
    setup = regime()
    words = Words(path(setup, 0, BLOCK | 0x4020_0000 | d.NT | 0x1F_F000, level=2))
    assert found(setup, words, 0).pa == 0x4020_0000


def test_execute_only_memory():
    """EL0 runs code that it cannot read."""
    setup = regime()
    words = Words(path(setup, 0, PAGE & ~d.AP_EL0 | d.AP_READ_ONLY | d.PXN))
    assert isinstance(translate(setup, words, 0, EL0_EXECUTE), Translation)
    assert translate(setup, words, 0, EL0_READ) == Fault(FaultKind.PERMISSION, 3)
