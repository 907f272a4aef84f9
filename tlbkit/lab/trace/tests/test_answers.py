"""What a trace answers: columns, rows of many traces, a page, on any executor."""

import json
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from tlbkit import Trace
from tlbkit.__main__ import main
from tlbkit.errors import InputError
from tlbkit.lab.trace import survey
from tlbkit.show.trace_page import trace_page

DATA = Path(__file__).parent / "data"
JIT = [
    str(DATA / "6.17.13.jit.B.strace.xz"),
    str(DATA / "6.17.13.jit.B.perf-script.txt.xz"),
]


# It protects a page and allows it again, and moves eight others by a userfaultfd.
SMALL = {
    "s": """\
7 1800000001.000 execve("/a", [...], 0xff /* 9 vars */) = 0
7 1800000002.000 mmap(NULL, 65536, PROT_READ|PROT_WRITE, \
MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x70000000
7 1800000003.000 mmap(NULL, 65536, PROT_READ|PROT_WRITE, \
MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x71000000
7 1800000005.000 mprotect(0x70000000, 4096, PROT_NONE) = 0
7 1800000006.000 mprotect(0x70000000, 4096, PROT_READ|PROT_WRITE) = 0
7 1800000007.000 userfaultfd(O_CLOEXEC) = 3<anon_inode:[userfaultfd]>
7 1800000008.000 ioctl(3<anon_inode:[userfaultfd]>, UFFDIO_API, \
{api=0xaa, features=0}) = 0
7 1800000009.000 ioctl(3<anon_inode:[userfaultfd]>, UFFDIO_REGISTER, \
{range={start=0x71000000, len=0x10000}, mode=UFFDIO_REGISTER_MODE_MISSING}) = 0
7 1800000010.500 ioctl(3<anon_inode:[userfaultfd]>, UFFDIO_MOVE, 0xffff) = 0
""",
    "p": "".join(
        f"a 7/7 [000] 1800000004.{n}: page-faults: 7000{n}000 [unknown] (//anon) "
        "4010 [unknown] (/a)\n"
        for n in range(8)
    )
    + "a 7/7 [000] 1800000010.6: kprobes:uffd: (ffff80008056d050) cmd=0xc028aa05 "
    "dst=0x71000000 src=0x70000000 len=0x8000 mode=0x0\n",
}


@pytest.fixture(scope="module")
def small():
    """Read a small program of our own."""
    return Trace.of_text({name: text.encode() for name, text in SMALL.items()})


@pytest.fixture(scope="module")
def answer(small):
    """Answer it on both kernels, with a share of each commit."""
    return small.answer(commits=True)


def test_the_columns_add_up_to_the_counts(answer):
    """Each TLBI is one row, in the order of time, in the form and call it had."""
    for one in answer.kernels.values():
        columns = one.issued.columns()
        assert {len(column) for column in columns.values()} == {one.tlbi.total()}
        assert columns["broadcast"].sum() == one.broadcasts
        forms, times = np.unique(columns["form"], return_counts=True)
        assert dict(zip(forms.tolist(), times.tolist(), strict=True)) == one.tlbi
        calls, times = np.unique(
            columns["call"][columns["broadcast"]], return_counts=True
        )
        assert dict(zip(calls.tolist(), times.tolist(), strict=True)) == one.by_call
        assert (np.diff(columns["time"][~np.isnan(columns["time"])]) >= 0).all()


def test_an_executor_changes_no_share(small, answer):
    """Replays that run at once give what they give one after the other."""
    with ThreadPoolExecutor(2) as threads:
        shares = {one.commit: one for one in small.shares(executor=threads)}
    assert shares == {one.commit: one for one in answer.shares}


def test_what_a_commit_saves_with_another_is_not_its_own(answer):
    """A program of moves feels the commit that batches them, and none that needs it."""
    shares = {one.commit: one for one in answer.shares}
    felt = {name for name, one in shares.items() if one.felt}
    assert felt == {"50944692052b", "c320dbb7c80d"}
    needing = shares["cc22b9978509"]
    assert needing.alone_said == f"{needing.alone:,} (with 50944692052b)"


def test_a_survey_has_a_row_for_each(tmp_path):
    """Every trace on every kernel and CPU model; an interrupted one repeats none."""
    files = [str(tmp_path / name) for name in SMALL]
    for name, text in SMALL.items():
        (tmp_path / name).write_text(text, "utf-8")
    runs = {"small": files, "calls alone": files[:1]}
    models = ["neoverse-v2", "neoverse-n1"]
    rows = survey(runs, models=models, journal=tmp_path / "j")
    assert [(row["trace"], row["kernel"], row["cpu"]) for row in rows] == [
        (name, kernel, model)
        for name in runs
        for kernel in ("v6.17", "v6.19")
        for model in models
    ]
    assert rows[0]["broadcasts"] == Trace.read(*files).replay("v6.17").broadcasts
    told = []
    again = survey(
        runs,
        models=models,
        journal=tmp_path / "j",
        progress=lambda *one: told.append(one),
    )
    assert (again, told) == (rows, [(8, 8)])


def test_a_survey_refuses_before_it_begins():
    """A kernel that does not exist costs no replay."""
    with pytest.raises(InputError, match=r"v6\.17"):
        survey({"jit": JIT}, ["v6.16"])
    with pytest.raises(InputError, match="at least one"):
        survey({})


class Page(HTMLParser):
    """Checks that each tag is closed, and collects the text and every address."""

    def __init__(self):
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.addresses: list[str] = []

    def handle_starttag(self, tag, attrs):
        """Note what is opened."""
        self.addresses += [value for name, value in attrs if name in {"src", "href"}]
        assert tag != "script"
        if tag not in {"meta", "rect"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        """Hold that the last is closed first."""
        if tag != "rect":
            assert self.open.pop() == tag

    def handle_data(self, data):
        """Collect the text."""
        self.text += data


def test_the_page_is_whole_and_asks_no_other_host(answer):
    """It says the counts and the commit, well formed, without script or address."""
    page = Page()
    page.feed(trace_page(answer))
    page.close()
    assert not page.open
    assert not page.addresses
    older, newer = (one.broadcasts for one in answer.kernels.values())
    assert f"{older} broadcast TLBIs on v6.17 and {newer} on v6.19" in page.text
    assert "c320dbb7c80d" in page.text
    assert str(DATA) not in page.text


def test_names_in_a_trace_cannot_break_the_page(tmp_path):
    """What looks like a tag is text."""
    name = tmp_path / "<img src=x onerror=alert(1)>.strace"
    name.write_text(
        '7 1.0 execve("/bin/x", [], []) = 0\n'
        "7 2.0 mmap(NULL, 4096, PROT_READ|PROT_WRITE, "
        "MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x700000000000\n"
        "7 3.0 munmap(0x700000000000, 4096) = 0\n",
        "utf-8",
    )
    trace = Trace.read(str(name))
    html = trace_page(trace.answer(["v6.19"]))
    page = Page()
    page.feed(html)
    assert "<img" not in html
    assert "<img src=x" in page.text


def test_the_command_writes_what_it_prints(tmp_path, capsys):
    """The page and the rows are files; a file that is there is not overwritten."""
    out, report = tmp_path / "rows.jsonl", tmp_path / "page.html"
    asked = ["trace", *JIT, "--out", str(out), "--report", str(report), "--json"]
    assert main(asked) == 0
    printed = json.loads(capsys.readouterr().out)
    rows = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    for name, one in printed["kernels"].items():
        mine = [row for row in rows if row["kernel"] == name]
        assert len(mine) == sum(one["tlbi"].values())
        assert sum(row["broadcast"] for row in mine) == one["tlbi_broadcast"]
    assert report.read_text("utf-8").startswith("<!doctype html>")
    assert main(asked) == 2
    assert "is there already" in capsys.readouterr().err


def test_the_command_surveys_folders(tmp_path, capsys):
    """A folder is one run; so is a file."""
    run = tmp_path / "run"
    run.mkdir()
    for name in JIT:
        (run / Path(name).name).write_bytes(Path(name).read_bytes())
    assert main(["survey", str(run), JIT[0], "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["broadcasts"] for row in rows[:2]] == [678, 567]
    assert main(["survey", str(tmp_path / "none")]) == 2
    (tmp_path / "empty").mkdir()
    assert main(["survey", str(tmp_path / "empty")]) == 2
    assert "no file in it" in capsys.readouterr().err
