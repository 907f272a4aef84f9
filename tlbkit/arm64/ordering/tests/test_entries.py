"""What a table word says, and what an access gets from it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlbkit.arm64.fault import FaultKind
from tlbkit.arm64.ordering.entries import (
    INVALID,
    NEVER_CACHED,
    Hardware,
    answer,
    entry_from_words,
)
from tlbkit.arm64.ordering.tests.programs import entries, to
from tlbkit.errors import InputError


@given(entries)
def test_an_entry_is_read_back_as_it_is_written(entry):
    """The words of an entry say all of it."""
    assert entry_from_words(str(entry)) == entry


@given(entries, st.booleans())
def test_a_tlb_may_hold_what_does_not_fault_for_translation_or_access_flag(
    entry, write
):
    """Where software keeps the access flag, held and faulting so exclude each other."""
    fault = answer(entry, write=write, hardware=Hardware.NONE).fault
    assert entry.cacheable == (fault not in NEVER_CACHED)


@given(entries, st.booleans(), st.sampled_from(Hardware))
def test_an_update_gives_an_entry_that_needs_none(entry, write, hardware):
    """Hardware updates a word once: by the new word the same access just goes on."""
    update = answer(entry, write=write, hardware=hardware).update
    if update is not None:
        assert answer(update, write=write, hardware=hardware) == (None, None)
        assert update.frame == entry.frame


@given(entries, st.booleans())
def test_hardware_management_takes_faults_away_and_adds_none(entry, write):
    """Each step of hardware management leaves fewer faults for software."""
    faulted = [
        answer(entry, write=write, hardware=hardware).fault is not None
        for hardware in Hardware
    ]
    assert faulted == sorted(faulted, reverse=True)


@given(entries, st.sampled_from(Hardware))
def test_a_read_never_makes_an_entry_dirty(entry, hardware):
    """Only a write sets the dirty state."""
    update = answer(entry, write=False, hardware=hardware).update
    assert update is None or update.writable == entry.writable


@pytest.mark.parametrize(
    ("entry", "write", "hardware", "fault"),
    [
        (INVALID, False, Hardware.DIRTY, FaultKind.TRANSLATION),
        (to("a", young=False), False, Hardware.NONE, FaultKind.ACCESS_FLAG),
        (
            to("a", writable=False, young=False),
            True,
            Hardware.NONE,
            FaultKind.ACCESS_FLAG,
        ),
        (
            to("a", writable=False, young=False),
            True,
            Hardware.ACCESS_FLAG,
            FaultKind.PERMISSION,
        ),
        (
            to("a", writable=False, dbm=True),
            True,
            Hardware.ACCESS_FLAG,
            FaultKind.PERMISSION,
        ),
        (to("a", writable=False, dbm=True), True, Hardware.DIRTY, None),
    ],
)
def test_faults_come_in_the_order_of_the_architecture(entry, write, hardware, fault):
    """Translation comes before access flag, access flag before permission."""
    assert answer(entry, write=write, hardware=hardware).fault is fault


@pytest.mark.parametrize(
    "words",
    [
        "",
        "valid",
        "frame",
        "frame a b",
        "read-only",
        "frame a, frame b",
        "frame a,",
        "frame a, read-only, writable",
        "frame a, af 2",
        "invalid, dbm",
    ],
)
def test_other_words_are_refused(words):
    """What is no entry is an input error that repeats the words."""
    with pytest.raises(InputError, match="entry"):
        entry_from_words(words)
