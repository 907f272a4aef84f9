"""The kernel's page-table dump, read back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlbkit.arm64.fault import Fault
from tlbkit.arm64.walk import walk
from tlbkit.errors import InputError
from tlbkit.lab.dump import Ptdump, read_dump
from tlbkit.lab.dump.tests.support import rights, running

GOOD = """---[ Linear Mapping start ]---
0xffff000000000000-0xffff000000200000           2M PMD       RW NX SHD AF        BLK UXN    MEM/NORMAL-TAGGED
0xffff000000200000-0xffff000000210000          64K PTE       ro x  SHD AF    CON     UXN GP MEM/NORMAL
0xffff000000210000-0xffff000000400000        1984K PTE
---[ Linear Mapping end ]---
0xffff000000400000-0xffff000000401000           4K PTE   F   RW NX SHD AF NG         UXN    MEM/NORMAL
0xffff000000401000-0xffff000000402000           4K PTE   USR RW NX SHD    NG                DEVICE/nGnRE
0xffff800000000000-0x0000000000000000         128T PGD
"""  # noqa: E501 - a dump has long lines


@pytest.mark.parametrize("cpu", ["neoverse-v2", "apple-16k", "neoverse-v2,page=64K"])
def test_a_dump_says_of_each_address_what_its_entries_say(cpu):
    """Rights, table and fault are those of a walk, for pages, blocks and holes."""
    kernel, process, vas = running(cpu)
    text = "\n".join(kernel.ptdump.dump(process.mm, holes=True))
    dump = read_dump(text, "kernel_page_tables")
    assert isinstance(dump, Ptdump)
    regime = kernel.machine.cpus[0].regime
    for va in vas:
        found, (said,) = walk(regime, kernel.machine.memory, va), dump.answers([va])
        if isinstance(found, Fault):
            assert said["fault"] == found.kind.value
        else:
            assert [said["el0"], said["el1"]] == [rights(found, el) for el in (0, 1)]
            assert said["table"] == {3: "PTE", 2: "PMD"}[found.leaf.level]
            assert said["contiguous"] is (found.leaf.group_shift != found.leaf.shift)
            assert said["global"] is not found.leaf.not_global


def test_what_each_word_of_a_line_says():
    """Flags, memory type, section; what was not accessed, or is not valid."""
    dump = Ptdump.parse(f"# cat kernel_page_tables\n{GOOD}", "k")
    block, text, hole, none, device, high = dump.answers(
        [one.start for one in dump.runs]
    )
    assert (block["el1"], block["memory"]) == ("rw-", "MEM/NORMAL-TAGGED")
    assert (block["section"], block["table"]) == ("Linear Mapping start", "PMD")
    assert (text["el1"], text["contiguous"], text["line"]) == ("r-x", True, 4)
    assert hole["fault"] == none["fault"] == high["fault"] == "translation"
    assert (device["el0"], device["accessed"]) == ("rwx", False)
    assert dump.answer(0)["missing"]
    assert dump.answer((1 << 64) - 1)["table"] == "PGD"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "2M PMD",
            "4M PMD",
            "line 2: the range has 0x200000 bytes, the line says 4M",
        ),
        ("64K PTE", "64K PTD", "line 3: 'PTD' is no level; there are PGD, P4D"),
        (
            "SHD AF        BLK",
            "SHD AF     NUL BLK",
            "line 2: 'NUL' is no flag",
        ),
        ("RW NX SHD AF        BLK", "RW SHD AF BLK", "of NX and x, each line has one"),
        (
            "SHD AF        BLK",
            "SHD AF  AF    BLK",
            "of arm64, or stands there twice",
        ),
        ("0xffff000000210000-0xffff", "0xffff000000200000-0xffff", "line 4: the range"),
        ("---[ Linear Mapping end ]---", "Killed", "line 5: 'Killed' is no line"),
        ("0xffff000000000000-", "0xffff000000200000-", "from 0xffff000000200000 to"),
    ],
)
def test_a_damaged_line_is_named(old, new, said):
    """The error says which line, and what is wrong with it."""
    assert old in GOOD
    with pytest.raises(InputError) as error:
        Ptdump.parse(GOOD.replace(old, new, 1), "k")
    assert said in str(error.value)


def test_what_was_told_before_is_refused():
    """Two dumps in one file contradict each other."""
    with pytest.raises(InputError, match=r"line 9: .* was dumped in line 8 already"):
        Ptdump.parse(GOOD + GOOD.replace("---[ Linear Mapping start ]---\n", ""), "k")


def test_without_an_address_there_is_no_answer():
    """A dump of a whole kernel is asked for addresses."""
    with pytest.raises(InputError, match="name some, as in 0xffff000000000000"):
        Ptdump.parse(GOOD, "k").answers([])


@given(st.data())
def test_a_fuzzed_dump_is_read_or_refused_in_one_line(data):
    """Whatever happens to its characters, it ends in answers or in one sentence."""
    text = list(GOOD)
    for _ in range(data.draw(st.integers(1, 5))):
        place = data.draw(st.integers(0, len(text) - 1))
        text[place] = data.draw(st.sampled_from("0x-F \n]KM") | st.characters())
    del text[data.draw(st.integers(0, len(text))) :]
    try:
        found = read_dump("".join(text), "k").answers([0xFFFF_0000_0020_0000])
    except InputError as error:
        assert "\n" not in str(error)  # noqa: PT017 - either outcome will do
        assert str(error).startswith("k")  # noqa: PT017
    else:
        assert len(found) == 1
