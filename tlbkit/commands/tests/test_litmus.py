"""The command ``litmus``: files of both forms, lists of verdicts, exit status."""

import io
import json
import sys

import pytest

from tlbkit.__main__ import main
from tlbkit.commands.litmus import printable
from tlbkit.explore.herd.tests.constructs import CASES

HERD = CASES["no order"][0]
OWN = "test mp\n P0: x := 1\n P1: r := x\n exists P1.r = 1\n"


@pytest.fixture(name="folder")
def _folder(tmp_path):
    (tmp_path / "own.litmus").write_text(OWN)
    (tmp_path / "herd.litmus").write_text(HERD)
    return tmp_path


def run(capsys, *arguments):
    """Return the status, and what was printed."""
    status = main(["litmus", *map(str, arguments)])
    return status, *capsys.readouterr()


def test_a_folder_of_both_forms_is_judged(capsys, folder):
    """Each file in its form; a sum at the end."""
    status, out, error = run(capsys, folder)
    assert status == 0
    assert not error
    assert out.endswith("2 tests, 2 verdicts: 0 as expected, 0 not, 2 not compared\n")


@pytest.mark.parametrize(
    ("kinds", "status", "said"),
    [
        ("own Allowed\nmp Allowed\n", 0, "2 as expected, 0 not"),
        ("own Forbidden\nmp Allow\n", 1, "Forbidden <- differs"),
        ("own Allowed\nmp Forbid\n", 1, "forbidden <- differs"),
    ],
)
def test_a_list_of_verdicts_is_compared(capsys, folder, kinds, status, said):
    """A verdict that is not the listed one is marked, and ends with status 1."""
    (folder / "kinds.txt").write_text(kinds)
    found = run(capsys, folder, "--kinds", folder / "kinds.txt")
    assert found[0] == status
    assert said in found[1]


def test_a_list_that_is_none_is_refused(capsys, folder):
    """One line, with its number."""
    (folder / "kinds.txt").write_text("own Allowed\nmp maybe\n")
    status, _, error = run(capsys, folder, "--kinds", folder / "kinds.txt")
    assert status == 2
    assert "kinds.txt:2: " in error


def test_a_verdict_against_the_files_own_ends_with_status_1(capsys, folder):
    """What `expect` says is what is expected."""
    path = folder / "own.litmus"
    path.write_text(OWN + " expect forbidden forbidden\n")
    status, out, _ = run(capsys, path)
    assert status == 1
    assert "<- differs" in out


def test_a_damaged_file_does_not_stop_the_others(capsys, folder):
    """It is told with its line, and the status is 2."""
    (folder / "bad.litmus").write_text("AArch64 bad\n{ x=1 }\n")
    status, out, _ = run(capsys, folder)
    assert status == 2
    assert "bad.litmus:2: there is no program" in out
    assert "3 tests, 2 verdicts" in out


def test_a_file_that_is_not_there_does_not_stop_the_others(capsys, folder):
    """Nor does what is no text."""
    (folder / "noise.litmus").write_bytes(b"\xff\xfe\x00")
    status, out, _ = run(capsys, folder, folder / "nowhere.litmus")
    assert status == 2
    assert "4 tests, 2 verdicts" in out
    assert "nowhere.litmus: No such file" in out


def test_what_is_missing_is_named_and_is_no_mistake(capsys, folder):
    """In a folder the test is left without a verdict; alone it is refused."""
    path = folder / "dc.litmus"
    path.write_text(HERD.replace("LDR W0,[X3]", "DC CVAU,X3"))
    status, out, _ = run(capsys, folder)
    assert status == 0
    assert "1 without a verdict" in out
    assert run(capsys, path)[0] == 2


def test_a_search_that_gives_up_keeps_the_others(capsys, folder):
    """It names its test and the limit; the others have their verdicts."""
    status, out, _ = run(capsys, folder, "--limit", 12)
    assert status == 1
    assert "own: more than 12 states" in out
    assert "2 tests, 1 verdicts" in out
    assert run(capsys, folder, "--limit", 0)[0] == 2


def test_standard_input_is_a_dash(capsys, monkeypatch):
    """The name of the file is then a dash too."""
    stream = io.TextIOWrapper(io.BytesIO(HERD.encode()))
    monkeypatch.setattr(sys, "stdin", stream)
    status, out, _ = run(capsys, "-", "--json")
    assert status == 0
    (one,) = json.loads(out)
    assert (one["file"], one["verdict"]) == ("-", "Allowed")


def test_a_slip_is_asked_about(capsys, folder):
    """A doubt is printed, and changes no status."""
    path = folder / "own.litmus"
    path.write_text(OWN.replace("P1.r = 1", "P1.r = 3"))
    status, out, _ = run(capsys, path)
    assert status == 0
    assert "mp: nothing in the test puts 3 into P1.r" in out


@pytest.mark.parametrize(
    "name", ["\x1b[31m", "\udcff", "é\x07", "\N{ZERO WIDTH SPACE}"]
)
def test_a_name_that_a_terminal_cannot_print_is_spelt(
    capsys, monkeypatch, folder, name
):
    """No traceback, and no control character."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    assert printable(name).isascii()
    assert printable(name).isprintable()
    path = folder / "own.litmus"
    path.write_bytes(OWN.replace("mp", name).encode("utf-8", "surrogatepass"))
    assert main(["litmus", str(path)]) in (0, 2)
    del capsys


def test_a_message_is_short_however_long_the_file(capsys, folder):
    """What is wrong is said, not all that is there."""
    path = folder / "own.litmus"
    for text in ("x" * 1_000_000, OWN.replace("P1.r", "r" * 900_000), "[" + "1" * 9000):
        path.write_text(text)
        status, _, error = run(capsys, path)
        assert status == 2
        assert len(error) < 1000
