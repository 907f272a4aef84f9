"""One knob: what it is called, and which values it may have."""

from __future__ import annotations

from dataclasses import dataclass

from tlbkit.errors import InputError

Value = int | str


@dataclass(frozen=True, slots=True)
class Parameter:
    """One knob.

    Attributes:
        name: As in ``--set name=value``.
        label: For people.
        unit: Of a number; empty for a name.
        default: Its value if none is given.
        choices: Of a name, every value that is allowed; of a number, the values that a
            slider stops at, the smallest first and the largest last: every number
            between them is allowed. Without choices it takes text, which whoever has
            the parameter judges.
        most: Of a number, the largest that may be asked for by name, where that takes
            too long for a slider.
    """

    name: str
    label: str
    unit: str
    default: Value
    choices: tuple[Value, ...]
    most: int | None = None

    @property
    def allowed(self) -> str:
        """What values there are, in words."""
        if not self.choices:
            return "text"
        low = self.choices[0]
        if isinstance(low, int):
            return f"a whole number from {low} to {self._high}"
        return "one of " + ", ".join(map(str, self.choices))

    @property
    def _high(self) -> int:
        return int(self.choices[-1]) if self.most is None else self.most

    def check(self, value: object) -> Value:
        """Return *value* if it is allowed; `InputError` says what is.

        >>> Parameter("pages", "Pages", "pages", 64, (1, 64, 4096)).check(65)
        65
        """
        if not self.choices:
            if isinstance(value, str):
                return value
        elif isinstance(self.choices[0], int):
            # True and False are numbers to Python and to nobody else.
            if type(value) is int and int(self.choices[0]) <= value <= self._high:
                return value
        elif isinstance(value, str) and value in self.choices:
            return value
        raise InputError(f"{self.name}={value}: must be {self.allowed}")

    def parse(self, text: str) -> Value:
        """Return the value that *text* spells; `InputError` says what is allowed."""
        if self.choices and isinstance(self.choices[0], int):
            digits = text.strip()
            if digits.isascii() and digits.removeprefix("-").isdigit():
                return self.check(int(digits))
        return self.check(text)
