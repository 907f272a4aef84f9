"""The game: a level is a meeting on a kernel that lacks something, played by hand.

A level is won if the harm that it asks for happens, and only then. All its states are
made at once (`Level.tree`), so that the shortest win, or that there is none, is known
and not believed.
"""

from __future__ import annotations

import linecache
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tlbkit.explore.graph import graph
from tlbkit.lab.gallery import harm
from tlbkit.lab.gallery.meetings import Meeting
from tlbkit.lab.gallery.programme import PROGRAMME
from tlbkit.lab.gallery.walkers import BASE, sharers_on
from tlbkit.lab.recorded import mapped_pages
from tlbkit.linux.kernel.kernel import Kernel
from tlbkit.observe.calls import is_kernel, kernel_file
from tlbkit.observe.recorder import Recorder, snapshot
from tlbkit.observe.watched import Watched
from tlbkit.patches import kernels

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import FrameType

    from tlbkit.arm64.events import Event
    from tlbkit.arm64.machine import Machine
    from tlbkit.errors import TlbkitError
    from tlbkit.explore.graph import Node
    from tlbkit.explore.scheduler import Flow, Run, World
    from tlbkit.lab.gallery.meetings import Stage
    from tlbkit.observe.recording import Key, Place, Step

STEPS: Final = frozenset(
    {"dsb", "fault", "free", "ipi", "read", "store", "tlbi", "write"}
)
"""The events at which the reader decides who goes on."""

MOST: Final = 400
"""So many states a level has at most: it is to be loaded when it is opened."""


PAGES: Final = 16
"""So many pages of one mapping are shown at most."""


class Where(NamedTuple):
    """Where a thread stands in the kernel.

    Attributes:
        function: The innermost kernel function at work; "" in user space.
        file: The kernel file that it stands for.
        line: The line of the model that is being executed.
    """

    function: str = ""
    file: str = ""
    line: str = ""


def _unshare_and_read(stage: Stage) -> None:
    """A thread reads through a table that its process has let go of."""
    scene = sharers_on(stage.kernel, (2, 1))
    last = scene.processes[-1]
    thread = last.thread(0)
    thread.read(BASE)
    stage.reader(thread, BASE)
    stage.flow("munmap", 1, lambda: scene.leave(last, 1))
    stage.flow("reuse of the table", 2, scene.reuse)


MEETINGS: Final = PROGRAMME | {
    one.name: one
    for one in (
        Meeting(
            "unshare and read",
            "munmap of a shared table while a thread reads, and the table's next use",
            _unshare_and_read,
            "book/commits/hugetlb-unshare.md",
            cpus=3,
        ),
    )
}
"""Whom levels let meet: those of the gallery, and some that are too long for it."""


class Seen(NamedTuple):
    """What there is to see in a state.

    Attributes:
        state: Of the machine, by the keys of `tlbkit.observe.recording`.
        where: Where each thread stands.
    """

    state: Mapping[Key, Any]
    where: tuple[Where, ...]


@dataclass(frozen=True)
class Tree:
    """All states of a level.

    Attributes:
        flows: The threads.
        place: The machine, and the pages that are watched.
        nodes: The states; the first is the start. What an edge tells are `Step` values.
        wins: The numbers of the states in which the level is won.
        path: The shortest way to one of those: who goes on, each time.
    """

    flows: tuple[Flow, ...]
    place: Place
    nodes: tuple[Node, ...]
    wins: frozenset[int]
    path: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Level:
    """One level.

    Attributes:
        name: Short, for addresses.
        title: What it is about.
        aim: The harm that is asked for, as an instruction.
        teaches: The rule that it teaches, in a sentence.
        meeting: Who meets.
        taken_out: What the kernel lacks.
        wanted: Kinds of harm that win it.
        word: What must be read or written there; 0 if any word will do.
        reason: Why it cannot be won; "" if it can.
        hint: What to look at.
        steps: Events at which the reader decides.
        loads: In functions whose names begin so, each load of a page-table word is such
            a place too.
        more: How much more often threads use memory than the meeting asks for.
        reverted: Hash of a commit that the kernel is without.
    """

    name: str
    title: str
    aim: str
    teaches: str
    meeting: str
    taken_out: tuple[str, ...] = ()
    wanted: frozenset[str] = frozenset({harm.READ, harm.WRITE})
    word: int = 0
    reason: str = ""
    hint: str = ""
    steps: frozenset[str] = field(default=STEPS)
    loads: str = ""
    more: int = 0
    reverted: str = ""

    def boot(self, machine: Machine) -> Kernel:
        """Start the level's kernel."""
        if self.reverted:
            return kernels.Kernel(machine, "fixed", {self.reverted})
        return Kernel(machine)

    def won(self, error: TlbkitError) -> bool:
        """Tell whether what ended a run is the harm that was asked for."""
        if self.word and getattr(error, "word", 0) != self.word:
            return False
        return harm.kind(error) in self.wanted

    def tree(self) -> Tree:
        """Return all its states.

        Errors:
            GraphTooLargeError: There are more than `MOST`.
        """
        scenario = MEETINGS[self.meeting].scenario(
            self.taken_out,
            rules=harm.Witness,
            more=self.more,
            leave=False,
            boot=self.boot,
        )
        camera = _Camera()

        def make() -> World:
            world = scenario()
            camera.begin(world.machine)
            return world

        made = graph(
            make,
            self.title,
            look=camera.look,
            tell=camera.tell,
            kinds=self.steps,
            loads=self.loads,
            most=MOST,
        )
        wins = frozenset(
            number
            for number, node in enumerate(made.nodes)
            if node.error is not None and self.won(node.error)
        )
        return Tree(
            made.flows, camera.place, made.nodes, wins, _shortest(made.nodes, wins)
        )


class _Camera:
    """Looks at one world after the other, always at the same pages."""

    def __init__(self) -> None:
        self._pages: tuple[int, ...] | None = None
        self._recorder: Recorder
        self.place: Place

    def begin(self, machine: Machine) -> None:
        """Begin with a new world."""
        kernel = machine.software
        assert isinstance(kernel, Kernel)
        if self._pages is None:
            self._pages = mapped_pages(kernel, PAGES)
        self._recorder = Recorder(machine, self._pages)
        machine.events.listen(self._recorder.listen)

    def tell(self, _machine: Machine, _event: Event) -> Step:
        """Return the step that an event is."""
        return self._recorder.last

    def look(self, run: Run) -> Seen:
        """Return what there is to see where a run stands."""
        machine = run.world.machine
        self.place = self._recorder.place
        state = snapshot(machine)
        watched = Watched(machine, self.place.pages)
        for cpu in machine.cpus:
            if cpu.current is not None:
                state.update(watched.meet(cpu.current))
        for number, flow in enumerate(run.world.flows):
            for lock in run.holds(number):
                holders = state.get(("lock", lock), ())
                state["lock", lock] = (*holders, (flow.cpu, "held"))
        where = tuple(
            _where(run.frame(number)) if number not in run.done else Where()
            for number, _ in enumerate(run.world.flows)
        )
        return Seen(state, where)


def _where(frame: FrameType | None) -> Where:
    """Return the innermost kernel function at work in a frame or those above it."""
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        name = frame.f_code.co_name
        if is_kernel(module, name) and kernel_file(module):
            line = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
            return Where(name, kernel_file(module), line.strip())
        frame = frame.f_back
    return Where()


def _shortest(nodes: tuple[Node, ...], wins: frozenset[int]) -> tuple[int, ...]:
    """Return the shortest way from the start to a state in which a level is won."""
    ways: dict[int, tuple[int, ...]] = {0: ()}
    waiting = deque([0])
    while waiting:
        number = waiting.popleft()
        if number in wins:
            return ways[number]
        for edge in nodes[number].next:
            if edge.node not in ways:
                ways[edge.node] = (*ways[number], edge.flow)
                waiting.append(edge.node)
    return ()
