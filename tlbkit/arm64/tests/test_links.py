"""Laws of what a walk keeps of the descriptors it has met."""

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from tlbkit.arm64 import descriptor as d
from tlbkit.arm64.fault import Fault, FaultKind
from tlbkit.arm64.granule import GRANULE_4K, LAST_LEVEL
from tlbkit.arm64.image import Words
from tlbkit.arm64.memory import PhysicalMemory
from tlbkit.arm64.regime import Regime
from tlbkit.arm64.registers import MAIR, TCR, TTBR
from tlbkit.arm64.tests.random_tables import any_image
from tlbkit.arm64.walk import Table, walk

images = st.integers(0, 1 << 32).map(lambda seed: any_image(Random(seed)))


def kept(setup):
    """Everything that walks of a regime have kept: links, then outcomes."""
    hops = [
        hop
        for half in setup.halves
        if half.granule
        for hop in half.hops[half.start_level]
    ]
    return (
        [links for _, _, links, _ in hops if links is not None],
        [step.outcomes for _, _, _, step in hops],
    )


@settings(max_examples=40, deadline=None)
@given(images)
def test_what_was_met_before_changes_no_answer(image):
    """A walk in a regime that has walked much answers as one in a fresh regime."""
    setup, memory = image.regime(), Words(image.memory)
    first = [walk(setup, memory, va) for va in image.vas]
    assert [walk(setup, memory, va) for va in image.vas] == first
    assert [walk(image.regime(), memory, va) for va in image.vas] == first


@settings(max_examples=40, deadline=None)
@given(images)
def test_only_what_is_good_is_kept(image):
    """Links hold tables, outcomes leaves and what no descriptor at all makes."""
    setup, memory = image.regime(), Words(image.memory)
    followed: list[Table] = []
    for va in image.vas:
        walk(setup, memory, va, tables=followed)
    met = {table.descriptor for table in followed}
    links, outcomes = kept(setup)
    assert {word for one in links for word in one} == met
    faults = [
        key
        for one in outcomes
        for key, outcome in one.items()
        if isinstance(outcome, Fault)
    ]
    assert not any(key & ~d.TABLE_LIMITS for key in faults)


def test_what_nothing_makes_is_worked_out_once():
    """Two walks that meet an empty descriptor end with the very same fault."""
    regime = Regime.of(
        tcr=TCR.of(GRANULE_4K, va_bits=39),
        mair=MAIR.of(0xFF),
        ttbr0=TTBR.at(0x1000),
        ttbr1=TTBR.at(0x9000),
    )
    fault = walk(regime, PhysicalMemory(), 0x20_0000)
    assert fault == Fault(FaultKind.TRANSLATION, 1)
    assert walk(regime, PhysicalMemory(), 0x40_0000) is fault


@settings(max_examples=40, deadline=None)
@given(images, st.integers(0, d.MASK64))
def test_a_link_is_the_table_and_its_limits(image, word):
    """What is no table has no link; a table's address fits, its limits are its own."""
    setup = image.regime()
    for half in setup.halves:
        if half.granule is None or half.start_level == LAST_LEVEL:
            continue
        _, _, links, _ = half.hops[half.start_level][0]
        assert links[word & ~d.VALID] is None
        assert links[word & ~d.TYPE_MASK | d.TYPE_BLOCK] is None
        link = links[word | d.TYPE_TABLE]
        if link is not None:
            table, limits = link
            assert table <= half.highest_pa
            assert table % half.granule.page_size == 0
            assert limits == word & half.limits
