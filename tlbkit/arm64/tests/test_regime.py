"""Laws and examples of regimes: what is legal, and what it comes to."""

from dataclasses import replace
from itertools import product
from random import Random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tlbkit.arm64.descriptor import MASK64
from tlbkit.arm64.fault import Fault, FaultKind
from tlbkit.arm64.granule import GRANULE_4K, GRANULE_16K, GRANULE_64K, GRANULES
from tlbkit.arm64.permission import (
    ACCESS_NAMES,
    EL0_ANY,
    EL0_EXECUTE,
    EL0_READ,
    EL1_EXECUTE,
    EL1_READ,
)
from tlbkit.arm64.regime import Capabilities, Regime
from tlbkit.arm64.registers import MAIR, PHYSICAL_SIZES, SCTLR, TCR, TTBR
from tlbkit.arm64.tests.random_tables import any_image
from tlbkit.errors import InputError

NOTHING = TTBR()
PLAIN = Capabilities(
    pa_bits=48,
    asid16=False,
    lva=False,
    lpa2=False,
    ttst=False,
    access_flag=False,
    dirty=False,
    hpd=False,
    e0pd=False,
    tbid=False,
    pan3=False,
)
granules = st.sampled_from(GRANULES)
images = st.integers(0, 1 << 32).map(lambda seed: any_image(Random(seed)))
u64 = st.integers(0, MASK64)


def regime(tcr, ttbr0=NOTHING, ttbr1=NOTHING, **more):
    """A regime with no more than the test needs."""
    return Regime.of(tcr=tcr, mair=MAIR(), ttbr0=ttbr0, ttbr1=ttbr1, **more)


def with_fields(tcr, **fields):
    """The register with some fields changed."""
    return replace(tcr, **fields)


def legal_sizes(granule, cpu, ds):
    """The TxSZ that Arm allows: 16 to 39, and more with the options."""
    longest = 12 if ds or (granule is GRANULE_64K and cpu.lva) else 16
    shortest = 39 if not cpu.ttst else 47 if granule is GRANULE_64K else 48
    return range(longest, shortest + 1)


@pytest.mark.parametrize("granule", GRANULES, ids=lambda granule: granule.name)
def test_exactly_the_legal_sizes_are_taken(granule):
    """A TxSZ makes a regime, or an error that says what is legal."""
    for lva, ttst, ds, size in product((0, 1), (0, 1), (0, 1), range(64)):
        cpu = Capabilities(lva=bool(lva), ttst=bool(ttst))
        tcr = with_fields(TCR.of(granule, DS=ds), T0SZ=size)
        if size in legal_sizes(granule, cpu, ds and granule is not GRANULE_64K):
            assert regime(tcr, capabilities=cpu).halves[0].input_bits == 64 - size
        else:
            with pytest.raises(
                InputError, match=rf"T0SZ is {size}: .* allows 1[26] to"
            ):
                regime(tcr, capabilities=cpu)


@given(granules, st.integers(0, 6), st.sampled_from(PHYSICAL_SIZES), st.booleans())
def test_the_output_size_is_the_smallest_of_all_limits(granule, ips, pa_bits, ds):
    """IPS, PARange and what descriptors can hold: the smallest counts."""
    tcr = with_fields(TCR.of(granule, DS=int(ds)), IPS=ips)
    wide = pa_bits == 52 if granule is GRANULE_64K else ds
    bits = min(PHYSICAL_SIZES[ips], pa_bits, 52 if wide else 48)
    half = regime(tcr, capabilities=Capabilities(pa_bits=pa_bits)).halves[0]
    assert half.highest_pa == (1 << bits) - 1


@given(images, st.integers(0, 1))
def test_a_table_must_be_aligned_to_its_size(image, n):
    """Moving a start table by half its size is an error."""
    legal = image.regime()
    half = legal.halves[n]
    # A register with 52-bit bases cannot even say a multiple of 32.
    assume(half.granule and (half.table_alignment > 64 or not half.wide_base))
    moved = TTBR.at(legal.bases[n] ^ half.table_alignment // 2)
    with pytest.raises(InputError, match=rf"TTBR{n}_EL1: .* \d+ bytes"):
        legal.with_ttbr(**{f"ttbr{n}": moved})


@given(images)
def test_a_context_switch_keeps_all_but_the_tables(image):
    """with_ttbr equals a new regime, and shares what was worked out."""
    before = image.regime()
    other = TTBR(ASID=77)
    after = before.with_ttbr(ttbr0=other)
    controls = before.controls
    assert after == Regime.of(
        tcr=controls.tcr,
        mair=controls.mair,
        sctlr=controls.sctlr,
        capabilities=controls.capabilities,
        ttbr0=other,
        ttbr1=before.ttbr1,
    )
    assert after.halves is before.controls.halves
    assert after.bases == (0, before.bases[1])
    assert before == image.regime()


@given(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF), st.booleans(), st.booleans())
def test_the_asid_is_of_one_ttbr_and_of_one_width(asid0, asid1, a1, wide):
    """A1 picks the register, AS the width."""
    tcr = with_fields(TCR.of(GRANULE_4K), A1=int(a1), AS=int(wide))
    asid = asid1 if a1 else asid0
    both = {"ttbr0": TTBR(ASID=asid0), "ttbr1": TTBR(ASID=asid1)}
    assert regime(tcr, **both).asid == (asid if wide else asid % 256)


@given(images, u64)
def test_a_canonical_address_is_its_own(image, va):
    """Making an address canonical twice is making it canonical once."""
    half = image.regime().half(va)
    canonical = image.regime().canonical(va)
    assert image.regime().canonical(canonical) == canonical
    in_range = va & half.checked == half.expected
    assert canonical >> 56 in {0, 0xFF} or not in_range
    assert canonical << 8 & MASK64 == va << 8 & MASK64


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        (
            {"TG0": 0b11},
            "TG0 is 0b11: reserved, use one of 0b00 .4K., 0b10 .16K., 0b01",
        ),
        (
            {"TG1": 0b00},
            "TG1 is 0b00: reserved, use one of 0b10 .4K., 0b01 .16K., 0b11",
        ),
        ({"IPS": 7}, "IPS is 7: reserved"),
        ({"T1SZ": 49}, "T1SZ is 49"),
    ],
)
def test_reserved_values_are_refused(fields, why):
    """What the architecture reserves makes no regime."""
    with pytest.raises(InputError, match=why):
        regime(with_fields(TCR.of(GRANULE_4K), **fields))


@pytest.mark.parametrize("n", [0, 1])
def test_a_half_that_is_switched_off_needs_no_legal_values(n):
    """With EPD, no VA of the half is in range, whatever its other fields are."""
    fields = {f"EPD{n}": 1, f"T{n}SZ": 0, f"TG{n}": 0b11 if n == 0 else 0}
    off = regime(
        with_fields(TCR.of(GRANULE_4K), **fields), **{f"ttbr{n}": TTBR(BADDR=1)}
    )
    half = off.halves[n]
    assert half.granule is None
    for va in (0, MASK64, 1 << 55, MASK64 >> 9):
        assert (off.half(va) is half) == (va >> 55 & 1 == n)
        if off.half(va) is half:
            assert va & half.checked != half.expected


@pytest.mark.parametrize("name", ["AS", "HA", "HD", "HPD0", "E0PD1", "TBID0", "DS"])
def test_an_option_that_the_cpu_lacks_is_refused(name):
    """Setting a bit of a feature that is not there is an error that names both."""
    tcr = with_fields(TCR.of(GRANULE_4K, AS=0), **{name: 1})
    assert regime(tcr)
    with pytest.raises(InputError, match=f"{name}.* is 1: this CPU does not have"):
        regime(tcr, capabilities=PLAIN)


def test_epan_needs_pan3():
    """SCTLR_EL1.EPAN is an option as well."""
    tcr = TCR.of(GRANULE_4K, AS=0)
    with pytest.raises(InputError, match=r"EPAN is 1: .* FEAT_PAN3"):
        regime(tcr, sctlr=SCTLR(EPAN=1), capabilities=PLAIN)


@pytest.mark.parametrize(
    ("sctlr", "why"),
    [(SCTLR(M=0), "M is 0: stage 1 is off"), (SCTLR(EE=1), "EE is 1: big-endian")],
)
def test_what_is_not_modelled_is_refused(sctlr, why):
    """No table walk is pretended where there would be none, or another one."""
    with pytest.raises(InputError, match=why):
        regime(TCR.of(GRANULE_4K), sctlr=sctlr)


def test_a_cpu_has_a_legal_pa_range():
    """PARange has no code for 47 bits."""
    with pytest.raises(InputError, match="pa_bits 47"):
        Capabilities(pa_bits=47)


@pytest.mark.parametrize("need", ACCESS_NAMES)
def test_e0pd_refuses_el0_and_nobody_else(need):
    """E0PD1 is a level 0 translation fault for EL0 in the upper half only."""
    kpti = regime(TCR.of(GRANULE_4K, E0PD1=1))
    fault = Fault(FaultKind.TRANSLATION, 0)
    assert kpti.refusal(MASK64, need) == (fault if need & EL0_ANY else None)
    assert kpti.refusal(0, need) is None


@pytest.mark.parametrize("need", [EL0_EXECUTE, EL1_EXECUTE])
def test_tbid_counts_the_top_byte_of_instruction_addresses(need):
    """With TBID a tagged address can be loaded from and not be executed."""
    tagged = 0x5A << 56 | 0x1000
    tags = regime(TCR.of(GRANULE_4K, TBI0=1, TBID0=1, TBI1=1))
    assert tags.refusal(tagged, need) == Fault(FaultKind.TRANSLATION, 0)
    assert tags.refusal(0x1000, need) is None
    assert tags.refusal(tagged, EL0_READ) is None
    assert tags.refusal(tagged, EL1_READ) is None
    assert tags.refusal(tagged | 1 << 55, need) is None


def test_each_half_has_a_granule_of_its_own():
    """A 64K lower and a 4K upper half live side by side."""
    tcr = with_fields(TCR.of(GRANULE_4K), TG0=GRANULE_64K.tg0)
    lower, upper = regime(tcr).halves
    assert (lower.granule, lower.start_level) == (GRANULE_64K, 1)
    assert (upper.granule, upper.start_level) == (GRANULE_4K, 0)


@pytest.mark.parametrize(
    ("granule", "va_bits", "size"),
    [
        (GRANULE_4K, 48, 4096),
        (GRANULE_4K, 39, 4096),
        (GRANULE_4K, 40, 64),  # two entries, but 64 bytes at least
        (GRANULE_16K, 47, 16384),
        (GRANULE_16K, 48, 64),
        (GRANULE_64K, 42, 65536),
        (GRANULE_64K, 48, 512),
        (GRANULE_64K, 52, 8192),
    ],
)
def test_start_tables_have_the_known_sizes(granule, va_bits, size):
    """The alignment of the start table for the usual configurations."""
    half = regime(TCR.of(granule, va_bits)).halves[0]
    assert half.table_alignment == size
