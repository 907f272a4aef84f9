"""Laws of one TLBI: it drops exactly what its operand names."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlbkit.arm64 import tlbi
from tlbkit.arm64.descriptor import NG
from tlbkit.arm64.tlbi import By
from tlbkit.errors import InputError
from tlbkit.lab.parameter import Value
from tlbkit.lab.tlbi import HELD, NO_HINT, OPERATIONS, VA, Tlbi, encode, operand_boxes

TLBI = Tlbi()
PARAMS = st.fixed_dictionaries(
    {
        "operation": st.sampled_from(OPERATIONS),
        "va": st.sampled_from(
            [hex(held.va + offset) for held in HELD for offset in (0, held.size - 1)]
        ),
        "asid": st.sampled_from(["0x25", "0x26", "7"]),
        "level": st.sampled_from([NO_HINT, "1", "2", "3"]),
        "scale": st.integers(0, 3),
        "num": st.integers(0, 31),
    }
)


def named(held, operation, target):
    """Tell by Arm's words whether an operation names something held."""
    if operation.by is By.ALL:
        return True
    is_global = not held.attributes & NG
    if operation.by is By.ASID:
        return not is_global and held.asid == target.asid
    whose = operation.any_asid or is_global or held.asid == target.asid
    where = held.va <= target.last and target.first < held.va + held.size
    return whose and where and target.level in (None, held.level)


@given(PARAMS)
@settings(deadline=None, max_examples=60)
def test_what_is_named_is_dropped_and_nothing_else(params):
    """On the issuing CPU always, on the other one if and only if it is broadcast."""
    answer = TLBI.answer(params)
    operation = tlbi.OPERATIONS[params["operation"]]
    target = tlbi.decode(operation, encode(operation, params))
    for row, held in zip(answer.rows, HELD, strict=False):
        drops = named(held, operation, target)
        assert row[-2] == ("drops" if drops else "keeps"), row
        assert row[-1] == ("drops" if drops and operation.broadcast else "keeps"), row


@given(PARAMS)
@settings(deadline=None, max_examples=60)
def test_the_last_level_leaves_tables_alone(params):
    """An operation with L drops nothing of the walk cache."""
    rows = TLBI.answer(params).rows[len(HELD) :]
    assert rows
    if tlbi.OPERATIONS[params["operation"]].last_level:
        assert {row[-2] for row in rows} == {"keeps"}


@given(PARAMS)
def test_the_boxes_are_the_operand(params):
    """Each field at its bits, together the whole operand."""
    operation = tlbi.OPERATIONS[params["operation"]]
    operand = encode(operation, params)
    together = 0
    for box in operand_boxes(operation, operand):
        low = int(box.bits.split(":")[-1])
        together |= int(box.value, 16) << low
    assert together == operand


def test_the_operands_of_the_chapter():
    """The values that the kernel would send."""
    answer = TLBI.answer({"level": "3"})
    assert "0x0025700ffffb7e31" in answer.text
    wide: dict[str, Value] = {
        "operation": "RVALE1IS",
        "scale": 1,
        "num": 7,
        "level": "3",
    }
    assert "0x002553effffb7e31" in TLBI.answer(wide).text
    assert "512 pages" in TLBI.answer(wide).text
    assert VA == 0xFFFF_B7E3_1000


@pytest.mark.parametrize("params", [{"asid": "0x10000"}, {"va": "here"}])
def test_what_does_not_fit_is_refused(params):
    """An ASID has 16 bits, and an address is a number."""
    with pytest.raises(InputError, match=next(iter(params))):
        TLBI.answer(params)
