"""What things cost: named numbers, each with its unit, its source and its kind.

No TLBI latency of a named core was found published. What is published are whole calls,
shares and ratios; each cost below says whether such a figure fixes it (`calibrated`) or
whether it is our assumption. Whatever else the model says about time is a prediction.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from tlbkit.patches.mprotect_pte_needs_flush import PATCH as MPROTECT

if TYPE_CHECKING:
    from collections.abc import Mapping


class Kind(StrEnum):
    """How sure a cost is."""

    MEASURED = "measured"
    """By us, on hardware that the source names."""
    QUOTED = "quoted"
    """As somebody published it."""
    CALIBRATED = "calibrated"
    """Worked out so that the model repeats a published figure."""
    ASSUMED = "assumed"
    """Ours; the source says why about so much."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one thing costs.

    Attributes:
        name: As in `COSTS`.
        ns: Nanoseconds for each.
        each: The thing that is paid for.
        kind: How sure it is.
        source: Where it comes from, or how it was calibrated.
        calibrated_on: Names of the `OBSERVATIONS` that fix it, if any do.
    """

    name: str
    ns: float
    each: str
    kind: Kind
    source: str
    calibrated_on: tuple[str, ...] = ()

    @property
    def unit(self) -> str:
        """The unit of `ns`, in full."""
        return f"ns for each {self.each}"


@dataclass(frozen=True, slots=True)
class Observation:
    """A published figure on which a cost is calibrated.

    Attributes:
        name: As the costs name it.
        value: In *unit*.
        unit: For example ``"us"`` or ``"%"``.
        what: What was measured, on what.
        source: Who published it.
    """

    name: str
    value: float
    unit: str
    what: str
    source: str


_BATCHED_UNMAP = "mail series on batched unmap flushes of arm64, 2022 and 2023"
_SKIP_BROADCAST = (
    'A. Arcangeli, "arm64: tlb: skip tlbi broadcast", 3 February 2020, not merged'
)

OBSERVATIONS: Final[Mapping[str, Observation]] = MappingProxyType(
    {
        one.name: one
        for one in (
            *(
                Observation(
                    f"mprotect {name}",
                    MPROTECT.figure(name).value,
                    MPROTECT.figure(name).unit,
                    MPROTECT.figure(name).what,
                    MPROTECT.figure(name).source,
                )
                for name in ("before", "after")
            ),
            Observation(
                "unmap share, 8 cores",
                5.36,
                "%",
                "share of ptep_clear_flush in a reclaim benchmark, Snapdragon 888",
                _BATCHED_UNMAP,
            ),
            Observation(
                "unmap share, 100 cores",
                16.99,
                "%",
                "the same on a server of about 100 cores, Kunpeng 920",
                _BATCHED_UNMAP,
            ),
            Observation(
                "32 broadcasters",
                2.1696,
                "s",
                "32 processes that mprotect at once, 32 CPUs, Ampere, with broadcasts",
                _SKIP_BROADCAST,
            ),
            Observation(
                "32 without broadcast",
                0.13941,
                "s",
                "the same with local flushes only",
                _SKIP_BROADCAST,
            ),
        )
    }
)
"""The published figures that costs are calibrated on, by name."""

REFERENCE_CPUS: Final = 8
"""CPUs of the machine of the mprotect figures, which no source names: assumed."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """The four costs that published figures fix, once the others are assumed.

    Attributes:
        system_call: What a call costs beside what the machine sees of it.
        dsb_ish_base: Waiting for a broadcast on a machine of one CPU.
        dsb_ish_per_core: What each further CPU adds to that.
        dvm_contention_per_broadcaster: What each CPU adds that broadcasts meanwhile.
    """

    system_call: float
    dsb_ish_base: float
    dsb_ish_per_core: float
    dvm_contention_per_broadcaster: float


def calibrate(
    observed: Mapping[str, Observation], *, issue: float, visible: float
) -> Calibration:
    """Work out the costs that the observations fix.

    Args:
        observed: As `OBSERVATIONS`.
        issue: ns of a flush of one page before its wait: leading DSB, TLBI, notifier.
        visible: ns of what the machine sees of an mprotect of one page without a flush:
            its stores. A lock that nobody else has is part of the call.

    The four equations: the two mprotect figures differ by one flush on
    `REFERENCE_CPUS` CPUs; the cheaper one is the call itself; the flush on 100 CPUs and
    the one on 8 are as the two unmap shares over their rests; and 32 broadcasters take
    as much longer than none as published, if each iteration is calls with one flush.
    """
    value = {name: one.value for name, one in observed.items()}
    call = value["mprotect after"] * 1000
    flush = value["mprotect before"] * 1000 - call
    few, many = (value[f"unmap share, {n} cores"] / 100 for n in (8, 100))
    ratio = (many / (1 - many)) / (few / (1 - few))
    # flush(n) = issue + base + (n - 1) * slope, with flush(100) = ratio * flush(8)
    slope = flush * (ratio - 1) / (100 - REFERENCE_CPUS)
    base = flush - issue - (REFERENCE_CPUS - 1) * slope
    times = value["32 broadcasters"] / value["32 without broadcast"]
    alone = issue + base + (32 - 1) * slope
    contention = (call * (times - 1) - alone) / (32 - 1)
    return Calibration(call - visible, base, slope, contention)


_DSB_STORES = 15.0
_TLBI = 15.0
_NOTIFIER = 5.0
_STORE = 10.0

_FIXED = calibrate(
    OBSERVATIONS,
    issue=_DSB_STORES + _TLBI + _NOTIFIER,
    visible=2 * _STORE,
)

COSTS: Final[Mapping[str, Cost]] = MappingProxyType(
    {
        cost.name: cost
        for cost in (
            Cost(
                "system_call",
                _FIXED.system_call,
                "system call",
                Kind.CALIBRATED,
                "mprotect none->rw of one page without a flush, less its two stores",
                ("mprotect after",),
            ),
            Cost(
                "dsb_stores",
                _DSB_STORES,
                "DSB that has no TLBI to wait for",
                Kind.ASSUMED,
                "a few tens of cycles",
            ),
            Cost(
                "tlbi_issue",
                _TLBI,
                "broadcast TLBI",
                Kind.ASSUMED,
                "it is only sent; the DSB waits",
            ),
            Cost(
                "dsb_ish_base",
                _FIXED.dsb_ish_base,
                "wait for broadcasts",
                Kind.CALIBRATED,
                "before and after differ by one flush, on "
                f"{REFERENCE_CPUS} CPUs (assumed: the machine is not named)",
                ("mprotect before", "mprotect after"),
            ),
            Cost(
                "dsb_ish_per_core",
                _FIXED.dsb_ish_per_core,
                "other CPU of the machine, in each such wait",
                Kind.CALIBRATED,
                "a flush over the rest of the work, on two machines: a rough slope",
                ("unmap share, 8 cores", "unmap share, 100 cores"),
            ),
            Cost(
                "dvm_contention_per_broadcaster",
                _FIXED.dvm_contention_per_broadcaster,
                "other CPU that broadcasts at the same time, in each such wait",
                Kind.CALIBRATED,
                "how many times longer it takes with broadcasts, if an iteration is "
                "calls with one flush each",
                ("32 broadcasters", "32 without broadcast"),
            ),
            Cost(
                "local_tlbi",
                5.0,
                "local TLBI",
                Kind.ASSUMED,
                "nothing leaves the core",
            ),
            Cost(
                "dsb_nsh",
                10.0,
                "wait for local TLBIs",
                Kind.ASSUMED,
                "flushes fell from 50.5 % of the cycles to 0.3 % when they became "
                "local (cover letter of the spurious-fault series): far below a "
                "broadcast, and independent of the number of CPUs",
            ),
            Cost("isb", 10.0, "ISB", Kind.ASSUMED, "a pipeline flush"),
            Cost(
                "notifier",
                _NOTIFIER,
                "secondary-TLB notification",
                Kind.ASSUMED,
                "nobody listens; with a device bound to the process about 5,400 ns "
                "each (third-party notes on an NVIDIA SoC, 2026)",
            ),
            Cost(
                "fault_entry_exit",
                400.0,
                "fault, in and out",
                Kind.ASSUMED,
                "below the 1,100 ns of a whole copy-on-write break (the same notes)",
            ),
            Cost("walk", 20.0, "table walk", Kind.ASSUMED, "tables are in the caches"),
            Cost("store", _STORE, "descriptor store", Kind.ASSUMED, "one atomic"),
            Cost(
                "page_alloc",
                150.0,
                "block of frames allocated",
                Kind.ASSUMED,
                "per-CPU list, and clearing or copying 4 KiB",
            ),
            Cost(
                "switch",
                100.0,
                "change of translation registers",
                Kind.ASSUMED,
                "the rest of a context switch is not the MMU's",
            ),
            Cost(
                "ipi",
                1000.0,
                "interruption of other CPUs",
                Kind.ASSUMED,
                "from the sender to the handlers",
            ),
            Cost(
                "ipi_handler",
                500.0,
                "interrupt taken",
                Kind.ASSUMED,
                "as a fault, in and out",
            ),
        )
    }
)
"""Every cost, by name."""
