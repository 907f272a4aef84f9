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

import pytest
from hypothesis import Phase, settings

from tlbkit.arm64.machine import Machine

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


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Keep together what shares fixtures, if several processes run the tests.

    That is the tests of a file, and all that open the site, but for the long one that
    opens every page.
    """
    if not config.pluginmanager.hasplugin("xdist"):
        return
    site = config.rootpath / "tests/site"
    alone = site / "test_every_page.py"
    for item in items:
        together = site in item.path.parents and item.path != alone
        group = site if together else item.path
        item.add_marker(
            pytest.mark.xdist_group(str(group.relative_to(config.rootpath)))
        )


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
