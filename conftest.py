"""What holds for all tests: none is timed, so none fails on a busy machine.

`TLBKIT_HYPOTHESIS` names a profile. "nightly" looks for failures far longer; "mutation"
tries few values, the same each time, and is content with the first that fails.

``pytest --take-out "tlbi in dup_mmap"`` takes a thing out of every machine that
the tests make, as `Machine.taken_out` names it. A test that says itself what is taken
out is skipped.
"""

import gc
import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import Phase, settings

from tlbkit.arm64.machine import Machine

LONG = (
    "tests/site/test_every_page.py",
    "tests/site",
    "tests/compiled",
    "tests/book/test_chapters.py",
    "tlbkit/lab/tests/test_gallery.py",
    "tlbkit/lab/tests/test_harm.py",
    "tlbkit/lab/trace",
    "tests/kernel",
)
"""The tests that take longest, the longest first."""

settings.register_profile("untimed", deadline=None)
settings.register_profile("nightly", deadline=None, max_examples=2000)
settings.register_profile(
    "mutation",
    deadline=None,
    max_examples=25,
    derandomize=True,
    database=None,
    phases=(Phase.explicit, Phase.generate),
)
settings.load_profile(os.environ.get("TLBKIT_HYPOTHESIS", "untimed"))


def pytest_configure() -> None:
    """Look for dead cycles seldom: a test makes thousands of machines, each a cycle."""
    gc.set_threshold(20_000, 20, 20)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the command line name what is taken out."""
    parser.addoption(
        "--take-out",
        metavar="POINT",
        help='take this out of every machine, such as "dsb ish in flush_tlb_mm"',
    )


def group_of(nodeid: str) -> str:
    """Return what one process runs as a whole: tests that share fixtures.

    That is the tests of a file, and all that open the site, but for the long one that
    opens every page.
    """
    file = nodeid.partition("::")[0]
    site, alone = "tests/site/", "tests/site/test_every_page.py"
    return site if file.startswith(site) and file != alone else file


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the groups that take longest: the others fill what is left."""
    items.sort(
        key=lambda item: next(
            (n for n, part in enumerate(LONG) if item.nodeid.startswith(part)),
            len(LONG),
        )
    )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Share the tests among several processes group by group."""
    from xdist.scheduler import LoadScopeScheduling  # noqa: PLC0415 - only where it is

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    return Groups(config, log)


@pytest.fixture(scope="session", autouse=True)
def take_out(pytestconfig: pytest.Config) -> Iterator[None]:
    """Take out what the command line names, of every machine made from here on."""
    point = pytestconfig.getoption("take_out")
    if point is None:
        yield
        return

    def read(machine: Machine) -> frozenset[str]:
        taken_out: frozenset[str] = vars(machine)["taken_out"]
        return taken_out

    def write(machine: Machine, _: frozenset[str]) -> None:
        if "taken_out" in vars(machine):
            pytest.skip("this test says itself what is taken out")
        vars(machine)["taken_out"] = frozenset({point})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Machine, "taken_out", property(read, write), raising=False)
        yield
