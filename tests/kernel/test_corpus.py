"""The model does in programs of chance what real kernels did in them.

Where it does not yet, the fault has a name in `OPEN`, and a bound on the programs it is
met in. Lower the bound when a fault is mended, and strike out what is met no more.
"""

from collections import Counter
from functools import cache
from pathlib import Path
from random import Random

import pytest
from kernel_chance import Writer, program
from kernel_corpus import (
    FACETS,
    OPEN,
    Agreement,
    Recorded,
    compare,
    firsts,
    known,
    load,
    save,
)
from kernel_text import Seen
from search import playable, shorter

KERNELS = {"6.17.13-range": "v6.17", "6.19.14-range": "v6.19"}
PROGRAMS = {"6.17.13-range": 300, "6.19.14-range": 600}
LEAST = {
    "answer": 0.996,
    "faults": 0.999,
    "tlbi": 0.998,
    "barriers": 0.998,
    "broadcasts": 1.0,
}
"""The share of calls in which each facet agrees, what follows a fault counted too."""


@cache
def corpus() -> list[Recorded]:
    """Read the corpus once."""
    return load()


@cache
def agreement(name: str) -> Agreement:
    """Hold the model against one kernel."""
    return compare(corpus(), name, KERNELS[name], "range")


@pytest.mark.parametrize("name", KERNELS)
def test_what_differs_is_a_fault_with_a_name(name: str) -> None:
    """Each program agrees to its end, or up to a known fault, met no more often."""
    counts: Counter[str] = Counter()
    unknown = []
    for difference in firsts(agreement(name).differences):
        fault = known(difference)
        if fault is None:
            unknown.append(str(difference))
        else:
            counts[fault.name] += 1
    assert not unknown, "\n".join(unknown)
    for one in OPEN:
        assert counts[one.name] <= one.most, one.name


@pytest.mark.parametrize("facet", FACETS)
@pytest.mark.parametrize("name", KERNELS)
def test_calls_agree(name: str, facet: str) -> None:
    """The share of calls that agree does not fall."""
    assert agreement(name).agree(facet) >= LEAST[facet]


def test_the_corpus_is_not_small() -> None:
    """Each kernel has played as many programs as were promised."""
    for name in KERNELS:
        assert agreement(name).programs >= PROGRAMS[name]


def test_a_kernel_taken_for_another_differs() -> None:
    """The newer kernel of the model does not pass for the older one."""
    some = corpus()[:40]
    right = compare(some, "6.17.13-range", "v6.17", "range")
    wrong = compare(some, "6.17.13-range", "v6.19", "range")
    assert len(wrong.differences) > len(right.differences) + 20


def test_a_corpus_is_read_as_it_was_written(tmp_path: Path) -> None:
    """No answer is lost or changed on the way through the file."""
    some = corpus()[:5]
    save(some, tmp_path / "corpus")
    assert load(tmp_path / "corpus") == some


def test_a_seed_is_a_program() -> None:
    """One seed always writes one program, which can be played; another another."""
    assert program(7) == program(7) != program(8)
    assert all(playable(program(seed)) for seed in range(50))
    assert Writer(Random(7)).write_all() == program(7)


def test_a_shorter_program_can_be_played() -> None:
    """Shrinking keeps the last line, and never leaves a line without its actor."""
    lines = program(3)
    for one in shorter(lines):
        assert len(one) < len(lines)
        assert one[-1] == lines[-1]
        assert playable(one)


@pytest.mark.parametrize(
    "text",
    ["0 f0 s0/0", "EINVAL f0 s0/0 i1", "-1 f2 s1/3 RVAE1IS:2/1024 VALE1:3/3 i0"],
)
def test_what_was_seen_is_read_as_it_was_told(text: str) -> None:
    """The words of an answer say all of it."""
    assert Seen.parse(text).text() == text
