"""Laws and examples of faults and their codes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlbkit.arm64.fault import (
    EVERY_FAULT,
    Fault,
    FaultKind,
    Syndrome,
    from_status_code,
    status_code,
)
from tlbkit.errors import InputError

faults = st.sampled_from(EVERY_FAULT)
data_aborts = st.builds(
    Syndrome,
    faults,
    el=st.integers(0, 1),
    write=st.booleans(),
    cache_maintenance=st.booleans(),
)
instruction_aborts = st.builds(
    Syndrome, faults, el=st.integers(0, 1), fetch=st.just(value=True)
)


@given(faults)
def test_a_status_code_says_which_fault(fault):
    """Encoding a fault and decoding the code is the identity."""
    assert from_status_code(status_code(fault)) == fault


@given(st.integers(0, 63))
def test_a_code_is_that_of_one_fault_or_of_none(code):
    """Decoding a code and encoding its fault is the identity, where it has one."""
    try:
        fault = from_status_code(code)
    except InputError:
        assert code not in map(status_code, EVERY_FAULT)
    else:
        assert status_code(fault) == code


@given(st.one_of(data_aborts, instruction_aborts))
def test_a_syndrome_comes_back_from_esr(syndrome):
    """Encoding a syndrome and decoding the register is the identity."""
    assert Syndrome.decode(syndrome.encode()) == syndrome


@given(data_aborts)
def test_an_operating_system_finds_what_it_looks_for(syndrome):
    """EC in 31:26, IL in 25, CM in 8, WnR in 6, the status code in 5:0."""
    esr = syndrome.encode()
    assert esr >> 26 == (0x25 if syndrome.el else 0x24)
    assert esr >> 25 & 1
    assert esr >> 8 & 1 == syndrome.cache_maintenance
    assert esr >> 6 & 1 == syndrome.write
    assert esr & 0x3F == status_code(syndrome.fault)


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault(FaultKind.ADDRESS_SIZE, 0), 0x00),
        (Fault(FaultKind.ADDRESS_SIZE, 3), 0x03),
        (Fault(FaultKind.ADDRESS_SIZE, -1), 0x29),
        (Fault(FaultKind.TRANSLATION, 0), 0x04),
        (Fault(FaultKind.TRANSLATION, 3), 0x07),
        (Fault(FaultKind.TRANSLATION, -1), 0x2B),
        (Fault(FaultKind.ACCESS_FLAG, 1), 0x09),
        (Fault(FaultKind.ACCESS_FLAG, 3), 0x0B),
        (Fault(FaultKind.PERMISSION, 1), 0x0D),
        (Fault(FaultKind.PERMISSION, 3), 0x0F),
        (Fault(FaultKind.EXTERNAL, 0), 0x10),
        (Fault(FaultKind.EXTERNAL_ON_WALK, -1), 0x13),
        (Fault(FaultKind.EXTERNAL_ON_WALK, 2), 0x16),
        (Fault(FaultKind.ALIGNMENT, 0), 0x21),
        (Fault(FaultKind.TLB_CONFLICT, 0), 0x30),
        (Fault(FaultKind.UNSUPPORTED_UPDATE, 0), 0x31),
    ],
    ids=str,
)
def test_codes_are_the_architectures(fault, code):
    """Each fault has the code of the manual's table."""
    assert status_code(fault) == code


@pytest.mark.parametrize(
    "fault",
    [
        Fault(FaultKind.PERMISSION, -1),
        Fault(FaultKind.ACCESS_FLAG, 4),
        Fault(FaultKind.ALIGNMENT, 3),
    ],
    ids=str,
)
def test_a_level_that_a_kind_cannot_have_is_refused(fault):
    """No code is made up for a fault that cannot be."""
    with pytest.raises(InputError, match="no such status code"):
        status_code(fault)
    with pytest.raises(InputError, match="no such status code"):
        Syndrome(fault, el=0)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"el": 2}, "comes from 0 or 1"),
        ({"el": 0, "fetch": True, "write": True}, "neither writes nor"),
        ({"el": 0, "fetch": True, "cache_maintenance": True}, "neither writes nor"),
    ],
)
def test_a_syndrome_that_no_abort_has_is_refused(wrong, why):
    """Contradictions are errors."""
    with pytest.raises(InputError, match=why):
        Syndrome(Fault(FaultKind.TRANSLATION, 1), **wrong)


def test_an_exception_that_is_no_abort_is_refused():
    """A system call's ESR is not read as a fault."""
    with pytest.raises(InputError, match="exception class 0x15"):
        Syndrome.decode(0x5600_0000)


def test_a_fault_reads_as_people_say_it():
    """The text names the level where there is one."""
    assert str(Fault(FaultKind.ACCESS_FLAG, 3)) == "access flag fault, level 3"
    assert str(Fault(FaultKind.TLB_CONFLICT, 0)) == "tlb conflict fault"
