"""Published figures beside what the model says of the same thing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tlbkit.lab.result import Comparison
    from tlbkit.observe.timing import Bill
    from tlbkit.patches.patch import Figure

FLUSHING: Final = frozenset(
    {
        "dsb_stores",
        "tlbi_issue",
        "dsb_ish_base",
        "dsb_ish_per_core",
        "dvm_contention_per_broadcaster",
        "local_tlbi",
        "dsb_nsh",
        "notifier",
    }
)
"""The costs of flushes, by the names of `tlbkit.observe.costs.COSTS`."""


def flush_share(bill: Bill, work_ns: float = 0.0) -> float:
    """Return which part of the time of all CPUs went to flushes, in percent.

    *work_ns* is what the program itself took besides, on all CPUs together.
    """
    total = work_ns + sum(line.ns for line in bill.lines)
    flushes = sum(line.ns for line in bill.lines if line.cost.name in FLUSHING)
    return 100 * flushes / total if total else 0.0


def gain(both: Comparison, work_ns: float = 0.0) -> float:
    """Return how much more is done in the same time after than before, in percent.

    *work_ns* is what the program itself took besides, from beginning to end.
    """
    after = both.after.cost_ns + work_ns
    return 100 * ((both.before.cost_ns + work_ns) / after - 1) if after else 0.0


def saving(both: Comparison) -> float:
    """Return how much less time the same work takes after than before, in percent."""
    before = both.before.cost_ns
    return 100 * (1 - both.after.cost_ns / before) if before else 0.0


def share_rows(
    both: Comparison,
    before: Figure | None,
    after: Figure | None,
    work_ns: float = 0.0,
) -> list[list[str]]:
    """Return the share of flushes on both kernels, ours and as published.

    No cost is calibrated on such a share: ours is a prediction.
    """
    ours = [
        f"{flush_share(one.bill, work_ns):.1f}" for one in (both.before, both.after)
    ]
    quoted = ["" if one is None else quote(one) for one in (before, after)]
    return [
        ["predicted, time in flushes (%)", *ours],
        ["published, time in flushes (%)", *quoted],
    ]


def quote(figure: Figure) -> str:
    """Return a figure in percent as a table has it, such as ``over 40``."""
    return f"{figure.qualifier} {figure.value:g}".lstrip()
