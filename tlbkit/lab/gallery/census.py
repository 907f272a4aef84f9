"""Everything that can be taken out of the flows: found by running them, not listed.

A point is named as `Machine.taken_out` names it, what and where:

- an instruction of a flush, by the function that issues it:
  ``"dsb ish in flush_tlb_page"``;
- all TLBIs that one caller wants: ``"tlbi in ptep_clear_flush"``;
- a lock, by who takes it: ``"lock PTE table in wp_page_copy"``;
- an interrupt to other CPUs, by who sends it and by who wants it sent:
  ``"ipi in tlb_remove_table_sync_one"``, ``"ipi in tlb_flush_unshared_tables"``;
- interrupts held off, by who does so: ``"irq in gup_fast"``;
- the wait of RCU before something is freed, by who leaves it to RCU:
  ``"call_rcu in tlb_flush_mmu"``;
- a check that is made again once a lock is held: ``"pte_same in wp_page_copy"``;
- a flush that is moved, by who wants it: ``"tlbi moved after unlock in
  ptep_clear_flush"`` comes behind the release of the spin locks under which it stands,
  ``"tlbi moved before store in ptep_clear_flush"`` before the stores that it follows.

A DSB moved before its TLBI waits for nothing, and a DSB moved behind it orders no
store before it: that is to take them out.
"""

from __future__ import annotations

import dataclasses
import dis
from collections import defaultdict
from itertools import islice
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Final, NamedTuple

from tlbkit.arm64.cpu import AFTER_UNLOCK, BEFORE_STORE
from tlbkit.arm64.machine import Machine
from tlbkit.callers import caller
from tlbkit.explore.search import explore
from tlbkit.linux.kernel.kernel import PARTS
from tlbkit.linux.kernel.locking import SpinLock, kind_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from types import FrameType

    from tlbkit.arm64.events import Event
    from tlbkit.explore.scheduler import World
    from tlbkit.lab.gallery.meetings import Meeting

KERNEL: Final = ("tlbkit.linux.", "tlbkit.patches.")
_FLUSHES: Final = "tlbkit.linux.arch.arm64.include.asm.tlbflush"
_HELPERS: Final = (
    "tlbkit.linux.kernel.locking",
    "tlbkit.linux.kernel.rcu",
    "tlbkit.linux.kernel.smp",
    "tlbkit.linux.mm.mmu_notifier",
)
_ON_BEHALF: Final = frozenset(
    {
        "get_locked_pte",
        "map_pte",
        "page_vma_mapped_walk",
        "pmd_trans_huge_lock",
        "pmd_trans_huge_lock_",
        "pte_offset_map_lock",
        "rmap_walk",
        "tlbi_sync_s1ish_",
    }
)
"""Functions that lock or wait for whoever calls them, and are not named themselves."""

_KINDS: Final = frozenset(
    {"tlbi", "dsb", "isb", "ipi", "lock", "irq", "call_rcu", "store"}
)
_ASKING: Final = frozenset({Machine.holds.__name__, Machine.sees.__name__})
_PREEMPTIONS: Final = 1


class Passed(NamedTuple):
    """What one meeting comes by.

    Attributes:
        points: The points.
        steps: How many steps the search took that found them.
    """

    points: frozenset[str]
    steps: int


def census(
    meetings: Mapping[str, Meeting], passed: Iterable[Passed] | None = None
) -> dict[str, tuple[str, ...]]:
    """Return every point that the meetings come by, each with the names of those.

    Each is looked through up to one preemption; those that were quickly looked through
    are named first.

    Args:
        meetings: By their names.
        passed: Of each, if they were looked through already; see `points_of`.
    """
    if passed is None:
        passed = map(points_of, meetings.values())
    found: dict[str, list[str]] = {}
    looked = sorted(zip(meetings, passed, strict=True), key=lambda one: one[1].steps)
    for name, (points, _) in looked:
        for point in points:
            found.setdefault(point, []).append(name)
    return {point: tuple(found[point]) for point in sorted(found)}


def checks() -> frozenset[str]:
    """Return every check in the kernel's code that can be taken out."""
    return frozenset(
        f"{check} in {code.co_name}"
        for part in PARTS.values()
        for owner in part.__mro__
        for member in vars(owner).values()
        for code in _codes(member)
        for check in _asked(code)
    )


def _codes(member: object) -> Iterator[CodeType]:
    """Yield the code of a method, and all code in it."""
    if isinstance(member, staticmethod | classmethod):
        member = member.__func__
    if not isinstance(member, FunctionType):
        return
    codes = [member.__code__]
    while codes:
        code = codes.pop()
        yield code
        codes += [one for one in code.co_consts if isinstance(one, CodeType)]


def _asked(code: CodeType) -> Iterator[str]:
    """Yield the texts that some code gives to `Machine.holds` and `Machine.sees`."""
    if _ASKING.isdisjoint(code.co_names):
        return
    asking = False
    for one in dis.get_instructions(code):
        if one.argval in _ASKING:
            asking = True
        elif asking and isinstance(one.argval, str) and one.opname == "LOAD_CONST":
            yield one.argval
            asking = False


def points_of(meeting: Meeting) -> Passed:
    """Return the points that one meeting comes by."""
    points: set[str] = set()

    class Asked(Machine):
        """A machine that notes which checks have failed."""

        def holds(self, check: str, condition: object) -> bool:
            if not condition:
                points.add(f"{check} in {caller().f_code.co_name}")
            return bool(condition)

        def sees(self, check: str, condition: object) -> bool:
            if condition:
                points.add(f"{check} in {caller().f_code.co_name}")
            return bool(condition)

    sections = _Sections()

    def hear(event: Event) -> None:
        frame = caller()
        points.update(_named(event, frame))
        points.update(sections.movable(event, frame))

    scenario = meeting.scenario(machine=Asked)

    def make() -> World:
        nonlocal sections
        sections = _Sections()
        world = scenario()
        events = world.machine.events
        events.listen(hear, _KINDS)

        def finish() -> None:
            events.leave(hear)  # what comes now is no part of the meeting
            world.finish()

        # The points are to outlive each run: the world must not be set back.
        return dataclasses.replace(world, finish=finish, again=False)

    search = explore(make, preemptions=_PREEMPTIONS, loads=True)
    return Passed(frozenset(points), search.steps)


class _Sections:
    """What each CPU does while it has spin locks: which flush can be moved there."""

    def __init__(self) -> None:
        self._locks: dict[int, int] = defaultdict(int)
        self._stored: dict[int, set[str]] = defaultdict(set)

    def movable(self, event: Event, frame: FrameType | None) -> Iterator[str]:
        """Yield the names under which a flush can be moved; note what comes before."""
        cpu = event.cpu
        match event.kind:
            case "lock" if isinstance(event.what, SpinLock):
                self._locks[cpu] += 1 if event.new == "acquired" else -1
                if not self._locks[cpu]:
                    self._stored[cpu].clear()
            case "store" if self._locks[cpu]:
                self._stored[cpu].update(name for _, name in _places(frame))
            case "tlbi" if self._locks[cpu]:
                places = _places(frame)
                wants = next((name for at, name in places if at != _FLUSHES), "")
                if wants:
                    yield f"{AFTER_UNLOCK} in {wants}"
                if wants in self._stored[cpu]:
                    yield f"{BEFORE_STORE} in {wants}"


def _named(event: Event, frame: FrameType | None) -> Iterator[str]:
    """Yield the names under which what an event tells of can be taken out."""
    places = _places(frame)
    module, function = next(places, ("", ""))
    match event.kind:
        case "tlbi":
            yield f"tlbi {event.what.name} in {function}"
            while module == _FLUSHES:
                module, function = next(places, ("", ""))
            if function:
                yield f"tlbi in {function}"
        case "dsb":
            yield f"dsb {event.what} in {function}"
        case "lock" if event.new != "released":
            yield f"lock {kind_of(event.what.name)} in {function}"
        case "ipi":
            yield f"ipi in {function}"
            for _, caller in islice(places, 1):
                yield f"ipi in {caller}"
        case "irq" if event.what == "off":
            yield f"irq in {function}"
        case "isb" | "call_rcu":
            yield f"{event.kind} in {function}"


def _places(frame: FrameType | None) -> Iterator[tuple[str, str]]:
    """Yield module and name of each kernel function at work, the innermost first."""
    while frame is not None:
        module, name = frame.f_globals["__name__"], frame.f_code.co_name
        if (
            module.startswith(KERNEL)
            and module not in _HELPERS
            and name not in _ON_BEHALF
            and not name.startswith(("_", "<"))
        ):
            yield module, name
        frame = frame.f_back
