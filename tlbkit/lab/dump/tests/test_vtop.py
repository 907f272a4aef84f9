"""What crash prints for vtop, read back and walked again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlbkit.arm64.fault import Fault
from tlbkit.errors import InputError
from tlbkit.lab.dump import Vtop, read_dump
from tlbkit.lab.dump.tests.support import running, vtop

GOOD = """crash> vtop ffff000040200000
VIRTUAL           PHYSICAL
ffff000040200000  80200000

PAGE DIRECTORY: ffff8000819b1000
   PGD: ffff8000819b1000 => 18000000bfffe403
   PUD: ffff00007fffe008 => 18000000bfffd403
   PMD: ffff00007fffd008 => 68000080200711
  PAGE: 80200000  (2MB)

     PTE        PHYSICAL  FLAGS
68000080200711  80200000  (VALID|SHARED|AF|PXN|UXN|DIRTY)
"""


@pytest.mark.parametrize("cpu", ["neoverse-v2", "apple-16k", "neoverse-v2,page=64K"])
def test_a_walk_is_walked_again(cpu):
    """The answer is that of the machine whose tables were printed, and they agree."""
    kernel, process, vas = running(cpu)
    texts = [vtop(kernel, process, va) for va in vas]
    dump = read_dump("\n".join(text for text, _ in texts), "v")
    assert isinstance(dump, Vtop)
    for va, (_, found), said in zip(vas, texts, dump.answers(), strict=True):
        assert said["va"] == hex(va)
        assert said["page"] == f"{kernel.pgtable.page_size >> 10}K"
        assert said["agrees"] is True
        if isinstance(found, Fault):
            assert (said["fault"], said["level"]) == (found.kind.value, found.level)
        else:
            assert int(said["pa"], 16) == found.pa + va - found.va & ~0xFFF
            assert int(said["attr"], 16) == found.leaf.attr


def test_a_kernel_address_is_walked():
    """The upper half, a block, and whatever else crash prints around it."""
    (said,) = read_dump(GOOD, "v").answers()
    assert (said["pa"], said["page"], said["agrees"]) == ("0x80200000", "4K", True)
    assert said["attr"] == "0x04"
    (said,) = read_dump(GOOD, "v").answers([0x1000])
    assert said["missing"] == "vtop was not asked for it"


def test_a_dump_that_contradicts_itself_does_not_agree():
    """Where crash says something else than its own entries, that is said."""
    text = GOOD.replace("ffff000040200000  80200000", "ffff000040200000  80400000", 1)
    (said,) = read_dump(text, "v").answers()
    assert said["agrees"] is False


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("   PUD: ffff00007fffe008 => 18000000bfffd403\n", "", "is a line missing"),
        ("PMD: ffff00007fffd008", "PMD: ffff00007fffd010", "do not stand where 4K"),
        ("   PGD: ffff8000819b1000 => 18000000bfffe403\n", "", "from PGD on"),
        ("ffff000040200000  80200000\n", "none\n", "v, line 3: below the heading"),
    ],
)
def test_a_damaged_walk_is_named(old, new, said):
    """The error says which line, and what is wrong there."""
    assert old in GOOD
    with pytest.raises(InputError) as error:
        read_dump(GOOD.replace(old, new, 1), "v").answers()
    assert said in str(error.value)


@given(st.data())
def test_a_fuzzed_walk_is_read_or_refused_in_one_line(data):
    """Whatever happens to its characters, it ends in answers or in one sentence."""
    text = list(GOOD)
    for _ in range(data.draw(st.integers(1, 5))):
        place = data.draw(st.integers(0, len(text) - 1))
        text[place] = data.draw(st.sampled_from("0f8 \n=>:PD") | st.characters())
    del text[data.draw(st.integers(0, len(text))) :]
    try:
        found = read_dump("".join(text), "v").answers()
    except InputError as error:
        assert "\n" not in str(error)  # noqa: PT017 - either outcome will do
    else:
        assert found
