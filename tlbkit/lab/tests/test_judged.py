"""Laws of judged exercises: what is right passes, each known mistake has an example."""

import pytest

from tlbkit.errors import InputError
from tlbkit.lab import find_exploration
from tlbkit.lab.judged import find

RIGHT = {
    "write-needs-flush": "(old & VALID) and (old ^ new) & ~SWBITS",
    "write-gather-flush": "freed_tables or unshared_tables",
    "write-batch-end": (
        "dst_mapped or not src_present or zero_page or locked or not exclusive"
    ),
    "write-unshare-interrupt": "fully_unshared_tables",
}
WRONG = {
    "write-needs-flush": (
        "0",
        "(old & VALID) and not (old & NG) and (old ^ new) & ~SWBITS",
        "(old & VALID) and (old ^ new) & ~SWBITS & ~FRAME",
        "(old & VALID) and (old ^ new) & ~SWBITS & ~VALID & ~RDONLY & ~DBM",
    ),
    "write-gather-flush": ("0", "freed_tables", "unshared_tables", "cleared_ptes"),
    "write-batch-end": (
        "0",
        "dst_mapped or not src_present or zero_page or locked",
        "dst_mapped or not src_present or zero_page or not exclusive",
        "not src_present or zero_page or locked or not exclusive",
    ),
    "write-unshare-interrupt": ("0", "unshared_tables and not fully_unshared_tables"),
}


@pytest.mark.parametrize("name", RIGHT)
def test_what_the_kernel_does_is_right(name):
    """The kernel's own condition is safe, and costs nothing beside itself."""
    exercise = find(name)
    found = exercise.judge(exercise.condition(RIGHT[name]))
    assert found.right
    assert (found.more, found.fewer) == (0, 0)
    assert str(found).endswith("exactly what the kernel does.")


@pytest.mark.parametrize(
    ("name", "text"), [(name, text) for name, texts in WRONG.items() for text in texts]
)
def test_a_mistake_has_a_smallest_example(name, text):
    """A condition that is not safe is answered with an input, and what comes of it."""
    exercise = find(name)
    found = exercise.judge(exercise.condition(text))
    assert not found.right
    assert found.wrong
    assert found.example in str(found)
    assert found.harm


@pytest.mark.parametrize("name", RIGHT)
def test_to_be_too_careful_is_safe_and_costs(name):
    """To say yes always is safe, and says how much more that is."""
    found = find(name).judge(lambda *_: True)
    assert found.right
    assert found.more
    assert "more often" in str(found)


def test_the_answer_is_the_judgement():
    """In the page the sentence is that of the judge."""
    exercise = find_exploration("write-gather-flush")
    answer = exercise.answer({"condition": "freed_tables"})
    assert answer.text.startswith("Not safe")
    assert exercise.answer({}).text == answer.text


@pytest.mark.parametrize(
    "text",
    ["old &", "young", "old.bit_count()", "__import__('os')", "[old]", "old + 1"],
)
def test_what_is_no_condition_is_refused(text):
    """Only names that there are, and operators of a condition."""
    exercise = find("write-needs-flush")
    with pytest.raises(InputError):
        exercise.answer({"condition": text})


def test_a_function_that_fails_is_told_where():
    """The message names the input."""
    with pytest.raises(InputError, match="no flag at all"):
        find("write-gather-flush").judge(lambda *_: 1 // 0)


def test_an_unknown_exercise_is_refused():
    """The message names those that there are."""
    with pytest.raises(InputError, match="write-batch-end"):
        find("write-a-poem")
