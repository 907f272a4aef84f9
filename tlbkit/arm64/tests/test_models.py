"""CPU models are data: complete, consistent, and easy to name."""

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlbkit.arm64.granule import GRANULE_4K, GRANULES, LAST_LEVEL
from tlbkit.arm64.machine import Machine
from tlbkit.arm64.models import (
    DEFAULT_MODEL,
    MODELS,
    NEOVERSE_N1,
    PROPERTIES,
    CpuModel,
    Replacement,
    Surety,
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
    """Nothing is claimed of a core without a source, and a word of how sure it is."""
    assert model.summary
    for name in PROPERTIES:
        origin = model.origin(name)
        assert origin.source
        assert origin.surety in set(Surety) - {Surety.CHOSEN}


def test_every_field_of_a_model_is_a_property():
    """What can be different between two cores has a name by which it can be chosen."""
    told = {one.field for one in PROPERTIES.values()}
    assert told == {f.name for f in fields(CpuModel)} - {"name", "summary", "origins"}


@models
@pytest.mark.parametrize("name", PROPERTIES)
def test_a_property_is_read_as_it_is_written(model, name):
    """To give a model what it has already changes no property of it."""
    value = PROPERTIES[name].of(model)
    same = find_model(f"{model.name},{name}={value}")
    assert {n: one.of(same) for n, one in PROPERTIES.items()} == {
        n: one.of(model) for n, one in PROPERTIES.items()
    }
    assert same.origin(name).surety is Surety.CHOSEN


def test_properties_follow_the_name():
    """A flag alone is on, spaces do not matter, and the rest stays as it was."""
    model = find_model("neoverse-v2, kpti, page=16k,l2 = 128x4,l1d=32, ttl=off")
    assert (model.kpti, model.ttl, model.page_shift) == (True, False, 14)
    assert (model.l2.entries, model.l1d.entries, model.l1d.sets) == (512, 32, 1)
    assert model.range_tlbi is MODELS["neoverse-v2"].range_tlbi
    assert model.name == "neoverse-v2,kpti,page=16k,l2 = 128x4,l1d=32,ttl=off"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("neoverse-v2,", "no CPU has a property ''; there are page, pa_bits"),
        ("neoverse-v2,turbo", "'turbo'; there are page, pa_bits"),
        ("neoverse-v2,page=8K", "page=8K: must be 4K, 16K, 64K"),
        ("neoverse-v2,kpti=yes", "kpti=yes: must be on or off"),
        ("neoverse-v2,pa_bits=50", "32, 36, 40, 42, 44, 48, 52"),
        ("neoverse-v2,l2=big", "l2=big: must be SETSxWAYS"),
        ("neoverse-v2,l2=3x4", "power of two of sets"),
        ("neoverse-v2,shared_tlb=0", "a whole number from 1 to 512"),
        ("neoverse-v2,kpti,kpti=off", "kpti is given twice"),
        ("neoverse-v2,lpa2,page=64K", "FEAT_LPA2 is for pages of 4K and 16K"),
        ("neoverse-v2,pa_bits=52", "need lpa2, or page=64K"),
        ("neoverse-v2,hw_af=off", "add hw_dbm=off"),
        ("kpti", "known: neoverse-v2, neoverse-v3"),
    ],
)
def test_what_no_core_can_be_is_refused(text, said):
    """The error says which part is wrong, and what there is."""
    with pytest.raises(InputError) as error:
        find_model(text)
    assert said in str(error.value)


@given(
    st.lists(
        st.sampled_from([*PROPERTIES, "", "=", "x"])
        | st.text(max_size=6)
        | st.builds(
            "{}={}".format, st.sampled_from([*PROPERTIES]), st.text(max_size=4)
        ),
        max_size=4,
    )
)
def test_any_text_is_a_model_or_an_error(changes):
    """Whatever is asked for, there is such a machine, or a sentence why not."""
    try:
        model = find_model(",".join(["cortex-a72", *changes]))
    except InputError as error:
        said = str(error)
    else:
        said = Machine(2, model).model.name
    assert said


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
