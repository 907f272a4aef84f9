"""Rows on disk, in the forms that other programs read."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any

from tlbkit.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tlbkit.lab.work import Row

FORMS = (".csv", ".jsonl", ".parquet")
"""The endings of a file of rows: each is a form."""


def check(path: Path) -> None:
    """Raise `InputError` unless `write` could write to a file of this name."""
    if path.suffix not in FORMS:
        raise InputError(f"{path}: the name must end in one of {', '.join(FORMS)}")
    if path.suffix == ".parquet":
        _pyarrow()


def write(rows: Sequence[Row], path: Path) -> None:
    """Write rows as CSV, JSON lines or Parquet, as the name of the file ends.

    The file is there as a whole or not at all. A name that a row lacks is empty.

    Errors:
        InputError: The ending is none of `FORMS`, the file cannot be written, or the
            form is Parquet and pyarrow is not installed.
    """
    check(path)
    beside = path.with_name(f"{path.name}.new")
    try:
        if path.suffix == ".parquet":
            arrow = _pyarrow()
            arrow.parquet.write_table(arrow.Table.from_pylist(list(rows)), str(beside))
        else:
            text = as_csv(rows) if path.suffix == ".csv" else as_json_lines(rows)
            beside.write_text(text, "utf-8", newline="")
        beside.replace(path)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None


def as_csv(rows: Sequence[Row]) -> str:
    r"""Return rows as CSV, under the names in the order in which they first come.

    >>> as_csv([{"pages": 1, "cost_ns": 2.5}, {"pages": 2}])
    'pages,cost_ns\r\n1,2.5\r\n2,\r\n'
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_json_lines(rows: Sequence[Row]) -> str:
    r"""Return rows as JSON, a line each.

    >>> as_json_lines([{"pages": 1}, {"pages": 2}])
    '{"pages": 1}\n{"pages": 2}\n'
    """
    return "".join(json.dumps(row) + "\n" for row in rows)


def _pyarrow() -> Any:
    """Return pyarrow with its writer of Parquet."""
    try:
        import pyarrow as pa  # noqa: PLC0415 - only Parquet needs it
        import pyarrow.parquet  # noqa: PLC0415 - the same
    except ModuleNotFoundError:
        raise InputError("Parquet needs pyarrow: pip install pyarrow") from None
    return pa
