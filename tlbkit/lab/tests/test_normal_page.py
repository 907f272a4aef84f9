"""Which page an entry maps, over every input: where old and new agree, where not."""

from collections import Counter
from itertools import product
from typing import Final

import pytest

from tlbkit.errors import InputError
from tlbkit.lab import find_exploration
from tlbkit.lab.normal_page import (
    LEVELS,
    VERSIONS,
    Decider,
    Situation,
    build_for,
    decider,
    legal,
    path,
    situations,
)
from tlbkit.linux.include.linux.pgtable import PgtableLevel
from tlbkit.linux.kernel.config import PROFILES

PTE: Final = PgtableLevel.PTE
PMD: Final = PgtableLevel.PMD
CASES = {"yes": "111", "no": "000"}


def both(level, has):
    """Yield each situation with what v6.17 and v6.19 answer."""
    # The hook is built in, as it always was before.
    config = build_for(CASES[has], find=True)
    old, new = (decider(name, config) for name in ("v6.17", "v6.19"))
    for at in situations(has_special=has == "yes"):
        yield at, old.ask(at, level), new.ask(at, level)


@pytest.mark.parametrize(
    ("level", "has", "inputs", "differ"),
    [
        (PTE, "yes", 288, 28),
        (PTE, "no", 144, 26),
        (PMD, "yes", 288, 204),
        (PMD, "no", 144, 54),
    ],
)
def test_how_many_inputs_differ(level, has, inputs, differ):
    """The enumeration is complete, and old and new differ on just so many inputs."""
    seen = [old != new for _, old, new in both(level, has)]
    assert (len(seen), sum(seen)) == (inputs, differ)


@pytest.mark.parametrize(
    ("level", "has", "inputs"),
    [(PTE, "yes", 102), (PTE, "no", 76), (PMD, "yes", 45), (PMD, "no", 68)],
)
def test_old_and_new_agree_where_they_must(level, has, inputs):
    """Whatever a kernel without a fault can bring about is answered as it was."""
    rows = [
        (old, new)
        for at, old, new in both(level, has)
        if legal(at, level, has_special=has == "yes")
    ]
    assert len(rows) == inputs
    assert all(old == new for old, new in rows)


def classes(level, has):
    """Count the differing inputs by what old and new answer."""
    return Counter(
        (str(old), str(new)) for _, old, new in both(level, has) if old != new
    )


NULL, PAGE, HOOK = "none", "page", "the hook's page"
REPORT, WARNING = "none and a report", "page and a warning"


def test_page_entries_with_the_bit_differ_for_huge_zero_alone():
    """28: a huge zero frame in a page entry, which nobody makes."""
    assert classes(PTE, "yes") == {(PAGE, WARNING): 24, (REPORT, NULL): 4}
    differing = [at for at, old, new in both(PTE, "yes") if old != new]
    assert {at.frame for at in differing} == {"huge zero folio"}


def test_page_entries_without_the_bit_differ_in_two_ways():
    """26: 18 of the huge zero frame, 8 beyond all memory in a MIXEDMAP area."""
    assert classes(PTE, "no") == {(PAGE, NULL): 18, (PAGE, REPORT): 8}
    for at, old, new in both(PTE, "no"):
        if old != new:
            assert at.frame == "huge zero folio" or (
                at.area == "MIXEDMAP" and at.memmap and at.above
            )


def test_pmds_with_the_bit_differ_in_six_ways():
    """204, class by class: the hook, reports, and all that relies on marks."""
    assert classes(PMD, "yes") == {
        (NULL, HOOK): 72,
        (NULL, REPORT): 56,
        (NULL, WARNING): 22,
        (NULL, PAGE): 20,
        (PAGE, WARNING): 26,
        (PAGE, REPORT): 8,
    }
    for at, old, new in both(PMD, "yes"):
        match str(old), str(new):
            case "none", "the hook's page":
                assert at.special
                assert at.hook
            case "none", "none and a report":
                assert at.area == "ordinary" or at.above
            case "none", "page":
                assert not at.special
                assert at.in_row or not at.memmap
            case "none", "page and a warning":
                assert at.frame == "huge zero folio" or at.in_row
            case "page", "none and a report":
                assert (at.area, at.memmap, at.above) == ("MIXEDMAP", True, True)


def test_pmds_without_the_bit_differ_in_three_ways():
    """54: 20 now reported, 26 pages of zeros no longer normal, 8 beyond memory."""
    assert classes(PMD, "no") == {
        (NULL, REPORT): 20,
        (PAGE, NULL): 26,
        (PAGE, REPORT): 8,
    }


@pytest.mark.parametrize("has", CASES)
def test_corrupt_page_entries_are_still_treated_alike(has):
    """For pages two rules are enough; corrupt entries compare equal without more."""
    for at, old, new in both(PTE, has):
        if at.frame != "huge zero folio" and not (at.memmap and at.above):
            assert old == new


def test_the_hook_is_for_special_entries_of_kernels_that_have_it():
    """Built in, it wins over all else; left out, it is never asked."""
    at = Situation(special=True, area="PFNMAP", memmap=False, hook=True)
    unmarked = Situation(hook=True)
    for profile, find, entry, result in (
        ("110", True, at, HOOK),
        ("110", False, at, NULL),
        ("110", True, unmarked, PAGE),
        (
            "000",
            True,
            Situation(area="PFNMAP", cow=False, memmap=False, hook=True),
            NULL,
        ),
    ):
        decide = Decider("fixed", build_for(profile, find=find))
        assert str(decide.ask(entry, PTE)) == result


def test_the_hook_was_asked_by_every_kernel_before():
    """Without 4c89792ea0a2 there is no choice: a driver that has the hook is asked."""
    config = build_for("110")
    at = Situation(special=True, area="PFNMAP", memmap=False, hook=True)
    for without in (("4c89792ea0a2",), ("af38538801c6",)):
        assert str(Decider("fixed", config, without).ask(at, PTE)) == HOOK
    assert str(Decider("fixed", config).ask(at, PTE)) == NULL


def test_renaming_the_hook_changed_no_answer_where_it_is_built_in():
    """With FIND_NORMAL_PAGE on, all inputs of all levels are answered as before it."""
    for has, profile in CASES.items():
        config = build_for(profile, find=True)
        old, new = (
            Decider("v6.19", config, without) for without in (("4c89792ea0a2",), ())
        )
        for at, level in product(situations(has_special=has == "yes"), LEVELS.values()):
            assert old.ask(at, level) == new.ask(at, level)


@pytest.mark.parametrize("profile", PROFILES)
def test_huge_zero_by_profile(profile):
    """The repair agrees with v6.17 on every architecture; v6.19 is wrong on 100."""
    config = build_for(profile)
    marked = config.arch_supports_pmd_pfnmap
    at = Situation(special=marked, frame="huge zero folio")
    old, new, fixed = (str(decider(name, config).ask(at, PMD)) for name in VERSIONS)
    assert old == fixed == NULL
    assert new == (WARNING if profile == "100" else NULL)


@pytest.mark.parametrize("profile", PROFILES)
def test_the_repair_changes_only_levels_without_the_bit(profile):
    """By level: PMDs differ on 100, PUDs on 100 and 110, page entries nowhere."""
    config = build_for(profile)
    new, fixed = decider("v6.19", config), decider("fixed", config)
    differing = {
        str(level)
        for level in LEVELS.values()
        for at in situations(has_special=config.has_special(level))
        if new.ask(at, level) != fixed.ask(at, level)
    }
    expected = {"000": set(), "100": {"pmd", "pud"}, "110": {"pud"}, "111": set()}
    assert differing == expected[profile]


@pytest.mark.parametrize(("profile", "find"), list(product(PROFILES, (False, True))))
def test_the_way_that_is_shown_is_the_way_that_is_taken(profile, find):
    """The last of the questions says what the newest kernel answers, always."""
    config = build_for(profile, find=find)
    newest = decider("fixed", config)
    words = {
        "whatever the hook says": {HOOK},
        "no normal page": {NULL},
        "a report, and no normal page": {REPORT},
        "the page of the frame": {PAGE, WARNING},
    }
    for level in LEVELS.values():
        for at in situations(has_special=config.has_special(level)):
            assert (
                str(newest.ask(at, level)) in words[path(at, level, config)[-1].answer]
            )


def test_the_exploration_shows_three_kernels():
    """The defaults are a page of a program, and every kernel knows what it is."""
    answer = find_exploration("normal-page").answer({})
    assert answer.rows == [[name, "page"] for name in VERSIONS]
    assert "agree" in answer.text
    answer = find_exploration("normal-page").answer(
        {"level": "pmd", "profile": "100", "frame": "huge zero folio"}
    )
    assert [row[1] for row in answer.rows] == [NULL, WARNING, NULL]
    answer = find_exploration("normal-page").answer({"level": "pud"})
    assert answer.rows[0][1] == "not asked at this level"


@pytest.mark.parametrize(
    ("settings", "knob"),
    [
        ({"special": "on", "profile": "000"}, "special"),
        ({"frame": "zero page", "memmap": "off"}, "frame"),
        ({"frame": "huge zero folio", "above": "on"}, "frame"),
    ],
)
def test_contradictions_are_refused(settings, knob):
    """What cannot be is said to be so, with the knob that says it."""
    with pytest.raises(InputError, match=knob):
        find_exploration("normal-page").answer(settings)
