"""CPU models are data: complete, consistent, and easy to name."""

from dataclasses import replace

import pytest

from tlbkit.arm64.granule import GRANULE_4K, GRANULES, LAST_LEVEL
from tlbkit.arm64.machine import Machine
from tlbkit.arm64.models import (
    DEFAULT_MODEL,
    MODELS,
    NEOVERSE_N1,
    CpuModel,
    Replacement,
    TlbGeometry,
    find_model,
)
from tlbkit.errors import InputError

models = pytest.mark.parametrize("model", MODELS.values(), ids=list(MODELS))


@models
def test_a_model_is_found_by_its_name(model):
    """The name in a model is the one that finds it."""
    assert find_model(model.name) is model
    assert Machine(1, model.name).model is model


def test_an_unknown_name_is_answered_with_the_known_ones():
    """The error lists what there is."""
    with pytest.raises(InputError, match=DEFAULT_MODEL):
        find_model("pentium")


@models
def test_a_model_says_what_it_stands_for_and_how_sure_that_is(model):
    """Nothing is claimed of a core without a source."""
    assert model.summary
    assert model.source


@models
def test_every_page_and_block_finds_room(model):
    """The main TLB holds each leaf size of Linux's granules; micro-TLBs hold pages."""
    for granule in GRANULES:
        for level in range(granule.first_block_level, LAST_LEVEL + 1):
            shift = granule.shift(level)
            assert shift in model.l2.shifts or shift > max(model.l2.shifts)
    for micro in (model.l1i, model.l1d):
        assert GRANULE_4K.page_shift in micro.shifts
        assert micro.sets == 1
        assert micro.entries < model.l2.entries


def test_geometry_as_published():
    """The N1's main TLB is 5-way with 1,280 entries: Cortex-A76 manual, A5.2."""
    assert NEOVERSE_N1.l2.entries == 1280
    assert (NEOVERSE_N1.l1d.entries, NEOVERSE_N1.l1i.entries) == (48, 48)


@pytest.mark.parametrize(("sets", "ways"), [(0, 4), (3, 4), (-1, 1), (8, 0)])
def test_impossible_shapes_are_refused(sets, ways):
    """Sets are a power of two, and a set has room for something."""
    with pytest.raises(InputError, match="power of two"):
        TlbGeometry(sets, ways, frozenset({12}))


def test_a_variant_is_a_copy_with_changes():
    """A model changes by replacing fields; the original stays."""
    fifo = replace(NEOVERSE_N1.l2, replacement=Replacement.FIFO)
    model = replace(NEOVERSE_N1, name="n1 with fifo", l2=fifo, range_tlbi=True)
    assert isinstance(model, CpuModel)
    assert NEOVERSE_N1.l2.replacement is Replacement.LRU
    assert Machine(2, model).model.range_tlbi
