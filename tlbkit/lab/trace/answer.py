"""What a trace says of some kernels, to be printed, sent or drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tlbkit.lab.trace.records import used

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tlbkit.lab.trace.records import Reading
    from tlbkit.lab.trace.replay import Policy
    from tlbkit.lab.trace.result import Replayed, Share
    from tlbkit.lab.work import Row


@dataclass(frozen=True)
class TraceAnswer:
    """A trace on some kernels, with each commit's share.

    Attributes:
        readings: What was read of each file.
        read: What a reader must know of that, a sentence each.
        kernels: Name -> what it would issue; the oldest kernel first.
        shares: Of each commit that was asked for, those that matter most first.
        cpu: Name of the CPU model.
        cpus: How many CPUs the machine has.
        touch: What a first touch was of which the trace does not tell.
        complete: Whether every commit that was asked for has its share.
    """

    readings: tuple[Reading, ...]
    read: tuple[str, ...]
    kernels: Mapping[str, Replayed]
    shares: tuple[Share, ...]
    cpu: str
    cpus: int
    touch: Policy
    complete: bool = True

    @property
    def lines(self) -> int:
        """How many lines there were."""
        return sum(one.lines for one in self.readings)

    @property
    def used(self) -> float:
        """Which part of them was read."""
        return used(self.readings)

    @property
    def older(self) -> str:
        """Name of the first kernel."""
        return next(iter(self.kernels))

    @property
    def newer(self) -> str:
        """Name of the last kernel."""
        return list(self.kernels)[-1]

    @property
    def notes(self) -> tuple[str, ...]:
        """What the answer does not rest on the trace for, a sentence each."""
        told = self.kernels[self.newer].told
        return (*self.read, *told.sentences())

    def to_json(self) -> dict[str, Any]:
        """Return it as ``--json`` prints it."""
        left = self.kernels[self.newer].told.left
        unread = [str(at) for one in self.readings for at in one.unread]
        return {
            "kernels": {name: one.to_json() for name, one in self.kernels.items()},
            "commits": [one.to_json() for one in self.shares],
            "lines_used": round(self.used, 6),
            "unread": unread,
            "not_modelled": dict(left.most_common()),
            "notes": list(self.notes),
            "assumed": {"cpu": self.cpu, "cpus": self.cpus, "touch": self.touch},
        }

    def rows(self) -> list[Row]:
        """Return a row for each TLBI of each kernel, in order: for a table on disk.

        After ``kernel`` it has the columns of `tlbkit.lab.trace.issued.Issued.columns`;
        a time that the trace does not tell is ``None``.
        """
        return [
            {"kernel": name, **row}
            for name, one in self.kernels.items()
            for row in one.issued
        ]
