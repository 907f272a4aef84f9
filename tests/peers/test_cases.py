"""The table of the kernel's own tests is what the tests here are."""

import tomllib
from pathlib import Path

HERE = Path(__file__).parent


def test_the_table_names_tests_that_are_here():
    """Each test of the table is there, once, and each file says what it leaves out."""
    table = tomllib.loads((HERE / "cases.toml").read_text("utf-8"))["file"]
    text = "".join(file.read_text("utf-8") for file in HERE.glob("test_*.py"))
    named = [test for file in table for test in file["tests"]]
    assert len(named) == len(set(named))
    assert not [test for test in named if f"def {test}(" not in text]
    assert all(file["left_out"] for file in table)
