"""The written forms of a litmus test."""

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlbkit.arm64.ordering import Accesses, Dmb, Domain, Dsb, Tlbi
from tlbkit.arm64.ordering.tests.programs import programs
from tlbkit.errors import InputError
from tlbkit.explore.litmus import LitmusTest, catalogue, dump_json, dump_text, load
from tlbkit.explore.litmus.conditions import Faulted
from tlbkit.explore.litmus.form import VERDICTS
from tlbkit.explore.litmus.steps import parse_step

WHOLE = """\
test one
  frame b = 1
  page x = frame a
  entry A = frame b
  P0: pte(x) := A; flag := 1
  P1: r := flag; v := x
  exists P1.r = 1 and P1.v = 0
"""


@st.composite
def litmus_tests(draw, name="t"):
    """Draw a test of a random program."""
    program = draw(programs(size=5, most_threads=3))
    values = {entry for entry in program.entries() if entry.valid} | {
        step.expected
        for thread in program.threads
        for step in thread
        if hasattr(step, "expected") and step.expected.valid
    }
    entries = tuple((f"E{i}", entry) for i, entry in enumerate(sorted(values, key=str)))
    about = draw(st.sampled_from(["", "what it is for"]))
    expected = draw(st.none() | st.tuples(*[st.sampled_from(VERDICTS)] * 2))
    return LitmusTest(name, program, Faulted(0), entries, about, expected)


@settings(max_examples=30, deadline=None)
@given(st.lists(litmus_tests(), min_size=1, max_size=2))
def test_both_forms_are_read_back_as_they_are_written(tests):
    """Writing tests and reading them gives the same tests, in text and in JSON."""
    tests = [
        LitmusTest(f"t{i}", t.program, t.condition, t.entries, t.about, t.expected)
        for i, t in enumerate(tests)
    ]
    assert load(dump_text(tests)) == tests
    assert load(dump_json(tests)) == tests


def test_the_catalogue_survives_both_forms():
    """The tests of the package are the same read from JSON as from their own file."""
    assert load(dump_json(catalogue())) == load(dump_text(catalogue())) == catalogue()


def test_one_json_object_is_a_file_too():
    """A file of one test needs no list around it."""
    (test,) = load(WHOLE)
    assert load(json.dumps(json.loads(dump_json([test]))[0])) == [test]


def test_what_is_not_said_has_a_default():
    """Pages that no line describes are valid and have a frame of their own, of 0."""
    (test,) = load("test t\n P0: LD y\n exists fault(P0)")
    (full,) = load(
        "test t\n hardware none\n frame y = 0\n page y = frame y, writable, af 1\n"
        " P0: LD y\n exists fault(P0)"
    )
    assert test == full


def test_a_thread_goes_on_in_a_second_line():
    """Two lines of one thread are one thread."""
    split = WHOLE.replace("pte(x) := A; flag := 1", "pte(x) := A\n  P0: flag := 1")
    assert load(split) == load(WHOLE)


def test_comments_and_empty_lines_say_nothing():
    """What stands behind '#' and lines without words are skipped."""
    lines = [f"{line}  # remark" for line in WHOLE.splitlines()]
    assert load("\n\n".join(["# head", *lines])) == load(WHOLE)


@pytest.mark.parametrize(
    ("text", "step"),
    [
        ("DSB", Dsb()),
        ("DSB.ish", Dsb()),
        ("DSB ISH", Dsb()),
        ("DSB.st", Dsb(Accesses.STORES)),
        ("DSB.ishst", Dsb(Accesses.STORES)),
        ("DSB.nshst", Dsb(Accesses.STORES, Domain.NON_SHAREABLE)),
        ("DMB.ld", Dmb(Accesses.LOADS)),
        ("DMB.oshld", Dmb(Accesses.LOADS, Domain.OUTER)),
        ("DSB.sy", Dsb(Accesses.ALL, Domain.SYSTEM)),
        ("TLBI.is( x )", Tlbi("x")),
        ("TLBI.local(all)", Tlbi(None, broadcast=False)),
    ],
)
def test_barriers_and_tlbi_have_arms_names(text, step):
    """An option that is not there means `ish`, `ld` and `st` alone are of `ish`."""
    assert parse_step(text, {}) == step


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("test one", "tset one", 1, "'test NAME'"),
        ("test one", "test", 1, "one word"),
        ("test one", "test one two", 1, "one word"),
        ("frame b = 1", "frame b", 2, "NAME ="),
        ("frame b = 1", "frame b = one", 2, "no number"),
        ("frame b = 1", "frame b = -1", 2, "no number"),
        ("frame b = 1", "frame all = 1", 2, "another name"),
        ("page x = frame a", "page x = fram a", 3, "'fram a'"),
        ("page x = frame a", "page x = frame a\n page x = invalid", 4, "already"),
        ("entry A = frame b", "entry A = frame b, af 2", 4, "'af 2'"),
        ("  P0:", "  P3:", 5, "P0, P1, P2"),
        ("P0: pte(x)", "P0: pte[x]", 5, "forms"),
        ("pte(x) := A", "pte(x) := B", 5, "'B' is no entry"),
        ("pte(x) := A", "pte(x) := 1", 5, "no entry"),
        ("pte(x) := A", "STLR(x) := A", 5, "number"),
        ("pte(x) := A", "pte(x) := A; ; ISB", 5, "empty step"),
        ("pte(x) := A", "SWAP(x, A)", 5, "forms"),
        ("pte(x) := A", "DSB.all", 5, "'all' is none of"),
        ("pte(x) := A", "TLBI.vmid(x)", 5, "forms"),
        ("P1: r := flag", "P1: r := flag; r := x", 1, "read into twice"),
        ("P1: r := flag", "P1: r := flag; BRANCH(q)", 1, "no earlier step"),
        ("exists P1.r = 1", "exists P1.q = 1", 1, "no register 'q'"),
        ("exists P1.r = 1", "exists P1.r = A", 1, "read from data"),
        ("exists P1.r = 1", "exists P2.r = 1", 1, "no thread P2"),
        ("exists P1.r = 1", "exists frame(q) = 1", 1, "no frame 'q'"),
        ("exists P1.r = 1", "exists pte(q) = A", 1, "no page 'q'"),
        ("exists P1.r = 1", "exists fault(P1, q)", 1, "no page 'q'"),
        ("exists P1.r = 1 and P1.v = 0", "", 1, "asks nothing"),
        ("exists", "exist", 7, "'exist' is none of"),
        ("exists P1.r = 1", "exists P1.r + 1", 7, "wanted"),
        ("  frame b = 1", "  hardware full", 1, "none, af, dirty"),
        ("  frame b = 1", "  expect maybe never", 2, "'allowed' and 'forbidden'"),
    ],
)
def test_a_text_that_is_wrong_is_refused_with_its_line(old, new, line, message):
    """The message names the file and the line, and says what is wrong there."""
    assert old in WHOLE
    with pytest.raises(InputError, match=message) as caught:
        load(WHOLE.replace(old, new, 1), "file.litmus")
    assert str(caught.value).startswith(f"file.litmus:{line}: ")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "a b"}, "one word"),
        ({"name": 3}, "name: a string is wanted, not 3"),
        ({"colour": "red"}, "'colour' is none of"),
        ({"frames": {"b": True}}, "frames.b: a number is wanted"),
        ({"frames": {"b": "1"}}, "frames.b: a number is wanted"),
        ({"pages": ["x"]}, "pages: an object is wanted"),
        ({"entries": {"A": "frame"}}, "'frame' is none of"),
        ({"threads": {"P1": []}}, "in this order"),
        ({"threads": {"Q0": []}}, "'Q0' is none of"),
        ({"threads": {"P0": "ISB"}}, "threads.P0: an array is wanted"),
        ({"threads": {"P0": [1]}}, r"threads.P0\[0\]: a string is wanted"),
        ({"threads": {"P0": ["HALT"]}}, "'HALT' is of none"),
        ({"exists": None}, "exists: a string is wanted"),
        ({"expect": ["allowed"]}, "two of"),
        ({"about": "a # b"}, "'#'"),
    ],
)
def test_a_json_that_is_wrong_is_refused_with_its_line(change, message):
    """The message names the file and the line on which the test starts."""
    whole = json.loads(dump_json(load(WHOLE)))
    text = "[\n" + json.dumps(whole[0]) + ",\n" + json.dumps(whole[0] | change) + "]"
    with pytest.raises(InputError, match=message) as caught:
        load(text, "file.json")
    assert str(caught.value).startswith("file.json:3: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no test"),
        ("[]", "no test"),
        ("[1]", "f:1: a test: an object is wanted, not 1"),
        ("[{]", "f:1: not JSON"),
        ('[\n{"name": "x",}]', "f:2: not JSON"),
        ("[" * 100_000, "f: JSON too large"),
        ("[" + "9" * 5000 + "]", "f: JSON too large"),
        (WHOLE + WHOLE, "two tests are called 'one'"),
    ],
)
def test_a_file_that_is_no_list_of_tests_is_refused(text, message):
    """An empty file, broken JSON and two tests of one name are errors."""
    with pytest.raises(InputError, match=message):
        load(text, "f")


@given(st.text(alphabet="PpAx01:=.;() \nISBDTLBtestxis", max_size=80))
def test_no_text_makes_the_reader_stumble(text):
    """Whatever a file says, it is read or it is an input error."""
    with contextlib.suppress(InputError):
        load(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("test t\n P0: r := x\n exists P0.r = 0\n exists P0.r = 1\n", "second time"),
        ("test t\n about a\n about b\n P0: r := x\n exists P0.r = 0\n", "second time"),
        ("test t\n P0: fault := 1\n exists frame(fault) = 0\n", "page 'fault'"),
        ("test t\n page pte = frame a\n P0: r := x\n exists P0.r = 0\n", "page 'pte'"),
        (
            '{"name": "t", "name": "u", "threads": {}, "exists": "P0.r = 0"}',
            "'name' stands twice",
        ),
        (
            '{"name": "t", "threads": {"P0": ["r := x"], "P0": []}, "exists": ""}',
            "'P0' stands twice",
        ),
    ],
)
def test_what_is_said_twice_or_means_something_else_is_refused(text, said):
    """No line or key is overruled in silence, and no word has two meanings."""
    with pytest.raises(InputError, match=said):
        load(text, "t")
