"""Laws of the explorations of zeros, of holes, and of what is inserted."""

import pytest

from tlbkit.lab.dax_hole import BEFORE, DATA, SITUATIONS, ZERO, DaxHole
from tlbkit.lab.huge_zero import WAYS, HugeZero
from tlbkit.lab.insert import EXISTING, Insert
from tlbkit.patches.registry import KERNELS


def table(**params):
    """The answer as a row for each reader, by kernel."""
    columns = HugeZero().answer(params).columns
    return {
        version: dict(zip(columns["what"], columns[version], strict=True))
        for version in KERNELS
    }


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("init_on_free", ["off", "on"])
def test_the_repaired_kernel_is_right_however_the_entry_came(way, init_on_free):
    """It maps the folio by a marked entry, takes it for no page, and shows tag 0."""
    fixed = table(way=way, init_on_free=init_on_free)["fixed"]
    assert fixed["it maps"] == "zeros"
    assert fixed["special"] == "yes"
    assert fixed["normal page"] == "no"
    assert fixed["first tag"] == "0"


def test_entries_are_marked_from_the_pull_request_on():
    """v6.17 has no mark, and its lockless users go the fast way."""
    found = table()
    marks = {version: rows["special"] for version, rows in found.items()}
    assert marks.pop("v6.17") == "no"
    assert set(marks.values()) == {"yes"}
    ways = {version: rows["lockless GUP"] for version, rows in found.items()}
    assert ways.pop("v6.17") == "takes it"
    assert set(ways.values()) == {"gives up"}


@pytest.mark.parametrize("init_on_free", ["off", "on"])
def test_old_tags_show_where_nobody_cleared_them(init_on_free):
    """In the pull request always, in v6.19 if pages are zeroed when freed."""
    found = table(init_on_free=init_on_free)
    old = [version for version, rows in found.items() if rows["first tag"] == "5"]
    freed = ["v6.18", "v6.19", "v7.0"] if init_on_free == "on" else []
    assert old == ["pr350", *freed]


def test_move_leads_nowhere_until_it_is_repaired():
    """From v7.0 on the kernel moves the entry itself."""
    found = table(way="userfaultfd MOVE")
    right = [version for version, rows in found.items() if rows["it maps"] == "zeros"]
    assert right == ["v7.0", "fixed"]


@pytest.mark.parametrize("existing", EXISTING)
def test_an_insertion_is_the_same_with_its_commit_and_without(existing):
    """What is there already makes no difference between the two."""
    assert "does the same" in Insert().answer({"existing": existing}).text


def test_the_huge_zero_folio_was_counted_when_it_was_inserted():
    """That is the one difference that is looked for."""
    text = Insert().answer({"what": "huge zero folio"}).text
    assert text.startswith("5528ef06da01 makes a difference to: ")
    assert "mappings of the folio" in text


@pytest.mark.parametrize("deposit", ["off", "on"])
@pytest.mark.parametrize("situation", SITUATIONS)
def test_a_hole_is_answered_otherwise_in_three_situations(situation, deposit):
    """Where something is there, and where the block does not fit its area."""
    answer = DaxHole().answer({"situation": situation, "deposit": deposit})
    differs = "makes a difference to: answer" in answer.text
    assert differs == (situation in {ZERO, DATA, BEFORE})
    assert answer.columns["what"] == [row[0] for row in answer.rows]
