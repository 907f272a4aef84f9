"""Laws and examples of the registers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlbkit.arm64.descriptor import MASK64
from tlbkit.arm64.fault import EVERY_FAULT
from tlbkit.arm64.granule import GRANULE_4K, GRANULE_16K
from tlbkit.arm64.registers import MAIR, PAR, SCTLR, TCR, TTBR, effective_shareability
from tlbkit.errors import InputError

u64 = st.integers(0, MASK64)
REGISTERS = (TCR, TTBR, SCTLR, MAIR)
registers = st.sampled_from(REGISTERS)

# Field, its highest and its lowest bit, as the manual gives them.
TCR_FIELDS = """
    T0SZ 5 0, EPD0 7 7, IRGN0 9 8, ORGN0 11 10, SH0 13 12, TG0 15 14, T1SZ 21 16,
    A1 22 22, EPD1 23 23, IRGN1 25 24, ORGN1 27 26, SH1 29 28, TG1 31 30, IPS 34 32,
    AS 36 36, TBI0 37 37, TBI1 38 38, HA 39 39, HD 40 40, HPD0 41 41, HPD1 42 42,
    TBID0 51 51, TBID1 52 52, NFD0 53 53, NFD1 54 54, E0PD0 55 55, E0PD1 56 56,
    DS 59 59
"""
TTBR_FIELDS = "CnP 0 0, BADDR 47 1, ASID 63 48"
SCTLR_FIELDS = "M 0 0, C 2 2, I 12 12, WXN 19 19, SPAN 23 23, EE 25 25, EPAN 57 57"


@given(registers, u64)
def test_a_register_loses_nothing(register, raw):
    """Decoding any 64 bits and encoding them again is the identity."""
    assert register.decode(raw).encode() == raw


@given(registers, u64)
def test_a_value_comes_back_from_its_register(register, raw):
    """Encoding a value and decoding the register is the identity."""
    value = register.decode(raw)
    assert register.decode(value.encode()) == value


@given(registers, st.one_of(st.integers(max_value=-1), st.integers(MASK64 + 1)))
def test_more_or_less_than_64_bits_are_refused(register, raw):
    """A number that no register holds is an error."""
    with pytest.raises(InputError, match="64-bit"):
        register.decode(raw)


@pytest.mark.parametrize(
    ("register", "fields"),
    [(TCR, TCR_FIELDS), (TTBR, TTBR_FIELDS), (SCTLR, SCTLR_FIELDS)],
)
def test_fields_stand_where_arm_puts_them(register, fields):
    """Each field holds its bits of the manual, and no other field is known."""
    known = set()
    for field in fields.split(","):
        name, high, low = field.split()
        known.add(name)
        width = int(high) - int(low) + 1
        ones = (1 << width) - 1 << int(low)
        assert getattr(register.decode(ones), name) == (1 << width) - 1
        assert register.decode(MASK64 & ~ones).encode() & ones == 0
    assert {name for name, _, _ in register.LAYOUT} == known


@pytest.mark.parametrize(
    ("register", "field", "value"),
    [(TCR, "T0SZ", 64), (TCR, "HA", 2), (TTBR, "ASID", 1 << 16), (SCTLR, "M", -1)],
)
def test_a_value_too_large_for_its_field_is_refused(register, field, value):
    """A field never spills into its neighbour."""
    with pytest.raises(InputError, match=f"{field}: .* does not fit"):
        register(**{field: value})


def test_other_bits_may_not_hide_in_a_named_field():
    """What has a name is given by its name."""
    with pytest.raises(InputError, match="named field"):
        TCR(other=1 << 39)


def test_one_granule_and_size_for_both_halves():
    """TCR.of writes each half's own code."""
    tcr = TCR.of(GRANULE_16K, va_bits=47, pa_bits=40, HA=1)
    assert (tcr.TG0, tcr.TG1) == (0b10, 0b01)
    assert (tcr.T0SZ, tcr.T1SZ) == (17, 17)
    assert (tcr.IPS, tcr.AS, tcr.HA) == (2, 1, 1)


def test_a_physical_size_that_ips_cannot_say_is_refused():
    """There is no IPS code for 39 bits."""
    with pytest.raises(InputError, match="pa_bits 39"):
        TCR.of(GRANULE_4K, pa_bits=39)


@given(st.integers(0, (1 << 52) - 1), st.integers(0, 0xFFFF), st.integers(0, 1))
def test_a_table_base_comes_back(pa, asid, cnp):
    """A table's address, ASID and CnP come back, with 48-bit and 52-bit bases."""
    pa &= ~63
    ttbr = TTBR.at(pa, asid=asid, cnp=cnp)
    assert ttbr.base(wide=True) == pa
    assert (ttbr.ASID, ttbr.CnP) == (asid, cnp)
    low = pa & (1 << 48) - 1
    assert TTBR.at(low).base(wide=False) == low


@pytest.mark.parametrize("pa", [1, 0x1001, 1 << 52, 1 << 48 | 32])
def test_a_base_that_ttbr_cannot_hold_is_refused(pa):
    """Odd addresses, more than 52 bits, and unaligned 52-bit ones have no place."""
    with pytest.raises(InputError, match="table at"):
        TTBR.at(pa)


def test_high_base_bits_stand_in_5_to_2():
    """BADDR[51:48] are register bits 5:2."""
    assert TTBR.at(0xF << 48).encode() == 0xF << 2


def test_memory_types_are_the_bytes_of_mair():
    """AttrIndx n is byte n, and bytes that are not given are Device-nGnRnE."""
    mair = MAIR.of(0xFF, 0x44)
    assert mair.encode() == 0x44FF
    assert mair.attributes[7] == 0


@pytest.mark.parametrize("attributes", [(0,) * 7, (0,) * 7 + (256,), (0,) * 7 + (-1,)])
def test_anything_but_eight_bytes_is_no_mair(attributes):
    """Too few bytes and too large ones are errors."""
    with pytest.raises(InputError, match="not eight bytes"):
        MAIR(attributes)


@given(st.integers(0, 255), st.integers(0, 3))
def test_only_cacheable_memory_has_a_choice_of_shareability(attr, sh):
    """Device (0b0000xxxx) and Normal Non-cacheable (0x44, 0x40) are outer shareable."""
    forced = attr < 16 or attr in {0x44, 0x40}
    assert effective_shareability(attr, sh) == (0b10 if forced else sh)


@given(st.sampled_from(EVERY_FAULT))
def test_a_fault_comes_back_from_par(fault):
    """Encoding a failed translation and decoding PAR_EL1 is the identity."""
    assert PAR.decode(PAR(fault=fault).encode()) == PAR(fault=fault)


@given(st.integers(0, (1 << 40) - 1), st.integers(0, 255), st.integers(0, 3))
def test_a_translation_comes_back_from_par(frame, attr, sh):
    """Encoding a translation and decoding PAR_EL1 is the identity."""
    par = PAR(pa=frame << 12, attr=attr, sh=sh)
    assert PAR.decode(par.encode()) == par
    assert par.encode() & 1 == 0
