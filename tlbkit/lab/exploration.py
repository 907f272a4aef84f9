"""What an exploration is: a question with knobs, whatever answers it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from tlbkit.errors import InputError
from tlbkit.lab.parameter import Parameter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tlbkit.lab.answer import Answer
    from tlbkit.lab.parameter import Value

SWITCH = ("off", "on")
"""The choices of something that is off or on."""


class Exploration(ABC):
    """A question with knobs to turn.

    Attributes:
        name: As in `tlbkit.lab.find`.
        title: What is asked, in words.
        parameters: The knobs.
    """

    name: str
    title: str
    parameters: tuple[Parameter, ...]

    @abstractmethod
    def answer(self, params: Mapping[str, Value]) -> Answer:
        """Return what there is to see at a setting.

        Args:
            params: Values of parameters; the others have their defaults.

        Errors:
            InputError: A parameter is unknown, or its value is not allowed.
        """

    @property
    def controls(self) -> tuple[Parameter, ...]:
        """The knobs that a widget has: these, and what else may be chosen."""
        return self.parameters

    def asked(self, params: Mapping[str, Value]) -> Answer:
        """Return the answer at a setting of `controls`; otherwise as `answer`."""
        return self.answer(params)

    def settings(self, params: Mapping[str, Value]) -> dict[str, Value]:
        """Return a value for each parameter: those given, checked, or the defaults.

        Errors:
            InputError: A parameter is unknown, or its value is not allowed.
        """
        for name in params:
            self.parameter(name)
        return {
            one.name: one.check(params.get(one.name, one.default))
            for one in self.parameters
        }

    def parameter(self, name: str) -> Parameter:
        """Return the parameter called *name*; `InputError` says which there are."""
        for parameter in self.parameters:
            if parameter.name == name:
                return parameter
        known = ", ".join(parameter.name for parameter in self.parameters)
        raise InputError(f"{self.name} has no parameter {name!r}; it has {known}")


def line(name: str, label: str, default: str) -> Parameter:
    """A parameter that takes free text, which its exploration judges."""
    return Parameter(name, label, "", default, ())


def menu(name: str, label: str, choices: tuple[str, ...]) -> Parameter:
    """A parameter that takes one of several names, the first by default."""
    return Parameter(name, label, "", choices[0], choices)


def switch(name: str, label: str, default: str = "off") -> Parameter:
    """A parameter that is off or on."""
    return Parameter(name, label, "", default, SWITCH)
