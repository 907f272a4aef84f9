"""Laws of panels: every scenario that can be shown feeds all its panels."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlbkit import lab
from tlbkit.errors import InputError
from tlbkit.show.panels import PANELS, Bars, feeds, number, panels_of


@given(st.integers() | st.floats(0, 1e12, allow_nan=False))
def test_labels_keep_the_value(value):
    """A label read as a number is the value to three digits, and exact for counts."""
    read = float(number(value).replace(",", ""))
    assert read == pytest.approx(value, rel=5e-3, abs=0.5 if abs(value) >= 100 else 0)
    if isinstance(value, int) and abs(value) < 2**53:
        assert read == value


@pytest.mark.parametrize("name", PANELS)
def test_columns_of_a_source_are_equally_long(name):
    """What one source draws is a rectangle, so that no mark is lost."""
    for feed in feeds(name, lab.find_exploration(name).answer({}).columns):
        for data in feed.values():
            assert len({len(column) for column in data.values()}) == 1


@pytest.mark.parametrize("name", PANELS)
def test_quantities_do_not_change_with_the_settings(name):
    """A figure's rows are drawn once; only their lengths may change."""
    scenario = lab.find_exploration(name)
    bars = [panel for panel in PANELS[name] if isinstance(panel, Bars)]

    def rows(params):
        columns = scenario.answer(params).columns
        return [panel.feed(columns)["pairs"]["quantity"] for panel in bars]

    if not bars:
        return
    # One end of each knob at a time, with all others small, so that no run is long.
    small = {p.name: p.choices[0] for p in scenario.parameters if p.choices}
    first = rows(small)
    for parameter in scenario.parameters:
        for value in parameter.choices[-1:]:
            assert rows({**small, parameter.name: value}) == first


def test_an_unknown_scenario_is_named():
    """The message says what is missing and which scenarios can be drawn."""
    with pytest.raises(InputError, match=r"'nothing'.*mprotect"):
        panels_of("nothing")


def test_a_missing_column_is_named():
    """The message says which panel misses which column."""
    with pytest.raises(InputError, match=r"'Counts'.*'after'.*before"):
        Bars("Counts").feed({"before": [1]})
