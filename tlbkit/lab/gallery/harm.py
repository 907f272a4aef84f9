"""Harm: what a program, or its neighbour, comes to notice of a rule that is broken.

A rule is broken some time before anybody suffers: the flush is not owed any more, and
the stale entry is still there. From there the search goes on to an access that uses it,
to a word that is lost, or to a kernel that finds its own books wrong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Self

from tlbkit.arm64.conflicts import BreakBeforeMakeError, MisuseError
from tlbkit.arm64.fault import Fault
from tlbkit.arm64.permission import EL0_EXECUTE, EL0_READ, EL0_WRITE
from tlbkit.arm64.walk import walk
from tlbkit.errors import TlbkitError
from tlbkit.explore.scheduler import CrashError, DeadlockError
from tlbkit.explore.search import PREEMPTIONS, explore
from tlbkit.lab.gallery.hugetlb_meetings import LeakedWordError
from tlbkit.lab.gallery.meetings import (
    BrokenPromiseError,
    ChildChangedError,
    DisagreementError,
    ForbiddenWriteError,
    KilledError,
    LeakError,
    LostWriteError,
    UnnoticedWriteError,
)
from tlbkit.lab.gallery.programme import PROGRAMME
from tlbkit.lab.gallery.verdicts import Harm
from tlbkit.lab.gallery.walkers import StolenPageError
from tlbkit.linux.kernel.panic import BugError
from tlbkit.linux.mm.page_alloc import BadPageError
from tlbkit.linux.mm.swapfile import BadSwapError
from tlbkit.linux.process import LivelockError
from tlbkit.observe.sanitizer import Sanitizer

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from types import TracebackType

    from tlbkit.arm64.events import Event
    from tlbkit.explore.search import Breach
    from tlbkit.linux.kernel.kernel import Kernel

READ: Final = "a read that must not be"
WRITE: Final = "a write that must not be"
LOST: Final = "a word is lost"
LEAKED: Final = "a word is shown to another process"
CORRUPT: Final = "the kernel's books are wrong"
HANGS: Final = "a thread never goes on"
KILLED: Final = "a thread is killed"
CONFLICT: Final = "a TLB conflict abort"
KEPT: Final = "memory is never freed"


class HarmError(TlbkitError):
    """An access went through a translation that the tables do not grant.

    Attributes:
        cpu: Who made it.
        access: ``"read"``, ``"write"`` or ``"execute"``.
        va: The address.
        pa: Where it led.
        word: What was read or written; 0 for an instruction.
        free: Whether the frame belongs to nobody.
        granted: Whether the tables map the address at all.
    """

    def __init__(self, event: Event, *, free: bool, granted: str) -> None:
        va, pa = event.what
        word = event.new or 0
        verb = {"read": "reads", "write": "writes", "execute": "executes"}[event.kind]
        whose = ", which is free" if free else ""
        super().__init__(
            f"CPU {event.cpu} {verb} {word:#x} at {va:#x} in frame {pa >> 12:#x}"
            f"{whose}; the tables {granted}"
        )
        self.cpu = event.cpu
        self.access = event.kind
        self.va = va
        self.pa = pa
        self.word = word
        self.free = free
        self.granted = granted


_KINDS: Final[Mapping[type[TlbkitError], str]] = {
    LostWriteError: LOST,
    DisagreementError: LOST,
    UnnoticedWriteError: WRITE,
    ForbiddenWriteError: WRITE,
    ChildChangedError: LEAKED,
    StolenPageError: LEAKED,
    LeakedWordError: LEAKED,
    KilledError: KILLED,
    LivelockError: HANGS,
    DeadlockError: HANGS,
    BadPageError: CORRUPT,
    BadSwapError: CORRUPT,
    BugError: CORRUPT,
    LeakError: KEPT,
    BrokenPromiseError: KEPT,
}


def kind(error: TlbkitError) -> str:
    """Say what sort of harm an error is; nothing if it is none."""
    if isinstance(error, HarmError):
        return WRITE if error.access == "write" else READ
    if isinstance(error, MisuseError):
        return "" if isinstance(error, BreakBeforeMakeError) else CONFLICT
    if isinstance(error, CrashError):
        return CORRUPT if _in_kernel(error) else ""
    return _KINDS.get(type(error), "")


def _in_kernel(error: CrashError) -> bool:
    """Tell whether it is the kernel that went on with what is not there."""
    trace = error.__cause__.__traceback__ if error.__cause__ else None
    name = ""
    while trace is not None:
        name = trace.tb_frame.f_globals["__name__"]
        trace = trace.tb_next
    return not name.startswith("tlbkit.observe")


def is_harm(error: TlbkitError) -> bool:
    """Tell whether an error is harm, and not only a rule that is broken."""
    return bool(kind(error))


_NEEDS: Final = {"read": EL0_READ, "write": EL0_WRITE, "execute": EL0_EXECUTE}


class Witness:
    """Lets a kernel break rules, and stops it at the first harm.

    From the first broken rule on, an access that uses what the tables do not grant is
    harm: nobody owes the flush any more.

    Args:
        kernel: Whose machine is listened to.

    Attributes:
        rules: What was broken so far.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.rules = Sanitizer(kernel, halt=False)
        for cpu in kernel.machine.cpus:
            cpu.tolerate()

    def __enter__(self) -> Self:
        """Begin to listen."""
        self.rules.start()
        self._kernel.machine.events.listen(self._access, _NEEDS)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop listening."""
        self._kernel.machine.events.leave(self._access)
        self.rules.stop()

    def _access(self, event: Event) -> None:
        if not self.rules.reports:
            return
        granted = self._refused(event)
        if granted:
            pfn = event.what.pa >> self._kernel.pgtable.page_shift
            free = self._kernel.page_alloc.folio(pfn) is None
            raise HarmError(event, free=free, granted=granted)

    def _refused(self, event: Event) -> str:
        """Say what the tables have in place of what an access used, or nothing."""
        machine = self._kernel.machine
        va, pa = event.what
        found = walk(machine.cpus[event.cpu].regime, machine.memory, va)
        if isinstance(found, Fault):
            return "map nothing there"
        if found.pa + va - found.va != pa:
            return f"lead to frame {found.pa + va - found.va >> 12:#x}"
        leaf = found.leaf
        if not (leaf.permissions | leaf.permissions_dirty) & _NEEDS[event.kind]:
            return "do not allow it"
        return ""


class Found(NamedTuple):
    """A schedule of a meeting that ends in harm.

    Attributes:
        meeting: Its name.
        more: How much more often threads use memory than the meeting asks for.
        breach: The schedule, its steps and what was done.
    """

    meeting: str
    more: int
    breach: Breach


ON: Final = 1
"""How often a flow may be stopped between the broken rule and the harm."""
RUNS: Final = 400
"""How many schedules are tried for harm in one meeting."""
MORE: Final = (0, 1)
"""How much more often threads use memory: some find the hole on their second visit."""


def find(
    point: str, meeting: str, breach: Breach, others: Iterable[str] = ()
) -> Found | None:
    """Go on from a broken rule to harm.

    Args:
        point: What is taken out.
        meeting: Where the rule is broken.
        breach: The schedule that breaks it.
        others: Further meetings, in which harm is looked for if none comes of that.
    """
    for more in MORE:
        scenario = PROGRAMME[meeting].scenario({point}, rules=Witness, more=more)
        found = explore(
            scenario, preemptions=ON, max_runs=RUNS, counts=is_harm, after=breach
        )
        if found.breach is not None:
            return Found(meeting, more, found.breach)
    for more in MORE:
        for name in (meeting, *others):
            scenario = PROGRAMME[name].scenario({point}, rules=Witness, more=more)
            found = explore(
                scenario,
                preemptions=PREEMPTIONS if name == meeting else ON,
                max_runs=RUNS,
                counts=is_harm,
                loads=True,
            )
            if found.breach is not None:
                return Found(name, more, found.breach)
    return None


def told(found: Found | None) -> Harm | None:
    """Return what was found as values, to be kept."""
    if found is None:
        return None
    return Harm(
        kind(found.breach.error),
        found.meeting,
        found.more,
        len(found.breach.steps),
        tuple((step, flow) for step, flow in found.breach.schedule),
        str(found.breach.error).split("\n", 1)[0],
    )
