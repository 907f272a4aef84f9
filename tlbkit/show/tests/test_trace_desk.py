"""The desk for traces: whole without its script, a widget where there is a kernel."""

import json
from pathlib import Path

import pytest

from tlbkit.errors import InputError
from tlbkit.show.trace_desk import TraceDesk, ask, html

DATA = Path(__file__).resolve().parents[2] / "lab/trace/tests/data"
FILES = (
    DATA / "6.17.13.jit.B.strace.xz",
    DATA / "6.17.13.jit.B.perf-script.txt.xz",
)


def test_the_text_answers_the_example():
    """A terminal and a printed page read its counts, and the command."""
    said = repr(TraceDesk(*FILES))
    assert "v6.17: 678 broadcasts" in said
    assert "v6.19: 567 broadcasts" in said
    assert "python -m tlbkit trace" in said
    assert len(repr(TraceDesk()).splitlines()) == 1


def test_the_page_needs_its_script_and_says_so():
    """Without it every control is off; what the script reads cannot end its element."""
    page = html(TraceDesk(*FILES))
    assert "<fieldset disabled>" in page
    assert "needs the page to be live" in page
    data = page.partition('<script type="application/json">')[2]
    example = json.loads(data.partition("</script>")[0])["example"]
    assert set(example) == {"6.17.13.jit.B.strace", "6.17.13.jit.B.perf-script.txt"}
    assert len(page) < 40_000


def test_a_policy_that_is_not_known_is_refused():
    """The error lists those that are."""
    with pytest.raises(InputError, match="written, read, none"):
        ask({"a": b"x"}, "guess", "neoverse-v2", commits=False)


def test_the_widget_answers_the_example():
    """Its button fills the page that the site shows."""
    desk = TraceDesk(*FILES)
    from tlbkit.show.trace_live import widget  # noqa: PLC0415 - as the desk does

    box = widget(desk)
    title, upload, touch, cpu, commits, buttons, status, page = box.children
    commits.value = False
    buttons.children[0].click()
    assert "name at least one file" in status.value
    buttons.children[1].click()
    assert "678 broadcasts on v6.17, 567 broadcasts on v6.19" in status.value
    assert "srcdoc" in page.value
    assert {title.value, touch.value, cpu.value} == {
        "<b>Replay a trace of yours</b>",
        "written",
        "neoverse-v2",
    }
    assert not upload.value
