"""The walk as a tree: what is drawn is what the walk reads, as far as it is opened."""

import re
from xml.etree import ElementTree as ET

from hypothesis import given
from hypothesis import strategies as st

from tlbkit import lab
from tlbkit.errors import InputError
from tlbkit.lab.walk import ENDINGS, VA_BITS
from tlbkit.show.walk_tree import walk_tree

WALK = lab.find_exploration("walk")


def texts(svg):
    """Return every text of a picture; it must be well formed."""
    return [one.text for one in ET.fromstring(svg).iter("text")]  # noqa: S314 - ours


@given(
    st.integers(0, (1 << 47) - 1),
    st.sampled_from(["4K", "16K", "64K"]),
    st.sampled_from(VA_BITS),
    st.sampled_from(sorted(ENDINGS)),
    st.integers(1, 8),
)
def test_the_tree_shows_the_words_that_the_walk_reads(va, granule, bits, end, opened):
    """A table for each word, its entry by number; contents only where it is opened."""
    asked = {
        "va": f"{va:#x}",
        "granule": granule,
        "va_bits": bits,
        "ending": end,
        "opened": 8,
    }
    try:
        whole = WALK.answer(asked)
    except InputError:
        return  # these registers or this ending do not fit together
    read = [(row[0], row[3]) for row in whole.rows if row[4]]
    shown = texts(walk_tree(WALK.answer(asked | {"opened": opened}).columns))
    assert [f"{name} table" for name, _ in read] == [
        one for one in shown if one.endswith(" table") and one.startswith("level")
    ]
    found = WALK.answer(asked | {"opened": opened})
    seen = {row[3] for row in found.rows if row[4]}
    for _, entry in read:
        assert any(one == entry or one.startswith(f"{entry}: ") for one in shown)
    assert len([one for one in shown if re.match(r"\d+: ", one)]) == len(
        [row for row in found.rows if row[4]]
    )
    assert seen <= {entry for _, entry in read}


def test_the_end_comes_last():
    """The physical address, or the fault, is told once the walk has come there."""
    assert "physical address 0x880000234" in texts(walk_tree(WALK.answer({}).columns))
    half = texts(walk_tree(WALK.answer({"opened": 4}).columns))
    assert not any("physical" in one for one in half)
    fault = WALK.answer({"ending": "nothing at level 2"})
    assert any(
        "translation fault, level 2" in one for one in texts(walk_tree(fault.columns))
    )


def test_a_walk_that_reads_nothing_is_a_picture_too():
    """An address that is refused has no table, and the words say why."""
    refused = WALK.answer({"va": "0x1234_0000_0000_0000"})
    svg = walk_tree(refused.columns)
    assert not texts(svg)
    assert "translation fault, level 0" in svg
