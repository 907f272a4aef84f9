"""Files and folders of tests, and files that are no tests."""

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlbkit.errors import InputError
from tlbkit.explore.herd import files, judge_text, read
from tlbkit.explore.herd.tests.constructs import CASES

LIMIT = 300
"""States enough for a test that a fuzzer has left alone."""

SIGNS = [
    *"{}()[];|:,=~#'\"\\\n \x00\ud7ff",
    "(*",
    "*)",
    "/\\",
    "\\/",
    "P0",
    "exists",
    "X1",
]


@st.composite
def damaged(draw):
    """Draw a file of ours with pieces cut out, doubled, exchanged or put in."""
    text = CASES[draw(st.sampled_from(sorted(CASES)))][0]
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        stop = start + draw(st.integers(0, 12))
        put = draw(
            st.one_of(
                st.just(""),
                st.just(text[start:stop] * 2),
                st.sampled_from(SIGNS),
                st.text(max_size=4),
            )
        )
        text = text[:start] + put + text[stop:]
    return text


@settings(max_examples=60, deadline=None)
@given(damaged())
def test_whatever_a_file_says_it_is_answered(text):
    """A damaged file has a verdict, or a sentence with its or the test's name."""
    for one in judge_text(text, "some.litmus", limit=LIMIT):
        assert one.verdict or one.reason.startswith(
            ("some.litmus", f"{one.test}: more than")
        )
        assert len(one.reason) < 600


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("AArch64 own", "AArch64", "no name"),
        ("{", "", "no initial state"),
        ("}", "", "has no '}'"),
        ("0:X1=x", "0:X1=x; 0:X1=y", "has a value already"),
        ("0:X1=x", "0:X1=$", "the form"),
        ("P0 | P1", "P0 | P0", "two columns"),
        ("P0 | P1", "P0 | Q1", "a column is"),
        ("P0 | P1", "P0 | P2", "the threads are"),
        ("LDR W0,[X3]", "LDRQ W0,[X3]", "'LDRQ W0,[X3]': an instruction that is not"),
        ("LDR W0,[X3]", "LDR W0,X3", "the address form"),
        ("LDR W0,[X3]", "LDR [X3]", "the form"),
        ("LDR W0,[X3]", "LDR W0,[X8]", "no location's"),
        ("LDR W0,[X3]", "LDR W0,[X3] | NOP", "3 cells in 2 columns"),
        ("LDR W0,[X3]", "B nowhere", "label"),
        ("LDR W0,[X3]", "DC CVAU,X1", "'DC CVAU,X1': an instruction that is not"),
        ("exists", "", "a row of the program"),
        ("exists", "exists exists", "in no thread"),
        ("1:X0=1", "3:X0=1", "no thread P3"),
        ("1:X0=1", "1:X0", "wanted ="),
        ("1:X0=1", "z=1", "in no thread and in no initial state"),
        ("1:X0=1", "fault(P1:L9)", "no label"),
        ("1:X0=1", "fault(P1,x,TagCheck)", "in no thread"),
        ("AArch64", "X86_64", "the architecture 'X86_64'"),
    ],
)
def test_what_is_not_read_has_its_sentence(old, new, said):
    """Each refusal says what it is about."""
    text = CASES["no order"][0]
    assert old in text
    (found,) = judge_text(text.replace(old, new, 1), "some.litmus")
    assert not found.verdict
    assert said in found.reason
    assert found.reason.startswith("some.litmus:")


@pytest.mark.parametrize(
    "text",
    [
        "AArch64 x\n" + "(*" * 50_000,
        "AArch64 x\n{" * 20_000,
        "AArch64 x\n{}\nP0;\n" + "NOP;\n" * 5_000 + "exists x=1",
        "AArch64 x\n{ x=0; }\nP0;\nNOP;\nexists " + "(" * 900,
        "AArch64 x\n{ x=0; }\nP0;\nNOP;\nexists " + "x=1 /\\ " * 9_000 + "x=1",
        "AArch64 x\n{ x=0; 0:X1=x; }\nP0;\n"
        + "LDR W0,[X1]; CBZ W0,L;" * 30
        + "L: NOP;\nexists x=1",
        "AArch64 x\n{}\nP0;\nL: B L;\nexists 0:X0=1",
        "AArch64 x\n{}\nP0;\nMOV W0,#1;\nL: CBNZ W0,L;\nexists 0:X0=1",
        "AArch64 " + "y" * 300_000,
    ],
)
def test_what_is_too_large_is_refused_at_once(text):
    """No file makes the reader hang, or its message long."""
    for one in judge_text(text, "some.litmus", limit=LIMIT):
        assert one.verdict or one.reason
        assert len(one.reason) < 600


def test_the_line_of_a_mistake_is_told():
    """Lines are counted through comments and empty lines."""
    text = "(* a\n comment *)\nAArch64 own\n{\n\nx=1;\nx=2;\n}\nP0;\nNOP;\nexists x=1\n"
    (found,) = judge_text(text, "some.litmus")
    assert found.reason.startswith("some.litmus:7: ")


def test_a_folder_stands_for_its_files(tmp_path):
    """All `*.litmus` below it, in order; other files are left alone."""
    (tmp_path / "b").mkdir()
    for name in ("b/two.litmus", "a.litmus", "notes.txt"):
        (tmp_path / name).write_text(CASES["no order"][0])
    found = [name.removeprefix(f"{tmp_path}/") for name in files([str(tmp_path)])]
    assert found == ["a.litmus", "b/two.litmus"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no file"):
        list(files([str(tmp_path / "empty")]))


def test_standard_input_is_a_file():
    """Its name is a dash."""
    assert read("-", io.BytesIO(b"AArch64")) == "AArch64"
    with pytest.raises(InputError, match="UTF-8"):
        read("-", io.BytesIO(b"\xff"))


def test_a_verdict_is_compared_with_a_list():
    """By the name of the test; one that is not in the list is not compared."""
    text = CASES["no order"][0]
    for kinds, disagrees in (({}, False), ({"own": "Forbidden"}, True)):
        (found,) = judge_text(text, "some.litmus", kinds=kinds)
        assert found.disagrees is disagrees
    (found,) = judge_text(text, "some.litmus", kinds={"own": "Allowed"})
    assert found.to_json()["agrees"] is True
