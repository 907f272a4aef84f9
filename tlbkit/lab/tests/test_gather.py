"""The gather on display: each call, and arm64's choice, row by row."""

import pytest

from tlbkit.lab.gather import CALLS, GatherFlags, GatherFlush, issued

WITHOUT = ("c2ff4764e03e",)


@pytest.mark.parametrize("call", CALLS)
def test_a_flush_leaves_what_is_not_about_entries(call):
    """The kind of area stays, and so does a table's new owner until it is settled."""
    answer = GatherFlags().answer({"call": call})
    columns = {row[0]: row[1:] for row in answer.rows}
    for flag, (noted, flushed, settled) in columns.items():
        stays = flag.startswith("vma_") or flag == "fully_unshared_tables"
        assert flushed == (noted if stays else "")
        assert settled == (noted if flag.startswith("vma_") else "")
    assert any(noted for noted, _, _ in columns.values())


def flush(without=(), *, fullmm="off", freed="off", unshared="off", has="on", gib=1):
    """What such a gather issues."""
    settings = {
        "fullmm": fullmm,
        "freed": freed,
        "unshared": unshared,
        "range": has,
        "gib": gib,
    }
    return list(issued(settings, without))


@pytest.mark.parametrize(
    ("flags", "before", "after"),
    [
        ({"fullmm": "on"}, [], []),
        ({"fullmm": "on", "unshared": "on"}, [], ["ASIDE1IS"]),
        ({"fullmm": "on", "freed": "on"}, ["ASIDE1IS"], ["ASIDE1IS"]),
        (
            {"fullmm": "on", "freed": "on", "unshared": "on"},
            ["ASIDE1IS"],
            ["ASIDE1IS"],
        ),
        ({}, ["RVALE1IS"], ["RVALE1IS"]),
        ({"unshared": "on"}, ["RVALE1IS"], ["RVAE1IS"]),
        ({"freed": "on"}, ["RVAE1IS"], ["RVAE1IS"]),
        ({"freed": "on", "unshared": "on"}, ["RVAE1IS"], ["RVAE1IS"]),
    ],
)
def test_arm64_decides_by_what_was_unhooked(flags, before, after):
    """Every row of the decision, without the fix and with it."""
    assert flush(WITHOUT, **flags) == before
    assert flush(**flags) == after


@pytest.mark.parametrize(
    ("gib", "has", "form"),
    [(1, "on", "RVALE1IS"), (8, "on", "RVALE1IS"), (9, "on", "ASIDE1IS")]
    + [(gib, "off", "ASIDE1IS") for gib in (1, 2, 8)],
)
def test_the_mistake_is_seen_for_one_to_eight_gib(gib, has, form):
    """Longer ranges, and CPUs without range TLBIs, flush the whole ASID anyway."""
    assert flush(WITHOUT, unshared="on", gib=gib, has=has) == [form]


def test_the_text_says_whether_they_differ():
    """A reader is told where the kernels part, and why it matters."""
    assert "walk cache" in GatherFlush().answer({}).text
    assert "same" in GatherFlush().answer({"freed": "on"}).text
