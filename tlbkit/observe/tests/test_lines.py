"""Events as lines: stable, whole, and read back."""

import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlbkit.arm64.events import Event
from tlbkit.arm64.machine import Machine
from tlbkit.errors import InputError
from tlbkit.observe.lines import FIELDS, fields, line, parse, tracing
from tlbkit.observe.tests.support import MODELS, PAGE, STEPS, Program
from tlbkit.patches.kernels import Kernel


@settings(max_examples=30, deadline=None)
@given(STEPS, MODELS)
def test_a_line_says_what_its_json_says(steps, model):
    """Each event of a program is one line; read back, it is the event's JSON."""
    program = Program(model)
    heard: list[Event] = []
    text, rows = io.StringIO(), io.StringIO()
    program.machine.events.listen(heard.append)
    with (
        tracing(program.machine, text),
        tracing(program.machine, rows, as_json=True),
    ):
        program.play(steps)
    assert text.getvalue().splitlines() == [line(event) for event in heard]
    for event, one, row in zip(
        heard, text.getvalue().splitlines(), rows.getvalue().splitlines(), strict=True
    ):
        assert parse(one) == fields(event) == json.loads(row)
        assert event.kind in FIELDS


def test_the_form_of_the_lines():
    """The very text: whoever reads it with other tools relies on it."""
    kernel = Kernel(Machine(2, "neoverse-n1"), "v6.17")
    process = kernel.spawn()
    base = process.mmap(PAGE, addr=1 << 40)
    process.write(base, 7)
    out = io.StringIO()
    with tracing(kernel, out):
        process.mprotect(base, PAGE, "r")
    lines = [one.partition(" ")[2] for one in out.getvalue().splitlines()]
    assert lines[0] == ('cpu0 call call="mprotect" arguments="0x10000000000,0x1000,r"')
    assert 'cpu0 lock lock="mmap_lock" how="write"' in lines
    at = lines.index('cpu0 tlbi op="VALE1IS" operand=0x1000010000000')
    assert lines[at - 1] == 'cpu0 dsb domain="ishst"'
    assert lines[at + 2] == 'cpu0 dsb domain="ish"'
    assert lines[at + 3] == (
        'cpu0 drop tlb="L1D" va=0x10000000000 pa=0x80006000 size=4096 asid=1 '
        'descriptor=0xe8000080006f43 why="VALE1IS"'
    )


@pytest.mark.parametrize("wrong", ["v6.19", None])
def test_what_is_no_kernel_cannot_be_traced(wrong):
    """It is refused before anything is written."""
    out = io.StringIO()
    window = tracing(wrong, out)
    with pytest.raises(InputError, match="give a Machine"):
        window.__enter__()
    assert not out.getvalue()


@given(st.text())
def test_any_text_is_an_event_or_refused(text):
    """A line of something else is one error, with what a line looks like."""
    try:
        assert parse(text)["n"] >= 0
    except InputError as error:
        assert "event" in str(error)  # noqa: PT017 - either outcome will do


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1 cpu0",
        "1 cpu0 dsb domain",
        "x cpu0 dsb",
        "1 cpu0 dsb domain=ish",
        "1 cpu0 dsb a=1 b",
    ],
)
def test_a_line_that_is_cut_off_is_refused(text):
    """Half a line is none."""
    with pytest.raises(InputError, match="event"):
        parse(text)
