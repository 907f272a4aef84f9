"""What a scenario shows: the same numbers as columns, as a table and in words."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Answer:
    """What both kernels did at one setting of a scenario.

    Attributes:
        columns: What figures draw, by name; each scenario documents its own.
        header: Over the table's columns.
        rows: The table; the first cell of a row names it.
        text: The reading of it, in sentences.
    """

    columns: dict[str, list[Any]]
    header: list[str]
    rows: list[list[str]]
    text: str

    def to_json(self) -> dict[str, Any]:
        """Return it as plain lists, dictionaries, strings and numbers."""
        return asdict(self)
