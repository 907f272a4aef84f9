"""One scenario to turn the knobs of, wherever the reader happens to be."""

import os
from typing import TYPE_CHECKING, Any

from tlbkit import lab
from tlbkit.errors import InputError
from tlbkit.show.text import table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tlbkit.lab import Exploration, Parameter

STATIC_PAGE = "TLBKIT_STATIC_PAGE"
"""Environment variable that the site build sets for the kernels that run chapters."""

Value = int | str

SWITCH = ("off", "on")
"""A parameter with just these choices is something to tick."""


def setting(parameter: "Parameter", value: Value) -> str:
    """Write a parameter's value with its unit.

    >>> from tlbkit.lab.scenario import CPUS
    >>> setting(CPUS, 1), setting(CPUS, 2)
    ('1 CPU', '2 CPUs')
    """
    unit = parameter.unit
    if value == 1 and unit.endswith("s"):
        unit = {"processes": "process"}.get(unit, unit[:-1])
    return f"{value} {unit}".rstrip()


class Explorer:
    """A scenario with controls: live in the page, live in Jupyter, a table in text.

    The last expression of a cell shows it. The site build gets HTML whose controls ask
    the page's own Python; a kernel gets ipywidgets and Bokeh; everything else gets the
    text. All three ask the same scenario object.

    Attributes:
        scenario: What is asked.
        start: The value of every parameter at first.
    """

    def __init__(self, scenario: "str | Exploration", **start: Value) -> None:
        """Take a scenario, by name or as an object, and the settings to start from.

        Raises:
            InputError: No such scenario or parameter, or a value it does not allow.
        """
        self.scenario = (
            lab.find_exploration(scenario) if isinstance(scenario, str) else scenario
        )
        known = {parameter.name for parameter in self.scenario.controls}
        for name in start.keys() - known:
            raise InputError(
                f"scenario {self.scenario.name!r} has no parameter {name!r}; it has "
                + ", ".join(sorted(known))
            )
        self.start: Mapping[str, Value] = {
            parameter.name: _allowed(
                parameter, start.get(parameter.name, parameter.default)
            )
            for parameter in self.scenario.controls
        }

    def text(self) -> str:
        """Return the text rendering: settings, table and reading of the answer."""
        answer = self.scenario.asked(self.start)
        settings = ", ".join(
            f"{parameter.label}: {setting(parameter, self.start[parameter.name])}"
            for parameter in self.scenario.controls
        )
        return "\n".join(
            [
                self.scenario.title,
                settings,
                "",
                table(answer.header, answer.rows),
                "",
                answer.text,
            ]
        )

    def __repr__(self) -> str:
        return self.text()

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        """Return the rendering for whoever displays this object."""
        # Bokeh and ipywidgets are loaded only where they are shown, so that the page's
        # own Python, which has neither, can import this module.
        if os.environ.get(STATIC_PAGE):
            from tlbkit.show.page import html  # noqa: PLC0415 - see above

            return {"text/plain": self.text(), "text/html": html(self)}
        from tlbkit.show.live import widget  # noqa: PLC0415 - see above

        bundle: dict[str, Any] = widget(self)._repr_mimebundle_()
        return bundle | {"text/plain": self.text()}


def _allowed(parameter: "Parameter", value: Value) -> Value:
    """Return *value* if *parameter* may have it; free text its scenario judges."""
    if not parameter.choices and isinstance(value, str):
        return value
    if value not in parameter.choices:
        raise InputError(
            f"{parameter.name}={value!r} is not allowed; choose from "
            + ", ".join(map(str, parameter.choices))
        )
    return value
