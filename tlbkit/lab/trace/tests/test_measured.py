"""Small programs of our own, traced on real kernels, against what these counted.

They ran on Debian's arm64 kernels under an emulator that counts every TLBI by task:
``plain`` without random addresses, ``random-huge`` with them and with huge pages always
on. ``tests/kernel/capture.py`` takes such traces.
"""

import json
import lzma
from pathlib import Path

import pytest

from tlbkit import Trace
from tlbkit.arm64.tlbi import OPERATIONS

DATA = Path(__file__).parent / "data"
MEASURED = json.loads((DATA / "measured.json").read_text("utf-8"))
PLAIN = ("forks", "gc", "huge", "jitx", "load", "loader", "shell")


def trace(program, how):
    """Read the trace of a program on 6.17.13."""
    name = f"6.17.13.{program}.{how}"
    return Trace.read(*(str(DATA / f"{name}.{tool}.xz") for tool in ("strace", "perf")))


def broadcasts(program, kernel):
    """Return what a kernel was measured to broadcast for a program."""
    forms = MEASURED[kernel][program]["tlbi"].items()
    return sum(n for form, n in forms if OPERATIONS[form].broadcast)


@pytest.mark.parametrize("program", PLAIN)
def test_a_replay_issues_what_was_measured_form_by_form(program):
    """On the kernel of the trace nothing is missing, and nothing is too much."""
    measured = MEASURED["6.17.13 plain"][program]
    found = trace(program, "plain").replay("v6.17")
    assert dict(found.tlbi) == measured["tlbi"]
    assert abs(found.faults - measured["faults"]) <= 2
    assert not found.told.differs


@pytest.mark.parametrize("program", ["jitx", "shell"])
def test_random_addresses_and_huge_pages_are_read_off_the_trace(program):
    """No line tells of either: execve moves its stack, and one fault brings 2 MiB."""
    one = trace(program, "random-huge")
    measured = MEASURED["6.17.13 random-huge"][program]
    assert dict(one.replay("v6.17").tlbi) == measured["tlbi"]
    assert one.thp == ("always" if program == "jitx" else "madvise")


@pytest.mark.parametrize("program", ["huge", "jitx", "load"])
def test_the_newer_kernel_is_predicted_from_the_older_ones_trace(program):
    """Within 5 % of what 6.19.14 broadcast when the same program ran there."""
    found = trace(program, "plain").replay("v6.19")
    measured = broadcasts(program, "6.19.14 plain")
    assert abs(found.broadcasts - measured) <= 0.05 * measured


@pytest.mark.parametrize("program", ["huge", "jitx", "load", "loader"])
def test_little_is_lost_without_the_records_of_mappings(program):
    """Plain ``perf script -F +addr`` has none: faults tell what execve mapped."""
    one = trace(program, "plain")
    name = f"6.17.13.{program}.plain"
    with lzma.open(DATA / f"{name}.perf.xz", "rt", encoding="utf-8") as lines:
        kept = [line for line in lines if "PERF_RECORD" not in line]
    with lzma.open(DATA / f"{name}.strace.xz") as calls:
        files = {"strace": calls.read(), "perf": "".join(kept).encode()}
    found = Trace.of_text(files).replay("v6.17")
    measured = broadcasts(program, "6.17.13 plain")
    assert len(one.records) > len(Trace.of_text(files).records)
    assert abs(found.broadcasts - measured) <= 0.1 * measured
