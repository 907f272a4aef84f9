"""Whose a huge page is, on display: the counts, and what each kernel makes of them."""

from itertools import product

import pytest

from tlbkit.lab.pmd_shared import COUNTED, PmdShared, asked

SPACE = list(product((1, 2, 3), (0, 1, 2), (False, True)))


@pytest.mark.parametrize(("users", "apart", "held"), SPACE)
def test_the_repaired_kernel_says_what_is_so(users, apart, held):
    """A page is called private, and moved, if and only if one process uses it."""
    said = asked(users, apart, held=held, before=False)
    alone = users + apart == 1
    assert said["smaps, Private_Hugetlb"] == ("2,048 kB" if alone else "0 kB")
    assert said["smaps, Shared_Hugetlb"] == ("0 kB" if alone else "2,048 kB")
    assert said["pagemap, mapped by one only"] == ("yes" if alone else "no")
    assert said["pages that MPOL_MF_MOVE takes"] == str(int(alone))


@pytest.mark.parametrize(("users", "apart", "held"), SPACE)
def test_the_old_kernel_counts_whoever_holds_the_table(users, apart, held):
    """Without the commit the helper answers for passers-by, and never for users."""
    said = asked(users, apart, held=held, before=True)
    assert said["hugetlb_pmd_shared()"] == ("yes" if held else "no")


@pytest.mark.parametrize(("users", "apart", "held"), SPACE)
def test_the_counts_are_those_of_both_kernels(users, apart, held):
    """The commit changes who is asked, and no count."""
    said = asked(users, apart, held=held, before=False)
    counts = [said[name] for name in COUNTED]
    assert counts == [str(users - 1), str(1 + held), str(1 + (apart > 0))]
    old = asked(users, apart, held=held, before=True)
    assert [old[name] for name in COUNTED] == counts


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "would move it from under the others"),
        ({"users": 1}, "Both kernels say so"),
        ({"users": 1, "held": "on"}, "look shared"),
        ({"users": 2, "apart": 1}, "misleads no caller"),
        ({"users": 2, "held": "on"}, "by luck"),
    ],
)
def test_the_text_says_who_is_misled(settings, words):
    """A reader is told what the difference comes to."""
    assert words in PmdShared().answer(settings).text
