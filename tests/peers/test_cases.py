"""The table of the kernel's own tests is what the tests here are."""

import re
import tomllib
from pathlib import Path

HERE = Path(__file__).parent


def test_the_table_names_the_tests_that_are_here():
    """Each test here is in the table, once, and each file says what it leaves out."""
    table = tomllib.loads((HERE / "cases.toml").read_text("utf-8"))["file"]
    here = [
        name
        for file in HERE.glob("test_*.py")
        if file != Path(__file__)
        for name in re.findall(
            r"^def (test_\w+)", file.read_text("utf-8"), re.MULTILINE
        )
    ]
    assert sorted(test for file in table for test in file["tests"]) == sorted(here)
    assert all(file["left_out"] for file in table)
