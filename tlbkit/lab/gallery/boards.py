"""Boards for readers who are the scheduler: all schedules of a few small meetings.

A board is a `tlbkit.explore.graph.Graph`. It shows, in each state, what the table says
of the pages that the meeting is about, what each TLB holds of them, which TLBIs nobody
has waited for yet, and what is in memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tlbkit.arm64.fault import Fault
from tlbkit.arm64.permission import EL0_READ, EL0_WRITE
from tlbkit.arm64.walk import walk
from tlbkit.errors import InputError
from tlbkit.explore.graph import Graph, graph
from tlbkit.lab.gallery.meetings import MEETINGS, PAGE
from tlbkit.observe.words import describe

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tlbkit.arm64.events import Event
    from tlbkit.arm64.leaf import Leaf
    from tlbkit.arm64.machine import Machine
    from tlbkit.explore.scheduler import Run

TOP_PAGE: Final = 0xFFFF_F7FF_F000
"""Where the first page of a meeting is mapped; the next one is below it."""

STEPS: Final = frozenset(
    {"alloc", "dsb", "fault", "free", "lock", "read", "store", "tlbi", "write"}
)
"""The events that a reader takes one at a time."""


@dataclass(frozen=True, slots=True)
class Board:
    """One meeting as a board.

    Attributes:
        name: For links.
        title: What the reader is asked to do.
        meeting: Name of the meeting.
        taken_out: What is taken out.
        pages: How many pages are shown, from `TOP_PAGE` down.
    """

    name: str
    title: str
    meeting: str
    taken_out: tuple[str, ...] = ()
    pages: int = 1

    def graph(self) -> Graph:
        """Return all its states."""
        scenario = MEETINGS[self.meeting].scenario(self.taken_out)
        return graph(scenario, self.title, look=self.look, tell=_tell, kinds=STEPS)

    def look(self, run: Run) -> dict[str, str]:
        """Return what there is to see."""
        machine = run.world.machine
        pages = [TOP_PAGE - n * PAGE for n in range(self.pages)]
        frames = set[int]()
        shown = {"page table": "; ".join(_mapped(machine, page) for page in pages)}
        for cpu in machine.cpus:
            held = {entry for entry in cpu.tlb.entries() if entry.va in pages}
            frames |= {entry.pa for entry in held}
            shown[f"CPU {cpu.number}'s TLB"] = _list(
                f"{entry.va:#x} → {_frame(entry.pa)}, {_rights(entry.leaf)}"
                for entry in sorted(held)
            )
            shown[f"CPU {cpu.number} in flight"] = _list(
                operation.name for operation, _ in cpu.in_flight
            )
        for page in pages:
            found = walk(machine.cpus[0].regime, machine.memory, page)
            if not isinstance(found, Fault):
                frames.add(found.pa)
        shown["memory"] = _list(
            f"{_frame(pa)} holds {_words(machine, pa)}" for pa in sorted(frames)
        )
        return shown


BOARDS: Final = {
    board.name: board
    for board in (
        Board(
            "protect", "Let a write through after mprotect(r) has returned", "protect"
        ),
        Board(
            "protect-no-dsb",
            "Let a write through after mprotect(r) has returned: no DSB",
            "protect",
            ("dsb ish in flush_tlb_range_",),
        ),
        Board("copy", "Let CPU 1 read the old page after the copy", "copy"),
        Board(
            "copy-local",
            "Let CPU 1 read the old page after the copy: no broadcast",
            "copy",
            ("tlbi in ptep_clear_flush",),
        ),
        Board("move", "Lose a write to a page that moves", "move source", (), 2),
        Board(
            "move-no-flush",
            "Lose a write to a page that moves: no flush",
            "move source",
            ("tlbi in move_present_ptes",),
            2,
        ),
    )
}
"""Every board, by its name."""


def find(name: str) -> Board:
    """Return the board called *name*; `InputError` says which there are."""
    try:
        return BOARDS[name]
    except KeyError:
        known = ", ".join(BOARDS)
        raise InputError(f"no board is called {name!r}; known: {known}") from None


def _tell(machine: Machine, event: Event) -> str:
    if event.kind not in STEPS:
        return ""
    return describe(event, lpa2=machine.model.lpa2)


def _mapped(machine: Machine, page: int) -> str:
    """Say what the tables say of a page."""
    found = walk(machine.cpus[0].regime, machine.memory, page)
    if isinstance(found, Fault):
        return f"{page:#x}: nothing"
    return f"{page:#x} → {_frame(found.pa)}, {_rights(found.leaf)}"


def _rights(leaf: Leaf) -> str:
    if leaf.permissions & EL0_WRITE:
        return "read and write"
    if leaf.permissions_dirty & EL0_WRITE:
        return "read, and write once marked dirty"
    return "read" if leaf.permissions & EL0_READ else "nothing"


def _frame(pa: int) -> str:
    return f"frame {pa >> 12:#x}"


def _words(machine: Machine, pa: int) -> str:
    return ", ".join(hex(machine.memory.read(pa + 8 * n)) for n in (0, 1))


def _list(texts: Iterable[str]) -> str:
    return "; ".join(texts) or "nothing"
