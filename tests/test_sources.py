"""Which kernel function is which: read from the docstrings, told whole."""

import keyword
import re

import pytest
from kernel_functions import label, lines

from tlbkit import sources
from tlbkit.errors import InputError
from tlbkit.patches import registry


def test_no_function_is_without_a_source():
    """A public function of the kernel says what it stands for, or that it is ours."""
    assert not [stand.python for stand in sources.silent()]


def test_an_underscore_behind_stands_for_two_in_front():
    """The kernel's ``__name`` is spelled ``name_`` here, and nothing else is."""
    for stand in sources.stands():
        if stand.before or keyword.iskeyword(stand.name[:-1]):
            continue
        if stand.name.endswith("_"):
            wanted = {f"__{stand.name[:-1]}", f"___{stand.name[:-1]}"}
            assert not wanted.isdisjoint(stand.symbols), stand.python


def test_what_was_compared_is_told():
    """A kernel file most of whose functions are here says with which version."""
    told = {one.file: one.compared for one in sources.files()}
    for file in ("mm/memory.c", "mm/rmap.c", "mm/mremap.c", "include/linux/rmap.h"):
        assert "v6.19" in told[file], file


def test_every_difference_stands_on_the_page():
    """No function that stands for one of the kernel, and no deviation, is left out."""
    page = "\n".join(lines(sources.files()))
    for stand in sources.stands():
        if stand.says and stand.file != sources.OURS and not stand.before:
            assert stand.deviates in page
            assert all(f"`{name}() <" in page for name in stand.symbols)


def test_a_deviation_says_what_it_deviates_from():
    """Only a function that names its kernel function can differ from it."""
    for stand in sources.stands():
        assert not stand.deviates or stand.symbols, stand.python


def test_a_deviation_is_a_sentence():
    """What differs is told in words that end."""
    for stand in sources.stands():
        assert not stand.deviates or stand.deviates.endswith("."), stand.python


def test_each_part_of_the_page_can_be_linked():
    """Each kernel file has a label of its own."""
    labels = [label(one.file) for one in sources.files()]
    assert len(set(labels)) == len(labels)


def test_a_kernel_file_looks_like_one():
    """What a docstring names as a file is a path below the kernel's top folder."""
    for one in sources.files():
        assert re.fullmatch(
            r"(arch|block|drivers|fs|include|kernel|lib|mm|security)/[\w./-]+", one.file
        ), one.file


def test_old_bodies_belong_to_a_commit_of_the_registry():
    """Whatever stands there as an older body names a commit that there is."""
    known = {patch.hash for patch in registry.PATCHES}
    assert {stand.before for stand in sources.stands()} - {""} <= known


def test_today_comes_before_the_past():
    """Of several bodies of one function, the one that runs by default is first."""
    found = sources.find("move_pages_ptes")
    assert not found[0].before
    assert found[0].path.startswith("tlbkit/linux/mm/userfaultfd")


def test_where_leads_to_tests_and_chapter():
    """A function that a chapter quotes and a test calls is found in both."""
    place = sources.where("move_pages_ptes()")[0]
    assert "book/commits/userfaultfd-move.md" in place.chapters
    assert "tests/test_sources.py" in place.tests
    text = (sources.PACKAGE.parent / place.stand.path).read_text("utf-8")
    assert "def move_pages_ptes(" in text.splitlines()[place.stand.line - 1]


def test_an_unknown_symbol_is_told_what_is_near():
    """A slip of the pen is answered with the names that look like it."""
    with pytest.raises(InputError, match=r"did you mean.*move_pages_ptes"):
        sources.where("move_page_ptes")
