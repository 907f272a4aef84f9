"""Flush sequences: read, run, judged."""

from math import comb

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlbkit.arm64.models import MODELS
from tlbkit.errors import InputError
from tlbkit.lab.sequence import EXAMPLES, judge, read_sequence
from tlbkit.lab.sequence.form import INSTRUCTIONS, MOST_INSTRUCTIONS, evaluate
from tlbkit.lab.sequence.judge import _orders
from tlbkit.lab.sequence.own import OwnSequence
from tlbkit.lab.sequence.world import World

FLUSH = [
    "ldr x0, =pte(x)",
    "str xzr, [x0]",
    "dsb ishst",
    "ldr x1, =va(x)",
    "tlbi vale1is, x1",
    "dsb ish",
    ".free a",
]


def sequence(*program, head="page x = a rw", **others):
    """Read a sequence of CPU 0, and of others by ``p1`` and so on."""
    lines = [head, "CPU 0:", *program]
    for name, theirs in others.items():
        lines += [f"{name}:", *theirs]
    return read_sequence("\n".join(lines), "test")


def harm(*program, **others):
    """What goes wrong, or nothing."""
    return judge(sequence(*program, **others)).harm


# -- laws ----------------------------------------------------------------------------


CPUS = [*MODELS, "neoverse-v2,page=64K", "cortex-a72,page=16K"]


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize("kind", ["page", "block"])
@pytest.mark.parametrize("rights", ["r", "rw", "rx"])
def test_the_canonical_flush_does_no_harm_and_needs_each_step(cpu, kind, rights):
    """Store, barrier, TLBI, barrier: right on every CPU, and each of them is needed."""
    head = f"cpu {cpu}\n{kind} x = a {rights}"
    found = judge(sequence(*FLUSH, head=head))
    assert (found.harm, found.needless, found.complete) == ("", (), True)
    assert found.counts.tlbi == {"VALE1IS": 1}
    for step in FLUSH[1:6]:
        if step.startswith("ldr"):
            continue
        rest = [one for one in FLUSH if one != step]
        assert harm(*rest, head=head)


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_example_is_what_its_title_says(name):
    """Three do harm, the fourth wastes broadcasts; each has its report."""
    example = EXAMPLES[name]
    found = judge(read_sequence(example.text, name))
    assert example.source
    assert bool(found.harm) is (name != "one-by-one")
    if name == "one-by-one":
        assert found.counts.tlbi == {"VAAE1IS": 4}
        (advice,) = found.advice
        assert "RVAAE1IS takes them as a range" in advice
    else:
        assert "writes frame a" in found.harm
        assert "another process" in found.harm


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("local", "tlbi vmalle1\n    dsb  nsh", "tlbi vmalle1is\n    dsb  ish"),
        ("no-barrier", "ldr  x1, =va", "dsb ishst; ldr x1, =va"),
        ("shift", "#14", "#12"),
        ("local", "page x", "cpus 1\npage x"),
    ],
)
def test_each_example_is_mended_as_its_report_says(name, old, new):
    """With the mended line no order does harm; nor has one CPU others to tell."""
    text = EXAMPLES[name].text
    assert old in text
    assert judge(read_sequence(text.replace(old, new), name)).harm == ""


@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.integers(0, 2))
def test_orders_are_all_and_each_once(lengths, preemptions):
    """No order comes twice, each keeps every CPU's own, and the bound is kept."""
    text = "page x = a rw\n" + "\n".join(
        f"CPU {cpu}: {'; '.join(['nop'] * n)}" for cpu, n in enumerate(lengths)
    )
    read = read_sequence(text, "test")
    orders = [tuple(one) for n in range(preemptions + 1) for one in _orders(read, n)]
    assert len(set(orders)) == len(orders)
    for order in orders:
        assert [order.count(cpu) for cpu in range(len(lengths))] == lengths
    if len(lengths) == 2 and preemptions == 2 and max(lengths) == 1:
        assert len(orders) == comb(2, 1)


WORDS = st.integers(0, (1 << 64) - 1)


@given(WORDS, WORDS, st.integers(0, 63))
def test_registers_compute_as_arm_says(a, b, shift):
    """Each operation is that of 64-bit words; xzr reads as 0 and keeps nothing."""
    mask = (1 << 64) - 1
    expected = {
        "add x3, x1, x2": a + b,
        "sub x3, x1, x2": a - b,
        "and x3, x1, x2": a & b,
        "orr x3, x1, x2": a | b,
        "eor x3, x1, x2": a ^ b,
        "bic x3, x1, x2": a & ~b,
        f"lsl x3, x1, #{shift}": a << shift,
        f"lsr x3, x1, #{shift}": a >> shift,
        "mov x3, x2": b,
        "mov x3, xzr": 0,
    }
    for instruction, value in expected.items():
        program = [f"ldr x1, ={a}", f"ldr x2, ={b:#x}", "mov xzr, x1", instruction]
        world = World(sequence(*program, "ldr x0, =pte(x)", "str x3, [x0, #8]"))
        for _ in range(6):
            world.step(0)
        place = world._tables.entry(1 << 40) + 8
        assert world.machine.memory.read(place) == value & mask


@given(st.text(max_size=60) | st.lists(st.sampled_from(FLUSH)).map("; ".join))
@settings(max_examples=200)
def test_any_text_is_judged_or_refused_in_one_line(text):
    """Whatever is written, it ends in a verdict or in one sentence with its line."""
    for whole in (text, f"page x = a rw\nCPU 0: {text}"):
        try:
            found = judge(read_sequence(whole, "yours"))
        except InputError as error:
            assert str(error).startswith("yours, line ")  # noqa: PT017 - or judged
            assert "\n" not in str(error)  # noqa: PT017
        else:
            assert found.runs


# -- what goes wrong -----------------------------------------------------------------


def test_a_live_entry_is_not_replaced():
    """Break before make is the architecture's rule, and it is said as such."""
    said = harm("ldr x0, =pte(x)", "ldr x1, =desc(b, rw)", "str x1, [x0]")
    assert "no step between them" in said


def test_a_race_is_found_with_its_order():
    """Given away before the flush, a frame can still be written by another CPU."""
    early = [*FLUSH[:2], ".free a", *FLUSH[2:6]]
    writer = ["ldr x0, =x", "str x0, [x0]"]
    found = judge(sequence(*early, p1=writer))
    theirs = "frame a, which belongs to another process since line 5"
    assert found.harm == f"CPU 1, line 12: writes {theirs}"
    assert found.way[-1].startswith("CPU 1, line 12: str x0, [x0]")
    assert judge(sequence(*FLUSH, p1=writer)).harm == ""


def test_rights_taken_back_are_flushed():
    """A page made read-only stays writable for a CPU that was not told."""
    change = ["ldr x0, =pte(x)", "ldr x1, =desc(a, r)", "str x1, [x0]", "dsb ishst"]
    said = harm(*change)
    assert "still writes frame a, through x: the tables allow less" in said
    flush = ["ldr x2, =va(x)", "tlbi vale1is, x2", "dsb ish"]
    assert harm(*change, *flush) == ""
    back = ["ldr x1, =desc(a, rwx)", "str x1, [x0]"]
    assert harm(*change, *flush, *back) == ""


def test_what_is_given_away_is_mapped_no_more():
    """A frame that its tables still map cannot belong to another process."""
    assert harm(".free a").startswith("the tables still map x to frame a, which")


def test_a_dsb_for_this_cpu_completes_no_broadcast():
    """The TLBI is in flight at the end, and that is told."""
    program = ["dsb nsh" if one == "dsb ish" else one for one in FLUSH]
    assert harm(*program).endswith("a TLBI is in flight that no DSB completes")


def test_a_range_is_flushed_by_a_range():
    """What one range does for eight pages, it does not for the ninth."""
    head = "page x = a rw x 9"
    stores = ["ldr x0, =pte(x)", *(f"str xzr, [x0, #{8 * n}]" for n in range(9))]
    flush = ["dsb ishst", "ldr x1, =range(x, 8)", "tlbi rvae1is, x1", "dsb ish"]
    assert "through x + 8 pages" in harm(*stores, *flush, head=head)
    assert harm(*stores[:-1], *flush, head=head) == ""


def test_without_a_range_form_there_is_no_advice_to_use_it():
    """On a CPU that lacks it, it is said that it does."""
    text = f"cpu neoverse-n1\n{EXAMPLES['one-by-one'].text}"
    (said,) = judge(read_sequence(text, "t")).advice
    assert said.endswith("neoverse-n1 has no range form")


# -- refusals ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "line 1: no page is named"),
        ("page x = a rw", "no CPU does anything"),
        ("page x = a rw\nCPU 0: isb\nCPU 0: isb", "line 3: CPU 0 was given before"),
        ("page x = a rw\npage x = b rw", "line 2: x is a page"),
        ("page x = a rw\npage y = a rw", "line 2: frame a is mapped already"),
        ("page x1 = a rw", "x1 is a page or a register"),
        ("page x = a wx", "'wx': rights are none, r, rw, rx, rwx"),
        ("page x = a rw x 999", "from 1 to 512"),
        ("cpu pentium", "known: neoverse-v2"),
        ("cpu neoverse-v2,lpa2", "leave lpa2 out"),
        ("cpus 0", "from 1 to 512"),
        ("hello", "line 1: 'hello' is neither page NAME"),
        ("page x = a rw\nCPU 0:\n  frob x0", "line 3: 'frob x0' is no instruction"),
        ("page x = a rw\nCPU 0: dsb up", "dsb up: known are"),
        ("page x = a rw\nCPU 0: tlbi up", "tlbi up is not known"),
        ("page x = a rw\nCPU 0: tlbi vae1", "takes a register"),
        ("page x = a rw\nCPU 0: tlbi vmalle1, x0", "takes no register"),
        (
            "cpu cortex-a72\npage x = a rw\nCPU 0: tlbi rvae1is, x0",
            "no FEAT_TLBIRANGE",
        ),
        ("cpus 1\npage x = a rw\nCPU 1: isb", "CPU 1: there are 1 CPUs"),
        ("page x = a rw\nCPU 0: ldr x0, =pte(y)", "line 2: y with 0 arguments"),
        ("page x = a rw\nCPU 0: ldr x0, =pte(5)", "no page was named there"),
        ("page x = a rw\nCPU 0: ldr x0, =x +", "ends with +"),
        ("page x = a rw\nCPU 0: ldr x0, =range(x, 3)", "range of 3 pages"),
        ("page x = a rw\nCPU 0: ldr x0, =desc(a, q)", "RIGHTS are none, r, rw"),
        ("page x = a rw\nCPU 0: .free z", "no frame is called z; there are a"),
        (
            "page x = a rw\nCPU 0: ldr x0, =0xffffffff00000000; str x0, [x0]",
            "no entry of a table",
        ),
        (
            f"page x = a rw\nCPU 0: {'; '.join(['nop'] * (MOST_INSTRUCTIONS + 1))}",
            f"more than {MOST_INSTRUCTIONS}",
        ),
    ],
)
def test_what_is_no_sequence_is_said_with_its_line(text, said):
    """The error says where, what, and what there is."""
    with pytest.raises(InputError) as error:
        judge(read_sequence(text, "f"))
    assert said in str(error.value)
    assert str(error.value).startswith("f, line ")


def test_comments_and_semicolons():
    """A comment is no instruction, whatever stands in it."""
    read = read_sequence(
        "# page y = b rw\npage x = a rw // the page\nP0: isb; dsb ish // tlbi\n", "f"
    )
    assert [one.text for one in read.programs[0]] == ["isb", "dsb ish"]
    assert [page.name for page in read.pages] == ["x"]
    assert len(INSTRUCTIONS) >= 10


def test_an_expression_is_a_sum():
    """Numbers and names, added and taken away."""
    names = {"x": 0x1000, "y": 3}

    def call(name, arguments):
        assert not arguments
        return names[name]

    assert evaluate("x + 8 - y", call) == 0x1005
    assert evaluate(" 0x10-0x11 ", call) == (1 << 64) - 1


# -- in the page ---------------------------------------------------------------------


def test_a_sequence_of_the_readers_own():
    """The explorer judges what stands in its lines, and refuses what is none."""
    explorer = OwnSequence()
    first = explorer.answer({})
    assert first.text.startswith("Harm: ")
    assert first.columns["value"][-1] == "yes"
    whole = explorer.answer({"p0": "; ".join(FLUSH), "p1": "isb"})
    assert whole.columns["value"][-1] == "no"
    assert whole.columns["chosen"] == [0] * len(FLUSH) + [1, 0]
    assert "Nothing goes wrong here without: isb" in whole.text
    for wrong in ({"p0": "frob"}, {"tables": "page"}, {"p0": "isb\nisb"}, {"cpu": "x"}):
        with pytest.raises(InputError):
            explorer.answer(wrong)
