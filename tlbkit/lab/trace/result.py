"""What a program would make a kernel issue, as its trace tells."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tlbkit.arm64.tlbi import OPERATIONS
from tlbkit.lab.trace.issued import Issued

if TYPE_CHECKING:
    from tlbkit.lab.trace.records import Where
    from tlbkit.lab.trace.replay import Told
    from tlbkit.lab.variant import Variant


@dataclass(slots=True)
class Replayed:
    """One trace on one kernel.

    Attributes:
        variant: The kernel.
        cpu: Name of the CPU model.
        told: What the replay has to say of the trace.
        tlbi: TLBIs, by form.
        sync_ish, sync_nsh: Barriers that completed a broadcast, or a local TLBI.
        ipi_broadcasts: Times that a CPU interrupted others.
        faults: Page faults.
        spurious: Those of them for which the tables held no reason any more.
        cost_ns: Modelled time of the flushes, in ns.
        by_task, by_call, by_function: Broadcasts, by what issued them.
        by_line: Broadcasts of each line of the trace that issued any.
        issued: Every TLBI in its order, local ones too: columns over time.
    """

    variant: Variant
    cpu: str
    told: Told
    tlbi: Counter[str] = field(default_factory=Counter)
    sync_ish: int = 0
    sync_nsh: int = 0
    ipi_broadcasts: int = 0
    faults: int = 0
    spurious: int = 0
    cost_ns: float = 0.0
    by_task: Counter[int] = field(default_factory=Counter)
    by_call: Counter[str] = field(default_factory=Counter)
    by_function: Counter[str] = field(default_factory=Counter)
    by_line: Counter[Where] = field(default_factory=Counter)
    issued: Issued = field(default_factory=Issued)

    @property
    def broadcasts(self) -> int:
        """How many TLBIs went to all CPUs."""
        return sum(n for name, n in self.tlbi.items() if OPERATIONS[name].broadcast)

    @property
    def local(self) -> int:
        """How many TLBIs stayed on their CPU."""
        return self.tlbi.total() - self.broadcasts

    def to_json(self) -> dict[str, Any]:
        """Return the counts as ``--json`` prints them."""
        return {
            "tlbi": dict(sorted(self.tlbi.items())),
            "tlbi_broadcast": self.broadcasts,
            "tlbi_local": self.local,
            "sync_ish": self.sync_ish,
            "sync_nsh": self.sync_nsh,
            "ipi_broadcasts": self.ipi_broadcasts,
            "faults": self.faults,
            "spurious_faults": self.spurious,
            "cost_ns": round(self.cost_ns, 1),
            "by_task": {str(task): n for task, n in self.by_task.most_common()},
            "by_call": dict(self.by_call.most_common()),
            "by_function": dict(self.by_function.most_common()),
        }


@dataclass(frozen=True, slots=True)
class Share:
    """What one commit changes for one program.

    Attributes:
        commit: Its twelve digits.
        subject: What it does.
        role: Why it is in the registry.
        needs: The commits without which it cannot stand, by their twelve digits: they
            are in *alone* and *syncs_alone* too.
        without: Broadcasts of the newer kernel without it, less those with it.
        alone: Broadcasts of the older kernel, less those with it alone.
        syncs_without, syncs_alone: The same of completing barriers for all CPUs.
        local_without: The same of local TLBIs: what it makes local is negative.
    """

    commit: str
    subject: str
    role: str
    needs: tuple[str, ...]
    without: int
    alone: int
    syncs_without: int
    syncs_alone: int
    local_without: int

    @property
    def felt(self) -> bool:
        """Whether the program would feel it at all.

        What it saves together with a commit that it needs is not its own.
        """
        own = not self.needs and (self.alone or self.syncs_alone)
        return bool(own or self.without or self.syncs_without or self.local_without)

    @property
    def alone_said(self) -> str:
        """What the older kernel would save with it, and with what it needs."""
        if not self.alone or not self.needs:
            return f"{self.alone:,}"
        return f"{self.alone:,} (with {', '.join(self.needs)})"

    def to_json(self) -> dict[str, Any]:
        """Return it as ``--json`` prints it."""
        return {
            "commit": self.commit,
            "subject": self.subject,
            "role": self.role,
            "needs": list(self.needs),
            "broadcasts_saved": self.without,
            "broadcasts_saved_alone": self.alone,
            "syncs_saved": self.syncs_without,
            "syncs_saved_alone": self.syncs_alone,
            "local_more": -self.local_without,
        }
