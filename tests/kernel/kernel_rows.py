"""What real kernels were measured to do, and how the model's answer is held against it.

A file of ``measured/`` is one kernel on one kind of CPU: how it was measured, and one
`Seen` for each row of each scenario. The model must come to the same, number for
number, but where an `Excuse` applies: a condition on what happened in the model, with
the reason why the emulator cannot show it.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from kernel_model import Model, Window
from kernel_scenarios import SCENARIOS, Scenario
from kernel_text import Seen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

MEASURED: Final = Path(__file__).parent / "measured"


JOINED_CALLS: Final = 1
"""How many broadcasts fewer than the model's a row may hold: a CPU that has a call to
answer already is not interrupted again, and one that is left alone is no broadcast."""


QUICK: Final = 64
"""The largest size that is played where not all need to be."""

BREAKS: Final = {
    "50944692052b": {"uffd_move", "uffd_move_dst_off5", "uffd_move_holes2"},
    "c320dbb7c80d": {
        "mprotect_mixed_none_ro_to_rw",
        "mprotect_none_to_ro",
        "mprotect_none_to_rw",
        "mprotect_none_to_rw_half",
        "mprotect_none_to_rw_shared",
        "mprotect_ro_to_rw_shared",
        "mprotect_rw_to_ro_shared",
        "mthp64k_mprotect_none_to_rw",
        "shmem_mprotect_none_to_rw",
        "thp_mprotect_none_to_rw",
        "threads4_mprotect_none_to_rw",
        "uffd_wp_set_shared",
        "uffd_wp_unset_shared",
    },
    "cb1fa2e99955": {
        "hugetlb_private_wp_reuse",
        "mt_thp_wp_reuse_cpu0",
        "mt_wp_reuse_cpu0",
        "mthp64k_wp_reuse",
        "thp_wp_reuse_after_child_exit",
        "wp_reuse_after_child_exit",
        "wp_reuse_after_mprotect",
    },
    "8ce720d5bd91": {
        "hugetlb_child_dontneed_sharers2",
        "hugetlb_child_exit_sharers2",
        "hugetlb_child_exit_sharers3",
        "hugetlb_child_exit_sharers4",
        "hugetlb_child_mprotect_ro_sharers2",
        "hugetlb_child_mprotect_ro_sharers3",
        "hugetlb_child_mprotect_ro_sharers4",
        "hugetlb_child_munmap_sharers2",
        "hugetlb_child_munmap_sharers3",
        "hugetlb_child_munmap_sharers4",
        "hugetlb_private_none_to_rw",
        "hugetlb_private_rw_to_none",
    },
}
"""Commits of v6.19, and the rows that each changes, up to `QUICK` pages."""


class Key(NamedTuple):
    """Which row of a file."""

    row: str
    size: int


@dataclass(frozen=True, slots=True)
class Measured:
    """One file: a kernel on one kind of CPU.

    Attributes:
        about: How it was measured: the package, the emulator, the options, the date.
        kernel: The name of the model's kernel that stands for it.
        cpu: A name of `kernel_model.BOARDS`: what the CPU has.
        rows: What each row came to.
    """

    about: Mapping[str, str]
    kernel: str
    cpu: str
    rows: Mapping[Key, Seen]

    @classmethod
    def load(cls, path: Path) -> Measured:
        """Read a file."""
        content = json.loads(path.read_text("utf-8"))
        rows = {}
        for name, text in content["rows"].items():
            row, size = name.split()
            rows[Key(row, int(size))] = Seen.parse(text)
        about = content["about"]
        return cls(about, about["model"], about["cpu"], rows)

    def save(self, path: Path) -> None:
        """Write a file, one row a line, so that a change is seen as one."""
        rows = {f"{key.row} {key.size}": seen.text() for key, seen in self.rows.items()}
        content = {"about": dict(self.about), "rows": rows}
        path.write_text(json.dumps(content, indent=1) + "\n", "utf-8")


def files() -> dict[str, Measured]:
    """Read all files, by their names."""
    return {path.stem: Measured.load(path) for path in sorted(MEASURED.glob("*.json"))}


class Excuse(NamedTuple):
    """Something that an emulator does not show.

    Attributes:
        name: In a word or two.
        reason: Why not.
        applies: Tells from what the model did in the window whether it matters there.
        adjust: Takes out of the model's answer what the emulator leaves out.
    """

    name: str
    reason: str
    applies: Callable[[Window], bool]
    adjust: Callable[[Window, Seen], Seen]


def _without_spurious(window: Window, seen: Seen) -> Seen:
    """Take out faults on stale entries, with the local flush of each."""
    tlbi = dict(seen.tlbi)
    times, pages = tlbi.pop("VALE1", (0, 0))
    if times > window.spurious:
        tlbi["VALE1"] = (times - window.spurious, pages - window.spurious)
    return seen._replace(
        faults=seen.faults - window.spurious,
        tlbi=tlbi,
        nsh=max(seen.nsh - window.spurious, 0),
    )


EXCUSES: Final = (
    Excuse(
        "spurious faults",
        "QEMU walks the tables again where a cached entry lacks the right, so an "
        "access never faults on an entry that is merely stale",
        lambda window: window.spurious > 0,
        _without_spurious,
    ),
)


class Difference(NamedTuple):
    """A row on which the real kernel and the model do not agree."""

    key: Key
    measured: Seen
    model: Seen

    def __str__(self) -> str:
        """Show both."""
        return (
            f"{self.key.row} {self.key.size}: measured {self.measured.text()!r}, "
            f"the model {self.model.text()!r}"
        )


@dataclass(slots=True)
class Comparison:
    """What came of a comparison.

    Attributes:
        rows: How many were compared.
        excused: How often each excuse was needed.
        differences: What is left.
    """

    rows: int
    excused: Counter[str]
    differences: list[Difference]


def excused(window: Window, seen: Seen) -> tuple[Seen, list[str]]:
    """Return what an emulator shows of what the model did, and the excuses for it."""
    names = []
    for excuse in EXCUSES:
        if excuse.applies(window):
            seen = excuse.adjust(window, seen)
            names.append(excuse.name)
    return seen, names


def same(measured: Seen, model: Seen) -> bool:
    """Tell whether a kernel did what the model did."""
    if measured.broadcasts is not None and model.broadcasts is not None:
        joined = model.broadcasts - measured.broadcasts
        if not 0 <= joined <= JOINED_CALLS:
            return False
    return measured._replace(broadcasts=None) == model._replace(broadcasts=None)


def play(
    scenario: Scenario, size: int, model: Model
) -> Iterator[tuple[Key, Seen, Window]]:
    """Play a scenario on *model*, and yield its rows."""
    lines, rows = scenario.lines(size)
    for number, seen in enumerate(model.play(lines)):
        if number in rows:
            yield Key(rows[number], size), seen, model.last


def compare(
    measured: Measured,
    kernel: str,
    *,
    cpu: str | None = None,
    without: Iterable[str] = (),
    scenarios: Iterable[Scenario] = SCENARIOS,
    largest: int | None = None,
) -> Comparison:
    """Hold the model's *kernel* against a measured one.

    Args:
        measured: The real one.
        kernel: A name of `tlbkit.patches.registry.KERNELS`.
        cpu: The kind of CPU, if another than it was measured on.
        without: Commits to leave out besides.
        scenarios: Which to play.
        largest: Leave out larger sizes.
    """
    result = Comparison(0, Counter(), [])
    for scenario in scenarios:
        for size in scenario.sizes:
            if largest is not None and size > largest:
                continue
            model = Model(kernel, cpu or measured.cpu, without)
            for key, played, window in play(scenario, size, model):
                row = measured.rows.get(key)
                if row is None:
                    continue
                shown, names = excused(window, played)
                result.rows += 1
                result.excused.update(names)
                if not same(row, shown):
                    result.differences.append(Difference(key, row, shown))
    return result
