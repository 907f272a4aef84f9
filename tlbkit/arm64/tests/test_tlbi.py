"""Laws of TLBI operands and names."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tlbkit.arm64.granule import GRANULES, LAST_LEVEL
from tlbkit.arm64.tlbi import (
    OPERATIONS,
    By,
    Scope,
    decode,
    describe,
    encode_asid,
    encode_range,
    encode_va,
    find_operation,
    range_pages,
)
from tlbkit.errors import InputError

operations = st.sampled_from(list(OPERATIONS.values()))
asids = st.integers(0, 0xFFFF)
granules = st.sampled_from(GRANULES)
registers = st.integers(0, (1 << 64) - 1)
# Canonical addresses of up to 52 bits, in both halves.
addresses = st.integers(0, (1 << 53) - 1).map(
    lambda n: n if n < 1 << 52 else n + (1 << 64) - (1 << 53)
)


def by(*wanted):
    """Operations whose operand names one of *wanted*."""
    return operations.filter(lambda operation: operation.by in wanted)


def test_every_operation_linux_uses_is_there():
    """Ten families, three scopes, and each with and without nXS."""
    families = "VMALLE1 ASIDE1 VAE1 VALE1 VAAE1 VAALE1 RVAE1 RVALE1 RVAAE1 RVAALE1"
    names = {
        family + scope + nxs
        for family in families.split()
        for scope in ("", "IS", "OS")
        for nxs in ("", "nXS")
    }
    assert set(OPERATIONS) == names
    assert all(find_operation(name).name == name for name in names)


@given(operations)
def test_a_name_says_what_the_operation_does(operation):
    """Last level, any ASID, range, scope and nXS can all be read off the name."""
    name = operation.name
    assert operation.nxs is name.endswith("nXS")
    scope = name.removesuffix("nXS")[-2:]
    assert operation.broadcast is (scope in {"IS", "OS"})
    assert operation.scope.value in {"", scope}
    local = operation.local_name
    assert local in OPERATIONS
    assert OPERATIONS[local].scope is Scope.LOCAL
    assert operation.last_level is ("LE1" in local.removeprefix("VMALLE1"))
    assert operation.any_asid is ("AA" in local or local == "VMALLE1")
    assert (operation.by is By.RANGE) is local.startswith("R")


def test_an_unknown_name_is_answered_with_the_known_ones():
    """The error lists what there is."""
    with pytest.raises(InputError, match="VALE1IS"):
        find_operation("VALE2IS")


@given(by(By.ASID), asids)
def test_asid_round_trip(operation, asid):
    """The ASID form names its ASID, every address and every level."""
    target = decode(operation, encode_asid(asid))
    assert target == (asid, 0, (1 << 64) - 1, None, None)


@given(by(By.VA), addresses, asids, granules, st.none() | st.integers(0, 3))
def test_va_round_trip(operation, va, asid, granule, level):
    """An address, its ASID and a level where leaves stand come back."""
    target = decode(operation, encode_va(va, asid, level, granule.page_shift))
    assert target.asid == asid
    assert target.first == target.last == va & ~0xFFF
    if level is not None and granule.has_leaf(level):
        assert (target.level, target.tg_shift) == (level, granule.page_shift)
    elif level is None or granule.page_shift != 16:
        assert (target.level, target.tg_shift) == (None, None)


@given(
    by(By.RANGE),
    addresses,
    asids,
    granules,
    st.integers(0, 3),
    st.integers(0, 31),
    st.none() | st.integers(1, 3),
    st.booleans(),
)
def test_range_round_trip(operation, va, asid, granule, scale, num, level, lpa2):
    """Base, length, granule and a level where leaves stand come back."""
    shift = granule.page_shift
    unit = 16 if lpa2 else shift
    va = va >> unit << unit
    top = unit + 36
    assume(va >> top in (0, (1 << 64 - top) - 1))
    operand = encode_range(va, asid, scale, num, level, shift, lpa2=lpa2)
    target = decode(operation, operand, lpa2=lpa2)
    assert target.asid == asid
    assert target.first == va
    assert target.last == va + (num + 1 << 5 * scale + 1 << shift) - 1
    assert target.tg_shift == shift
    if level is not None and granule.has_leaf(level, wide=lpa2):
        assert target.level == level
    elif level is None:
        assert target.level is None


@given(operations, registers, st.booleans())
def test_any_register_value_names_something(operation, operand, lpa2):
    """Every operand decodes: hardware does not refuse one."""
    target = decode(operation, operand, lpa2=lpa2)
    assert 0 <= target.asid <= 0xFFFF
    assert target.first <= target.last
    assert describe(operation, operand, lpa2=lpa2).startswith(f"TLBI {operation.name}")


@given(operations, registers)
def test_with_8_bits_the_upper_half_of_an_asid_is_ignored(operation, operand):
    """TCR_EL1.AS = 0: bits 63:56 change nothing."""
    target = decode(operation, operand, asid_bits=8)
    assert target == decode(operation, operand & ~(0xFF << 56))


@pytest.mark.parametrize(
    ("operand", "expected"),
    [
        (encode_va(0xFFFF_B7E3_1000, 0x25), 0x0025_000F_FFFB_7E31),
        (encode_va(0xFFFF_B7E3_1000, 0x25, 3), 0x0025_700F_FFFB_7E31),
        (encode_range(0xFFFF_B7E3_1000, 0x25, 1, 7, 3), 0x0025_53EF_FFFB_7E31),
    ],
)
def test_golden_operands(operand, expected):
    """Operands worked out by hand from the bit fields."""
    assert operand == expected


@pytest.mark.parametrize(
    ("scale", "smallest", "step", "largest"),
    [
        (0, 2, 2, 64),
        (1, 64, 64, 2048),
        (2, 2048, 2048, 65536),
        (3, 65536, 65536, 1 << 21),
    ],
)
def test_what_a_scale_covers(scale, smallest, step, largest):
    """The table of lengths in the architecture's description of the range forms."""
    assert range_pages(scale, 0) == smallest
    assert range_pages(scale, 1) - smallest == step
    assert range_pages(scale, 31) == largest


@pytest.mark.parametrize(("scale", "num"), [(4, 0), (-1, 0), (0, 32), (0, -1)])
def test_what_does_not_fit_its_field_is_refused(scale, num):
    """SCALE has two bits and NUM five."""
    with pytest.raises(InputError, match="0 to 3 and 0 to 31"):
        encode_range(0, 0, scale, num)


@given(granules, st.integers(0, 3), granules, st.integers(0, 3))
def test_a_hint_names_leaves_of_one_level_of_one_granule(granule, level, other, its):
    """A hint fits the leaf that it names, no other, and the tables above it."""
    assume(granule.has_leaf(level))
    assume(its >= other.start_level(48))
    operand = encode_va(0, 0, level, granule.page_shift)
    target = decode(OPERATIONS["VAE1"], operand)
    same = granule is other
    assert target.fits_leaf(other.shift(its)) is (same and its == level)
    if its > 0:
        table_shift = other.shift(its - 1)
        assert target.fits_table(table_shift, its) is (same and its <= level)


@given(granules, granules, st.integers(0, LAST_LEVEL))
def test_a_range_names_its_granule_only(granule, other, level):
    """Without a level, a range fits every leaf and table of its granule."""
    assume(level >= other.start_level(48))
    operand = encode_range(0, 0, 0, 0, granule_shift=granule.page_shift)
    target = decode(OPERATIONS["RVAE1"], operand)
    assert target.fits_leaf(other.shift(level)) is (granule is other)
    assert target.fits_table(other.shift(level), level + 1) is (granule is other)
