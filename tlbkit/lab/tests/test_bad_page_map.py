"""Entries with a bit turned, the reports of them, and the reading of reports."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlbkit.errors import InputError
from tlbkit.lab import find_exploration
from tlbkit.lab.bad_page_map import Broken, entry_fields, explain, read_report


@pytest.mark.parametrize("version", ["v6.17", "v6.19", "fixed"])
@pytest.mark.parametrize("bit", [37, 40, 47, 56])
@pytest.mark.parametrize("how", ["munmap", "smaps", "get_user_pages"])
def test_a_report_says_what_was_done(version, bit, how):
    """Reading the report gives back the entry, its level, and the tables above it."""
    broken = Broken(version, "pte", bit)
    mm = broken.process.mm
    pmdp = broken.kernel.pgtable.find_pmd(mm, broken.base)
    assert pmdp is not None
    pmd = broken.kernel.pgtable.read(pmdp)
    broken.meet(how)
    report = read_report(broken.kernel.printk.log)
    assert (report.process, report.level) == ("a.out", "pte")
    assert (report.entry, report.addr) == (broken.bad, broken.base)
    assert report.tables["pmd"] == pmd
    assert ("pgd" in report.tables) == (version != "v6.17")
    assert {"VM_READ", "VM_WRITE", "VM_MAYWRITE"} <= set(report.flag_names)
    assert report.index == broken.base >> 12
    assert report.file == ""
    assert broken.kernel.panic.taints == {"B"}


@pytest.mark.parametrize(("version", "reports"), [("v6.17", False), ("v6.19", True)])
def test_a_bad_block_is_reported_since_then(version, reports):
    """What v6.17 passed by in silence at PMD level, v6.19 reports with its level."""
    broken = Broken(version, "pmd", 40)
    broken.meet("smaps")
    assert bool(broken.kernel.printk.log) == reports
    if reports:
        report = read_report(broken.kernel.printk.log)
        assert (report.level, report.entry) == ("pmd", broken.bad)
        assert report.tables["pmd"] == broken.bad


def test_what_leaks_is_told_at_the_end():
    """A page that was counted and is not found again is missed at the end."""
    broken = Broken("v6.19", "pte", 40)
    broken.process.exit()
    assert broken.kernel.printk.log[-1].endswith("type:MM_ANONPAGES val:1")
    assert explain(broken.kernel.printk.log[-1])


def test_bits_that_nobody_looks_at_are_not_reported():
    """The access flag, or a bit that Linux does not use, breaks nothing here."""
    for bit in (10, 63):
        broken = Broken("v6.19", "pte", bit)
        assert broken.meet("munmap") == "ok"
        assert not broken.kernel.printk.log


@given(st.integers(0, 2**64 - 1), st.sampled_from(["pte", "pmd", "pud"]))
def test_fields_cover_every_bit_that_linux_knows(entry, level):
    """Fields come from the highest bit down, and none overlaps another."""
    fields = entry_fields(entry, level)
    places = []
    for field in fields:
        high, _, low = field.bits.partition(":")
        places.append((int(high), int(low or high)))
        width = int(high) - int(low or high) + 1
        assert 0 <= field.value < 1 << width
        assert field.value == entry >> int(low or high) & (1 << width) - 1
    assert places == sorted(places, reverse=True)
    assert all(above[1] > below[0] for above, below in pairwise(places))


def test_what_is_no_report_is_refused():
    """A log without a report, or with half of one, is said to be so."""
    with pytest.raises(InputError, match="no line"):
        read_report(["all is well"])
    broken = Broken("v6.19", "pte", 40)
    broken.meet("munmap")
    with pytest.raises(InputError, match="breaks off"):
        read_report(broken.kernel.printk.log[:2])


@pytest.mark.parametrize("bit", [0, 12, 37, 40, 47, 56, 63])
@pytest.mark.parametrize("level", ["pte", "pmd"])
def test_every_setting_has_an_answer(bit, level):
    """Whatever bit turns, there is an entry to show and a sentence to say."""
    for meets in ("munmap", "smaps", "get_user_pages"):
        answer = find_exploration("bad-page-map").answer(
            {"bit": bit, "level": level, "meets": meets}
        )
        assert answer.columns["field"]
        assert answer.rows
        assert f"Bit {bit}" in answer.text
