"""Take out each thing that the gallery knows, and see which ordinary test notices.

    python tests/mutation/run.py
    python tests/mutation/run.py "tlbi in dup_mmap" "lock mmap_lock in munmap"

The tests of the gallery do not count, nor does any other that takes something out
itself: the suite must notice without having been told where to look. What noticed last
time stands in `killers.json` and is tried first. Where that is of no use any more, the
suite runs once to see which tests come by the point at all, and those are tried, the
quickest first; whatever is found is stored.

A point that nothing notices needs an argument in the gallery. The exit status is 1 if
one has none.

The tests are collected once. Each point gets a copy of the process, made by fork, so
this runs wherever Python has `os.fork`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
import traceback
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from tlbkit.arm64.machine import Machine
from tlbkit.callers import caller
from tlbkit.lab.gallery.verdicts import ARGUED, gallery

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
    from types import FrameType

    from tlbkit.lab.gallery.verdicts import Verdict

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
KILLERS = HERE / "killers.json"

# Folders whose tests boot kernels, those first that are nearest to the kernel.
FOLDERS = ("linux", "patches", "observe", "explore", "lab", "show")
# They would be skipped one by one, and search for minutes before that.
GALLERY = "test_gallery"
NOTHING = "nothing in nowhere"

MINUTE = 60
LIMIT = 10 * MINUTE


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the suite without one point.

    Attributes:
        verdict: The gallery's, on the point.
        test: Which test noticed, or "".
        seconds: How long it took to find that out.
        late: Whether the time was up before all tests had run.
    """

    verdict: Verdict
    test: str
    seconds: float
    late: bool

    @property
    def unexplained(self) -> bool:
        """Whether nothing notices, and there is no argument why."""
        return not self.test and self.verdict.verdict != ARGUED

    def __str__(self) -> str:
        how = self.test or ("time is up" if self.late else "survives")
        why = "" if self.test else f" ({self.verdict.verdict})"
        return f"{self.verdict.point:46} {self.seconds:6.1f} s  {how}{why}"


# -- copies of this process ------------------------------------------------------------


def forked(
    tasks: Mapping[str, Callable[[], Any]], jobs: int, limit: int
) -> Iterator[tuple[str, Any, float]]:
    """Do each task in a copy of this process, *jobs* at a time.

    Yields:
        The name of a task; what it returned, as JSON has it, ``None`` if it was not
        done within *limit* seconds; how many seconds it took.
    """
    waiting = list(tasks)[::-1]
    running: dict[int, tuple[str, Path, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        while waiting or running:
            while waiting and len(running) < jobs:
                name = waiting.pop()
                answer = Path(folder) / str(len(waiting))
                child = os.fork()
                if not child:
                    in_child(tasks[name], answer, limit)
                running[child] = name, answer, time.monotonic()
            child, status = os.wait()
            name, answer, began = running.pop(child)
            late = os.WIFSIGNALED(status)
            done = None if late else json.loads(answer.read_text("utf-8"))
            yield name, done, time.monotonic() - began


def in_child(task: Callable[[], Any], answer: Path, limit: int) -> NoReturn:
    """Do the task, write down what it returned, and end without more ado."""
    try:
        signal.alarm(limit)
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, sys.stdout.fileno())
        done = json.dumps(task())
        signal.alarm(0)
        answer.write_text(done, encoding="utf-8")
    finally:
        if sys.exception() is not None:
            traceback.print_exc()
        os._exit(0)


# -- what is asked of the tests --------------------------------------------------------


class FirstFailure:
    """Notes which test fails first."""

    def __init__(self) -> None:
        self.test = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Hear of one part of one test."""
        if report.failed and not self.test:
            self.test = report.nodeid


class Reach:
    """Notes by which points of the gallery each test comes, and how long it takes."""

    def __init__(self) -> None:
        self.places: dict[str, set[str]] = defaultdict(set)
        for verdict in gallery():
            operation, _, place = verdict.point.partition(" in ")
            self.places[operation].add(place)
        self.left: dict[str, set[str]] = {}
        self.found: dict[str, dict[str, float]] = defaultdict(dict)

    def pytest_runtest_setup(self) -> None:
        """Begin with nothing met."""
        self.left = {name: set(places) for name, places in self.places.items()}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note what the test has met."""
        if report.when == "call" and report.passed:
            for name, places in self.places.items():
                for place in places - self.left[name]:
                    self.found[f"{name} in {place}"][report.nodeid] = report.duration

    def omits(self, operation: str) -> bool:
        """Note that an operation is asked for, and take nothing out."""
        left = self.left.get(operation)
        frame: FrameType | None = caller()
        while frame is not None and left:
            left.discard(frame.f_code.co_name)
            frame = frame.f_back
        return False

    def holds(self, check: str, condition: object) -> bool:
        """Note that a check has failed, and let it."""
        if not condition and check in self.left:
            self.left[check].discard(caller().f_code.co_name)
        return bool(condition)

    def sees(self, check: str, condition: object) -> bool:
        """Note that a check has seen what it looks for, and let it."""
        if condition and check in self.left:
            self.left[check].discard(caller().f_code.co_name)
        return bool(condition)


class Mutation:
    """In place of pytest's own loop over the tests.

    Args:
        points: Which to judge; all if none is named.
        jobs: How many processes run side by side.
        limit: Seconds for each point.
    """

    def __init__(self, points: Collection[str], jobs: int, limit: int) -> None:
        self.wanted = [one for one in gallery() if not points or one.point in points]
        self.jobs = jobs
        self.limit = limit
        self.session: pytest.Session
        self.items: dict[str, pytest.Item] = {}
        self.outcomes: dict[str, Outcome] = {}
        self.held = set(killers().values())  # the suite itself runs these

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Judge every point; the tests are collected."""
        self.session = session
        self.items = {item.nodeid: item for item in session.items}
        known = killers()
        self.judge({point: [test] for point, test in known.items()})
        if len(self.outcomes) < len(self.wanted):
            print("Looking which tests come by what is left.", flush=True)
            self.judge(self.reach(), last=True)
        return True

    def judge(self, tests: Mapping[str, list[str]], *, last: bool = False) -> None:
        """Run some tests without each point that is left; note and print the outcome.

        What nothing notices stays left, except if these are the *last* tests.
        """
        left = {one.point: one for one in self.wanted if one.point not in self.outcomes}
        tasks = {
            point: partial(self.first_failure, point, tests.get(point, ()))
            for point in left
            if last or point in tests
        }
        for point, test, seconds in forked(tasks, self.jobs, self.limit):
            if test or last:
                outcome = Outcome(left[point], test or "", seconds, test is None)
                self.outcomes[point] = outcome
                print(outcome, flush=True)
        self.hold_to_account(one.test for one in self.outcomes.values() if one.test)

    def hold_to_account(self, tests: Iterable[str]) -> None:
        """Make sure that tests pass if nothing is taken out."""
        tasks = {
            test: partial(self.first_failure, NOTHING, [test])
            for test in dict.fromkeys(tests)
            if test not in self.held
        }
        self.held.update(tasks)
        for test, failed, _ in forked(tasks, self.jobs, self.limit):
            if failed:
                pytest.exit(f"{test} fails with nothing taken out", returncode=2)

    def first_failure(self, point: str, tests: Iterable[str]) -> str:
        """Return the first of *tests* that fails without *point*, or ""."""
        seen = FirstFailure()
        self.run(seen, point, tests, done=lambda: bool(seen.test))
        return seen.test

    def reach(self) -> dict[str, list[str]]:
        """Return which tests come by each point, the quickest first."""
        tests = list(self.items)
        parts = 8 * self.jobs  # so that all end at about the same time
        tasks = {
            str(first): partial(self.met, tests[first::parts]) for first in range(parts)
        }
        found: dict[str, dict[str, float]] = defaultdict(dict)
        for _, part, _ in forked(tasks, self.jobs, 0):
            for point, some in part.items():
                found[point].update(some)
        return {
            point: sorted(some, key=some.__getitem__) for point, some in found.items()
        }

    def met(self, tests: Iterable[str]) -> dict[str, dict[str, float]]:
        """Run some tests, and return how long each takes that comes by a point."""
        seen = Reach()
        patch = pytest.MonkeyPatch()
        patch.setattr(Machine, "omits", seen.omits)
        patch.setattr(Machine, "holds", seen.holds)
        patch.setattr(Machine, "sees", seen.sees)
        self.run(seen, NOTHING, tests)
        return seen.found

    def run(
        self,
        seen: object,
        point: str,
        tests: Iterable[str],
        done: Callable[[], bool] = bool,
    ) -> None:
        """Run some tests without *point*, and let *seen* hear of them."""
        config = self.session.config
        config.option.take_out = point
        config.pluginmanager.register(seen)
        items = [self.items[test] for test in tests if test in self.items]
        for item, following in zip_longest(items, items[1:]):
            item.ihook.pytest_runtest_protocol(item=item, nextitem=following)
            if done():
                return


# -- what is kept ----------------------------------------------------------------------


def killers() -> dict[str, str]:
    """Return which test noticed last time, by the points."""
    known: dict[str, str] = json.loads(KILLERS.read_text("utf-8"))
    return known


def store(outcomes: Iterable[Outcome]) -> None:
    """Keep what has noticed, for the next run and for the suite."""
    there = {one.point for one in gallery()}
    known = {point: test for point, test in killers().items() if point in there}
    for outcome in outcomes:
        known.pop(outcome.verdict.point, None)
        if outcome.test:
            known[outcome.verdict.point] = outcome.test
    text = json.dumps(known, indent=2, sort_keys=True, ensure_ascii=False)
    KILLERS.write_text(text + "\n", encoding="utf-8")


def files() -> list[str]:
    """Return the test files whose tests count, those first that are near the kernel."""
    return [
        str(file)
        for folder in FOLDERS
        for file in sorted((ROOT / "tlbkit" / folder).glob("tests/test_*.py"))
        if not file.name.startswith(GALLERY)
    ]


def main() -> int:
    """Run the suite against every point."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("point", nargs="*", help="of the gallery; all if none is named")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--limit", type=int, default=LIMIT, help="seconds a point")
    said = parser.parse_args()
    os.environ["TLBKIT_HYPOTHESIS"] = "mutation"
    mutation = Mutation(said.point, said.jobs, said.limit)
    options = ["-q", "--capture=no", f"--rootdir={ROOT}", "-p", "no:cacheprovider"]
    status = pytest.main([*options, *files()], plugins=[mutation])
    outcomes = mutation.outcomes.values()
    if status not in {pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED}:
        return int(status)
    store(outcomes)
    noticed = sum(1 for one in outcomes if one.test)
    unexplained = sum(1 for one in outcomes if one.unexplained)
    argued = len(outcomes) - noticed - unexplained
    print(
        f"{len(outcomes)} points: {noticed} noticed, {argued} survive with an "
        f"argument, {unexplained} without."
    )
    return 1 if unexplained else 0


if __name__ == "__main__":
    sys.exit(main())
