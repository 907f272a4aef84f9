"""The desk for traces in the page: dropped, pasted, stopped, wrong, and its answer."""

import gzip
import json
import re
from pathlib import Path

import pytest

from tlbkit.lab.trace.read import lines_of
from tlbkit.show.trace_desk import reply

DATA = Path(__file__).resolve().parents[2] / "tlbkit/lab/trace/tests/data"
SMALL = (
    '7 1.0 execve("/bin/x", [], []) = 0\n'
    "7 2.0 mmap(NULL, 65536, PROT_READ|PROT_WRITE, "
    "MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x700000000000\n"
    "7 3.0 mprotect(0x700000000000, 65536, PROT_READ) = 0\n"
    "7 4.0 exit_group(0) = ?\n"
)
LONG = 120_000
"""Milliseconds within which Python has started and answered, on a busy machine."""


@pytest.fixture
def desk(sample, visit):
    """Return the desk of the page, brought to life."""
    visit.page.goto(f"{sample.address}/book/trace.html")
    form = visit.page.locator(".tlbkit-trace")
    form.locator("fieldset:enabled").wait_for()
    yield form
    assert visit.clean()


def said(form):
    """Return what the status line says."""
    return form.locator("[role=status]").inner_text()


def answered(form):
    """Wait for the answer, and return the text of its page."""
    form.and_(form.page.locator("[aria-busy=false]")).wait_for(timeout=LONG)
    assert "Replayed in" in said(form)
    return form.frame_locator("iframe").locator("main").inner_text()


def test_the_example_is_answered_as_python_answers_it(desk):
    """Its page holds the counts that were measured, and the commit that is felt."""
    desk.locator("[data-do=example]").click()
    text = answered(desk)
    assert "678 broadcast TLBIs on v6.17 and 567 on v6.19" in text
    assert "c320dbb7c80d" in text
    assert "1 of " in said(desk)
    assert desk.locator("li").count() == 2
    with desk.page.expect_download() as saved:
        desk.locator("[data-save=json]").click()
    found = json.loads(Path(saved.value.path()).read_text("utf-8"))
    assert found["kernels"]["v6.19"]["tlbi_broadcast"] == 567


def test_files_that_are_chosen_are_replayed(desk):
    """One is plain, the other packed; removing one changes the answer."""
    desk.locator("[name=commits]").uncheck()
    calls = "".join(lines_of(str(DATA / "6.17.13.jit.B.strace.xz"))).encode()
    faults = "".join(lines_of(str(DATA / "6.17.13.jit.B.perf-script.txt.xz"))).encode()
    desk.locator("[name=files]").set_input_files(
        [
            {"name": "calls", "mimeType": "text/plain", "buffer": calls},
            {"name": "faults.gz", "mimeType": "", "buffer": gzip.compress(faults)},
        ]
    )
    desk.locator("[type=submit]").click()
    assert "678 broadcast" in answered(desk)
    desk.get_by_role("button", name="Remove faults.gz").click()
    desk.locator("[type=submit]").click()
    assert "678 broadcast" not in answered(desk)


def test_a_pasted_trace_is_replayed(desk):
    """No file is needed."""
    desk.locator("textarea").fill(SMALL)
    desk.locator("[type=submit]").click()
    assert "pasted text" in answered(desk)
    assert re.search(r"\d+ broadcasts on v6.17", said(desk))


def test_nothing_and_nonsense_are_refused(desk):
    """The sentence says what to do, and no answer is shown."""
    desk.locator("[type=submit]").click()
    assert said(desk) == "Choose, drop or paste a trace first."
    desk.locator("textarea").fill("good morning\n" * 3)
    desk.locator("[type=submit]").click()
    desk.locator("[role=status].wrong", has_text="pasted text").wait_for(timeout=LONG)
    assert desk.locator("iframe").is_hidden()


def test_stop_stops_and_the_next_replay_begins_anew(desk):
    """While Python starts, and after it: the desk is free again at once."""
    desk.locator("textarea").fill(SMALL)
    desk.locator("[type=submit]").click()
    desk.locator("[data-do=stop]").click()
    desk.get_by_text("Stopped.").wait_for()
    desk.locator("[type=submit]").click()
    assert "pasted text" in answered(desk)


def test_what_the_page_is_told_is_json_whatever_is_asked():
    """A bug or a wrong request reaches the reader as a sentence."""
    told = json.loads(reply("{}", lambda *_: None))
    assert "bug" in told["error"]
    files = {"files": {}, "touch": "written", "cpu": "neoverse-v2", "commits": False}
    told = json.loads(reply(json.dumps(files), lambda *_: None))
    assert "name at least one file" in told["error"]
