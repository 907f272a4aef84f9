"""Laws of the list of tests that notice what was taken out."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tlbkit.lab.gallery.verdicts import BREAKS, gallery

ROOT = Path(__file__).resolve().parents[2]
KILLERS = json.loads(Path(__file__).with_name("killers.json").read_text("utf-8"))
SAMPLE = (
    "lock PTE table in wp_page_copy",
    "tlbi in dup_mmap",
    "pte_none in mfill_atomic_pte_zeropage",
)


def source(test):
    """Return the text of a test's function; nothing if there is no such test."""
    file, _, name = test.partition("::")
    function = name.partition("[")[0]
    text = (ROOT / file).read_text("utf-8")
    found = re.search(
        rf"^def {function}\(.*?(?=^\S|\Z)", text, re.DOTALL | re.MULTILINE
    )
    return found[0] if found else ""


def test_every_point_that_breaks_is_noticed():
    """What breaks a rule without is noticed by a test that is not of the gallery.

    After a change of the flows, `python tests/mutation/run.py` makes killers.json.
    """
    breaking = {one.point for one in gallery() if one.verdict == BREAKS}
    assert breaking <= KILLERS.keys()
    assert KILLERS.keys() <= {one.point for one in gallery()}


@pytest.mark.parametrize("test", sorted(set(KILLERS.values())))
def test_what_notices_is_an_ordinary_test(test):
    """The test is there, and was not told what is taken out."""
    assert source(test)
    assert ".taken_out" not in source(test)
    assert "gallery" not in test


@pytest.mark.parametrize("point", SAMPLE)
def test_a_sample_is_noticed(point):
    """Without the point the test fails, and fails as a test."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    ran = subprocess.run(
        [*command, "--take-out", point, KILLERS[point]],
        cwd=ROOT,
        env=os.environ | {"TLBKIT_HYPOTHESIS": "mutation"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == pytest.ExitCode.TESTS_FAILED, ran.stdout
    assert "1 failed" in ran.stdout
