"""Laws of the opened walk: each step shown is one that the walker makes."""

import pytest
from hypothesis import given, reject
from hypothesis import strategies as st

from tlbkit.arm64.fault import Fault
from tlbkit.arm64.granule import GRANULES
from tlbkit.arm64.walk import walk
from tlbkit.errors import InputError
from tlbkit.lab.walk import ADDRESS, ENDINGS, VA_BITS, Walk, address_boxes, scene, steps

WALK = Walk()
ADDRESSES = st.integers(0, (1 << 64) - 1) | st.sampled_from(
    [ADDRESS, 0, (1 << 48) - 1, ADDRESS | 0xFFFF << 48]
)


class Counted:
    """A memory that counts what is read of it."""

    def __init__(self, memory):
        self.memory = memory
        self.read_at = []

    def read(self, pa):
        self.read_at.append(pa)
        return self.memory.read(pa)


@st.composite
def scenes(draw):
    """Any address, registers and tables that go together."""
    tcr = draw(
        st.dictionaries(
            st.sampled_from(["TBI0", "EPD0", "EPD1", "HA", "DS", "HPD0"]),
            st.integers(0, 1),
        )
    )
    try:
        return scene(
            draw(ADDRESSES),
            draw(st.sampled_from(GRANULES)),
            draw(st.sampled_from(VA_BITS)),
            draw(st.sampled_from(list(ENDINGS.values()))),
            tcr,
        )
    except InputError:
        reject()


@given(scenes())
def test_the_steps_are_the_reads_of_the_walker(shown):
    """Place by place and word by word, what is shown is what the walker read."""
    counted = Counted(shown.memory)
    walk(shown.regime, counted, shown.va)
    read = [step for step in steps(shown) if step.place]
    assert [int(step.place, 16) for step in read] == counted.read_at
    assert [int(step.word, 16) for step in read] == [
        shown.memory.read(pa) for pa in counted.read_at
    ]


@given(scenes())
def test_the_last_step_is_the_outcome(shown):
    """A fault in its own words, or the address that the walk leads to."""
    last = steps(shown)[-1].so
    if isinstance(shown.outcome, Fault):
        assert last.endswith(str(shown.outcome))
    else:
        offset = shown.va & (1 << shown.outcome.leaf.shift) - 1
        assert last == f"physical address {shown.outcome.pa | offset:#x}"


@given(scenes())
def test_the_boxes_are_the_address(shown):
    """The parts of the address cover its 64 bits, each once, from the top."""
    spans = [box.bits.split(":") for box in address_boxes(shown.va, shown.half)]
    tops = [int(span[0]) for span in spans]
    bottoms = [int(span[-1]) for span in spans]
    assert tops[0] == 63
    assert bottoms[-1] == 0
    assert [bottom - 1 for bottom in bottoms[:-1]] == tops[1:]
    for box, top, low in zip(
        address_boxes(shown.va, shown.half), tops, bottoms, strict=True
    ):
        value = shown.va >> low & (1 << top + 1 - low) - 1
        alike = {"0...0": 0, "1...1": (1 << top + 1 - low) - 1}
        base = 16 if box.value.startswith("0x") else 2
        assert value == alike.get(box.value, -1) or value == int(box.value, base)


@given(st.integers(1, 8))
def test_opening_shows_more_of_the_same(opened):
    """What is open stays as it is when more is opened."""
    everything = WALK.answer({}).rows
    assert WALK.answer({"opened": opened}).rows == everything[:opened]


def test_the_example_of_the_chapters():
    """Four words for a page; the address leads to the frame that was mapped."""
    answer = WALK.answer({})
    assert answer.text == (
        "The walk is done and has read 4 words of memory: physical address 0x880000234."
    )


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"va": "somewhere"}, "write a number"),
        ({"va": hex(1 << 64)}, "64 bits"),
        ({"tcr": "XYZ=1"}, "sets no field"),
        ({"va_bits": 52}, "T0SZ is 12"),
        ({"va_bits": 25, "ending": "a level 1 block"}, "walks go from 2"),
    ],
)
def test_what_cannot_be_is_said(params, said):
    """Text that is no number, fields that are not, registers that are not legal."""
    with pytest.raises(InputError, match=said):
        WALK.answer(params)
