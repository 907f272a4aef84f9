"""The page of measured kernels: every row is on it, and none that the model belies."""

import re
from collections import Counter

import kernel_measured
import pytest
from kernel_measured import Played, _cell, _commits, _files, _scenarios, played, words
from kernel_rows import BREAKS, Key, files
from kernel_scenarios import SCENARIOS
from kernel_text import Seen
from sphinx.errors import ExtensionError

FILES = files()
SOME = [one for one in SCENARIOS if one.name in {"protections", "stale"}]


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        ("0 f64 s64/0 VALE1IS:64/64 i0", "64 VALE1IS; 64 DSB ISH; 64 faults"),
        (
            "0 f0 s1/1 RVAE1IS:1/512 i2",
            "1 RVAE1IS over 512 pages; 1 DSB ISH; 1 DSB NSH; 2 IPI broadcasts",
        ),
        ("EINVAL f0 s0/0 i0", "EINVAL; nothing"),
        ("0 f0 s0/0", "nothing"),
    ],
)
def test_a_row_is_told_in_words(seen, said):
    """Nothing of it is left out."""
    assert words(Seen.parse(seen)) == said


def test_every_row_of_every_file_is_on_the_page(monkeypatch):
    """As many rows are told to agree as are stored."""
    monkeypatch.setattr(kernel_measured, "played", lambda *_: {})
    page = _scenarios(FILES)
    told = sum(
        int(n.replace(",", "")) for n in re.findall(r": ([\d,]+) rows agree", page)
    )
    assert told == sum(len(one.rows) for one in FILES.values())


def test_each_tlbi_has_the_function_that_asked():
    """The functions of a row account for all of its TLBIs."""
    measured = FILES["6.19.14-range"]
    for key, mine in played(measured, SOME).items():
        asked = sum(mine.functions.values())
        issued = sum(times for times, _ in mine.shown.tlbi.values())
        assert asked >= issued, key
        assert bool(mine.excuses) or asked == issued, key


def test_a_row_that_the_model_belies_stops_the_build():
    """The page cannot say that both agree where they do not."""
    real, other = Seen(0, 1, {}, 0, 0), Seen(0, 2, {}, 0, 0)
    with pytest.raises(ExtensionError, match="was measured"):
        _cell(Key("row", 1), real, Played(other, [], Counter()))


def test_each_commit_and_file_has_its_line():
    """What the tables name is what is stored."""
    commits = _commits(FILES)
    assert all(commit in commits for commit in BREAKS)
    assert _files(FILES).count("<tr>") == 1 + len(FILES)
