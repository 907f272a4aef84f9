"""``sweep`` and ``compare`` on the command line."""

import csv
import json

import pytest

from tlbkit import lab
from tlbkit.__main__ import main
from tlbkit.commands.sweep import axes_of
from tlbkit.errors import InputError

MPROTECT = lab.find("mprotect")
SMALL = ["sweep", "mprotect", "--over", "pages=1,3", "--over", "cpus=2..4:2"]


def test_a_sweep_prints_what_the_package_says(capsys):
    """Its columns are those of the same sweep in Python."""
    assert main([*SMALL, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == lab.sweep(MPROTECT, {"pages": [1, 3], "cpus": [2, 4]}).columns()
    assert main(SMALL) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2 + 8


def test_a_sweep_is_the_same_on_processes(tmp_path, capsys):
    """Two workers write the file that one writes, and no journal stays."""
    for number in (1, 2):
        out = str(tmp_path / f"{number}.csv")
        assert main([*SMALL, "--workers", str(number), "--out", out]) == 0
    assert capsys.readouterr().out.count("8 rows are in") == 2
    one, two = sorted(tmp_path.iterdir())
    assert one.read_bytes() == two.read_bytes()
    with one.open(encoding="utf-8", newline="") as file:
        assert [row["pages"] for row in csv.DictReader(file)] == ["1"] * 4 + ["3"] * 4


def test_a_sweep_that_was_stopped_goes_on(tmp_path, capsys, monkeypatch):
    """Ctrl-C keeps what is done; the same command does the rest, and only the rest."""
    out = tmp_path / "rows.jsonl"
    runs: list[object] = []
    real = lab.sweep.__globals__["run"]

    def counted(*asked):
        if len(runs) == 3:
            runs.append("stopped")
            raise KeyboardInterrupt
        runs.append(asked)
        return real(*asked)

    monkeypatch.setitem(lab.sweep.__globals__, "run", counted)
    assert main([*SMALL, "--out", str(out)]) == 1
    assert "the same command goes on" in capsys.readouterr().err
    assert not out.exists()
    assert main([*SMALL, "--out", str(out)]) == 0
    assert len(runs) == 8 + 1
    found = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert found == list(lab.sweep(MPROTECT, {"pages": [1, 3], "cpus": [2, 4]}).rows)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--over", "pages"], "write NAME=VALUES"),
        (["--over", "page=1"], "it has pages"),
        (["--over", "pages=0"], "from 1 to 4096"),
        (["--over", "pages=3..1"], "first is above"),
        (["--over", "pages=1..4:0"], "step is a number"),
        (["--over", "change=none-rw..rw-ro"], "only numbers have ranges"),
        (["--over", "pages=1", "--over", "pages=2"], "axis twice"),
        (["--over", "pages=1..4096", "--over", "pages=1"], "axis twice"),
        (["--kernel", "v6.16"], "v6.17"),
        (["--cpu", "pentium"], "neoverse-v2"),
        (["--workers", "0"], "from 1 to 1024"),
        (["--workers", "2", "--cluster", "x"], "not allowed"),
        (["--out", "rows.txt"], r"\.csv"),
    ],
)
def test_what_is_not_allowed_is_told_what_is(capsys, options, said):
    """One line says what is, with status 2, and nothing was run."""
    assert main(["sweep", "mprotect", *options]) == 2
    assert said.replace("\\", "") in capsys.readouterr().err


def test_too_many_combinations_are_refused_before_they_are_listed():
    """A slip of the hand does not fill the memory."""
    texts = [f"{one.name}=1..{one.choices[-1]}" for one in MPROTECT.parameters[:1]]
    with pytest.raises(InputError, match="combinations"):
        axes_of(MPROTECT, [*texts, "cpus=1..128", "threads=1..128"])


def test_a_file_that_is_there_is_not_overwritten(tmp_path, capsys):
    """The caller removes it, or names another."""
    out = tmp_path / "rows.csv"
    out.write_text("mine", "utf-8")
    assert main([*SMALL, "--out", str(out)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert out.read_text("utf-8") == "mine"


def test_compare_prints_both_kernels_and_where_they_part(capsys):
    """The JSON is the package's; the table has a column for each kernel."""
    asked = ["compare", "mprotect", "--set", "pages=8"]
    assert main([*asked, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == lab.compare(MPROTECT, {"pages": 8}).to_json()
    assert main([*asked, "--kernel", "v6.18,v6.19"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0].split() == ["mprotect", "v6.18", "v6.19"]
    assert "equal steps" in out


def test_compare_takes_two_kernels_and_one_setting(capsys):
    """More or fewer are refused."""
    assert main(["compare", "mprotect", "--kernel", "v6.19"]) == 2
    assert "name two kernels" in capsys.readouterr().err
    assert main(["compare", "mprotect", "--set", "pages=1,2"]) == 2
    assert "sweep takes several" in capsys.readouterr().err
