"""The model does, number for number, what real kernels were measured to do."""

from typing import Any

import pytest
from kernel_rows import BREAKS, EXCUSES, QUICK, Measured, compare, files
from kernel_scenarios import SCENARIOS, Scenario

from tlbkit.patches.registry import KERNELS

FILES = files()
NEWEST = "6.19.14-range"


def broken(measured: Measured, kernel: str, **how: Any) -> set[str]:
    """Which rows differ."""
    comparison = compare(measured, kernel, largest=QUICK, **how)
    return {difference.key.row for difference in comparison.differences}


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
@pytest.mark.parametrize("name", FILES)
def test_the_model_does_what_the_kernel_did(name: str, scenario: Scenario) -> None:
    """Every row is the measured one, or what the emulator cannot show is all of it."""
    measured = FILES[name]
    comparison = compare(measured, measured.kernel, scenarios=[scenario])
    assert not comparison.differences, "\n".join(map(str, comparison.differences))


@pytest.mark.parametrize("name", FILES)
def test_every_row_is_played(name: str) -> None:
    """No stored row is left over, so none can be forgotten."""
    rows = {
        (row, size)
        for scenario in SCENARIOS
        for size in scenario.sizes
        for row in scenario.lines(size)[1].values()
    }
    assert FILES[name].rows.keys() <= rows


def test_every_excuse_is_needed() -> None:
    """What excuses nothing is struck out."""
    scenarios = [one for one in SCENARIOS if one.name.startswith("stale")]
    comparison = compare(FILES[NEWEST], "v6.19", scenarios=scenarios, largest=QUICK)
    assert set(comparison.excused) == {excuse.name for excuse in EXCUSES}


@pytest.mark.parametrize("commit", BREAKS)
def test_a_commit_left_out_breaks_its_rows(commit: str) -> None:
    """The comparison sees each commit that changes what is issued, and where."""
    assert broken(FILES[NEWEST], "v6.19", without={commit}) == BREAKS[commit]


def test_a_kernel_taken_for_another_differs() -> None:
    """No kernel passes as the one before or after it."""
    for measured in (FILES["6.17.13-range"], FILES[NEWEST]):
        for other in KERNELS.keys() & {"v6.17", "pr350", "v6.19"} - {measured.kernel}:
            assert broken(measured, other), (measured.kernel, other)


def test_a_cpu_taken_for_another_differs() -> None:
    """A CPU with range operations is told from one without."""
    assert broken(FILES[NEWEST], "v6.19", cpu="norange")


def test_kpti_is_seen() -> None:
    """With KPTI each TLBI is issued for two ASIDs: neither kind passes as the other."""
    assert broken(FILES["6.17.13-kpti"], "v6.17", cpu="range")
    assert broken(FILES["6.17.13-range"], "v6.17", cpu="kpti")
