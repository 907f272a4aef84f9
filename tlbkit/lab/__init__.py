"""Scenarios, which run kernels, and explorations, which ask the machine alone."""

from tlbkit.errors import InputError
from tlbkit.lab.answer import Answer
from tlbkit.lab.arena import Arena
from tlbkit.lab.bad_page_map import BadPageMap
from tlbkit.lab.compare import compare
from tlbkit.lab.dax_hole import DaxHole
from tlbkit.lab.exploration import Exploration
from tlbkit.lab.flush import Flush
from tlbkit.lab.fork import ForkCopy, ForkReuse, ForkStorm
from tlbkit.lab.gather import GatherFlags, GatherFlush
from tlbkit.lab.huge_zero import HugeZero
from tlbkit.lab.hugetlb import HugetlbExit, HugetlbUnshare
from tlbkit.lab.insert import Insert
from tlbkit.lab.judged import EXERCISES
from tlbkit.lab.litmus import Litmus, OwnLitmus
from tlbkit.lab.mapcount import Mapcount
from tlbkit.lab.move import Move
from tlbkit.lab.mprotect import Mprotect
from tlbkit.lab.normal_page import NormalPage
from tlbkit.lab.not_said import NotSaid
from tlbkit.lab.parameter import Parameter, Value
from tlbkit.lab.permissions import Permissions
from tlbkit.lab.pmd_shared import PmdShared
from tlbkit.lab.result import Comparison, Difference, Result
from tlbkit.lab.run import run
from tlbkit.lab.scenario import CPUS, Claim, Operation, Scenario
from tlbkit.lab.sequence.own import OwnSequence
from tlbkit.lab.stale import Stale
from tlbkit.lab.sweep import Sweep, sweep
from tlbkit.lab.tlb import Lru, Reach
from tlbkit.lab.tlbi import Tlbi
from tlbkit.lab.unmap import Unmap
from tlbkit.lab.unshare import Unshare
from tlbkit.lab.variant import Variant
from tlbkit.lab.walk import Walk

__all__ = [
    "CPUS",
    "EXPLORATIONS",
    "SCENARIOS",
    "Answer",
    "Claim",
    "Comparison",
    "Difference",
    "Exploration",
    "Operation",
    "Parameter",
    "Result",
    "Scenario",
    "Sweep",
    "Value",
    "Variant",
    "compare",
    "find",
    "find_exploration",
    "run",
    "sweep",
]

SCENARIOS: dict[str, Scenario] = {
    one.name: one
    for one in (
        Mprotect(),
        ForkReuse(),
        ForkCopy(),
        ForkStorm(),
        Move(),
        Arena(),
        Unmap(),
        HugetlbUnshare(),
        HugetlbExit(),
    )
}
"""Every scenario, by name."""

_OF_THE_MACHINE: tuple[Exploration, ...] = (
    Walk(),
    Permissions(),
    Lru(),
    Reach(),
    Stale(),
    Tlbi(),
    Litmus(),
    OwnLitmus(),
    OwnSequence(),
    Flush(),
    Mapcount(),
    NormalPage(),
    BadPageMap(),
)
_OF_THE_KERNEL: tuple[Exploration, ...] = (
    GatherFlags(),
    GatherFlush(),
    DaxHole(),
    HugeZero(),
    Insert(),
    NotSaid(),
    PmdShared(),
    Unshare(),
    *EXERCISES.values(),
)
EXPLORATIONS = {
    one.name: one for one in (*_OF_THE_MACHINE, *_OF_THE_KERNEL)
} | SCENARIOS
"""Everything that can be shown, by name."""


def find(name: str) -> Scenario:
    """Return the scenario called *name*; `InputError` says which there are."""
    if name in SCENARIOS:
        return SCENARIOS[name]
    if name in EXPLORATIONS:
        raise InputError(
            f"{name!r} is an explorer, for a notebook or a page; scenarios are: "
            + ", ".join(SCENARIOS)
        )
    raise InputError(f"no scenario {name!r}; there are: {', '.join(SCENARIOS)}")


def find_exploration(name: str) -> Exploration:
    """Return what is shown by the name *name*; `InputError` says what there is."""
    if name in EXPLORATIONS:
        return EXPLORATIONS[name]
    raise InputError(
        f"nothing is called {name!r}; there are: {', '.join(EXPLORATIONS)}"
    )
