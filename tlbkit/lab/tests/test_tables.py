"""Rows on disk: what is written is read back by other programs."""

import csv
import importlib.util
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlbkit.errors import InputError
from tlbkit.lab import tables

ROWS = [{"pages": 1, "kernel": "v6.17", "cost_ns": 2.5}, {"pages": 2, "kernel": "a,b"}]
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), min_size=1)


@given(st.lists(st.dictionaries(TEXT, st.integers() | TEXT, min_size=1)))
def test_rows_come_back_from_json_lines(tmp_path_factory, rows):
    """Every row, every name, every value."""
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    tables.write(rows, path)
    lines = path.read_text("utf-8").split("\n")[:-1]
    assert [json.loads(line) for line in lines] == rows


def test_rows_come_back_from_csv(tmp_path):
    """A spreadsheet reads them; what a row lacks is empty."""
    path = tmp_path / "rows.csv"
    tables.write(ROWS, path)
    with path.open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    assert found == [
        {"pages": "1", "kernel": "v6.17", "cost_ns": "2.5"},
        {"pages": "2", "kernel": "a,b", "cost_ns": ""},
    ]


def test_parquet_needs_its_library(tmp_path):
    """It is written where pyarrow is, and elsewhere the error says what to install."""
    path = tmp_path / "rows.parquet"
    if importlib.util.find_spec("pyarrow") is None:
        with pytest.raises(InputError, match="pip install pyarrow"):
            tables.check(path)
        return
    from pyarrow import parquet  # noqa: PLC0415 - where there is one

    tables.write(ROWS, path)
    assert parquet.read_table(path).to_pylist() == [
        ROWS[0],
        {**ROWS[1], "cost_ns": None},
    ]


@pytest.mark.parametrize("name", ["rows", "rows.txt", "rows.CSV"])
def test_a_form_that_is_not_known_is_refused(tmp_path, name):
    """The error lists the endings, and nothing is written."""
    with pytest.raises(InputError, match=r"\.csv, \.jsonl, \.parquet"):
        tables.write(ROWS, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_place_where_nothing_can_be_written_is_named(tmp_path):
    """The error is the system's, with the file."""
    with pytest.raises(InputError, match="No such file"):
        tables.write(ROWS, tmp_path / "none" / "rows.csv")
