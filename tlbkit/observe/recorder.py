"""The listener that turns events into a recording."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tlbkit.arm64.cached import CachedTable
from tlbkit.arm64.machine import machine_of
from tlbkit.arm64.tlbi import OPERATIONS
from tlbkit.callers import caller
from tlbkit.observe.calls import is_kernel
from tlbkit.observe.recording import Change, Group, Place, Recording, Step
from tlbkit.observe.timing import Clocks
from tlbkit.observe.watched import Watched
from tlbkit.observe.words import describe, meaning

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import CodeType, FrameType

    from tlbkit.arm64.cached import Entry
    from tlbkit.arm64.events import Event
    from tlbkit.arm64.machine import Machine, OnMachine
    from tlbkit.observe.recording import Key

_WALK_CACHE = "walk cache"


def snapshot(machine: Machine) -> dict[Key, Any]:
    """Return the state of a machine now, except its memory and its locks.

    The keys are those of `tlbkit.observe.recording`.
    """
    state: dict[Key, Any] = {}
    for cpu in machine.cpus:
        for array in cpu.tlb.arrays:
            for entry in array:
                state[_entry_key(cpu.number, array.name, entry)] = entry
        for asid, table in cpu.tlb.walk.items():
            state[_table_key(cpu.number, CachedTable(asid, table))] = table
        if cpu.in_flight:
            state["in flight", cpu.number] = tuple(
                (operation.name, operand) for operation, operand in cpu.in_flight
            )
        if not cpu.irqs_on:
            state["irqs off", cpu.number] = True
    return state


def _entry_key(cpu: int, array: str, entry: Entry) -> Key:
    return "tlb", cpu, array, entry.va, entry.shift, entry.asid


def _table_key(cpu: int, cached: CachedTable) -> Key:
    table = cached.table
    return "tlb", cpu, _WALK_CACHE, table.va, table.shift, cached.asid


class Recorder:
    """A recording in the making; `recording` makes one and lets it listen.

    Args:
        machine: What to record.
        pages: Addresses of pages, of which the tables are watched.

    Attributes:
        place: The machine, and what is watched.
    """

    def __init__(self, machine: Machine, pages: Iterable[int] = ()) -> None:
        self._lpa2 = machine.model.lpa2
        self._page_shift = machine.model.page_shift
        self._start = snapshot(machine)
        watched = tuple(pages)
        self.place = Place(
            len(machine.cpus), self._page_shift, self._lpa2, tuple(watched)
        )
        self._watched = Watched(machine, watched)
        for cpu in machine.cpus:
            if cpu.current is not None:
                self._start.update(self._watched.meet(cpu.current))
        self._clocks = Clocks(machine)
        self._costs = self._clocks.handlers()
        self._now = self._start.copy()
        self._frames: dict[int, set[int]] = {}
        self._labels: dict[Any, str] = {}
        self._steps: list[Step] = []
        self._tree = _Tree()

    def finish(self) -> Recording:
        """Return what was recorded so far."""
        return Recording(
            self._start.copy(), tuple(self._steps), self._tree.parts(), self.place
        )

    @property
    def last(self) -> Step:
        """The step that was recorded last."""
        return self._steps[-1]

    def stop(self) -> None:
        """Let go of everything that belongs to the running program."""
        self._tree.stop()
        self._labels.clear()

    def listen(self, event: Event) -> None:
        """Keep one event as a step."""
        changes = tuple(self._changes(event))
        for key, _, after in changes:
            self._now[key] = after
        text = describe(event, lpa2=self._lpa2)
        self._tree.add(len(self._steps), caller())
        why = ": ".join(part for part in (event.why, meaning(event)) if part)
        self._steps.append(
            Step(
                event.cpu,
                event.kind,
                text,
                why,
                changes,
                self._about(event),
                self._time(event),
            )
        )

    def _about(self, event: Event) -> Any:
        """Return what an event was about, as a value; see `Step`."""
        match event.kind:
            case "read" | "write" | "execute":
                return event.what.va
            case "walk" | "fault" | "spurious" | "ipi" | "dsb":
                return event.what
            case "tlbi":
                return event.what.name, event.new
            case "lock":
                return self._label(event.what)
        return None

    def _time(self, event: Event) -> float:
        """Return the time that an event takes, when all before it are done."""
        pay = self._costs.get(event.kind)
        if pay is None:
            return 0.0
        begun = self._clocks.take_turn(event.cpu)
        pay(event)
        return round(self._clocks.take_turn(event.cpu) - begun, 1)

    def _changes(self, event: Event) -> Iterator[Change]:
        """Yield what an event changes."""
        cpu = event.cpu
        match event.kind:
            case "store" | "hardware":
                yield self._word(event.what, event.old, event.new)
                yield from self._told(self._watched.stored(event.what))
            case "write":
                yield self._word(event.what.pa, event.old, event.new)
                yield from self._told(self._watched.stored(event.what.pa))
            case "alloc":
                yield from self._forget(event.what, event.new)
            case "free":
                yield from self._told(self._watched.freed(event.what))
            case "fill":
                yield self._cache(cpu, event.new, event.what, filled=True)
            case "drop":
                yield self._cache(cpu, event.old, event.what, filled=False)
            case "tlbi":
                key = ("in flight", cpu)
                issued = (event.what.name, event.new)
                yield self._change(key, None, (*(self._now.get(key) or ()), issued))
            case "dsb":
                yield from self._complete(cpu, event.what)
            case "lock":
                yield self._lock(cpu, event.what, event.new)
            case "switch":
                before = None if event.old is None else event.old.asid
                yield self._change(("asid", cpu), before, event.new.asid)
                yield from self._told(self._watched.meet(event.new))
            case "irq":
                off = True if event.what == "off" else None
                yield self._change(("irqs off", cpu), None, off)

    def _change(self, key: Key, before: Any, after: Any) -> Change:
        """Return the change of *key*; *before* counts only where it was not known."""
        if key not in self._now:
            self._now[key] = before
            if before is not None:
                self._start[key] = before
        return Change(key, self._now[key], after)

    def _told(self, said: Iterable[tuple[Key, Any]]) -> Iterator[Change]:
        for key, value in said:
            yield self._change(key, None, value)

    def _word(self, pa: int, old: int, new: int) -> Change:
        self._frames.setdefault(pa >> self._page_shift, set()).add(pa)
        return self._change(("word", pa), old, new)

    def _forget(self, pfn: int, order: int) -> Iterator[Change]:
        """Forget the words of frames that get a new owner, who clears or copies."""
        for frame in range(pfn, pfn + (1 << order)):
            for pa in sorted(self._frames.pop(frame, ())):
                yield self._change(("word", pa), None, None)

    def _cache(
        self, cpu: int, array: str, what: Entry | CachedTable, *, filled: bool
    ) -> Change:
        key: Key
        value: Any
        if isinstance(what, CachedTable):
            key, value = _table_key(cpu, what), what.table
        else:
            key, value = _entry_key(cpu, array, what), what
        return self._change(key, None, value if filled else None)

    def _complete(self, cpu: int, kind: str) -> Iterator[Change]:
        """Take out of flight what a DSB waits for."""
        key = ("in flight", cpu)
        flying = self._now.get(key)
        if not flying or kind.endswith(("st", "ld")):
            return
        left = tuple(
            one for one in flying if kind == "nsh" and OPERATIONS[one[0]].broadcast
        )
        yield self._change(key, None, left or None)

    def _lock(self, cpu: int, lock: Any, how: str) -> Change:
        key = ("lock", self._label(lock))
        held = self._now.get(key) or ()
        if how != "released":
            return self._change(key, None, (*held, (cpu, how)))
        held = held or ((cpu, "held"),)  # since before the recording
        left = tuple(holder for holder in held if holder[0] != cpu)
        return self._change(key, held, left or None)

    def _label(self, lock: Any) -> str:
        """Return the name of a lock, told apart from others of that name."""
        label = self._labels.get(lock)
        if label is None:
            taken = set(self._labels.values())
            label, number = lock.name, 2
            while label in taken:
                label, number = f"{lock.name} ({number})", number + 1
            self._labels[lock] = label
        return label


@dataclass(slots=True)
class _OpenGroup:
    """A group that may still grow."""

    name: str
    parts: list[int | _OpenGroup] = field(default_factory=list)

    def close(self) -> Group:
        parts = _close(self.parts)
        first, last = parts[0], parts[-1]
        return Group(
            self.name,
            first if isinstance(first, int) else first.first,
            last if isinstance(last, int) else last.last,
            parts,
        )


def _close(parts: list[int | _OpenGroup]) -> tuple[int | Group, ...]:
    return tuple(p if isinstance(p, int) else p.close() for p in parts)


class _Tree:
    """The groups of a recording in the making.

    Two steps are in one group if the very same activation of a function was at work:
    the stack is read at each step, and the frames of the last one are kept, so that no
    other frame can be taken for one of them.
    """

    __slots__ = ("_names", "_open", "_top")

    def __init__(self) -> None:
        self._top: list[int | _OpenGroup] = []
        self._open: list[tuple[FrameType, _OpenGroup]] = []
        self._names: dict[CodeType, str] = {}

    def parts(self) -> tuple[int | Group, ...]:
        """Return all steps and groups of the top level."""
        return _close(self._top)

    def stop(self) -> None:
        """Let go of the frames; every group is closed by that."""
        self._open.clear()

    def add(self, index: int, frame: FrameType | None) -> None:
        """Put a step where *frame*, from which it was emitted, says it belongs."""
        chain: list[tuple[FrameType, str]] = []
        while frame is not None:
            name = self._name(frame)
            if name:
                chain.append((frame, name))
            frame = frame.f_back
        chain.reverse()
        common = 0
        for (here, _), (there, _) in zip(chain, self._open, strict=False):
            if here is not there:
                break
            common += 1
        del self._open[common:]
        for here, name in chain[common:]:
            group = _OpenGroup(name)
            self._innermost().append(group)
            self._open.append((here, group))
        self._innermost().append(index)

    def _innermost(self) -> list[int | _OpenGroup]:
        return self._open[-1][1].parts if self._open else self._top

    def _name(self, frame: FrameType) -> str:
        """Return the name of the kernel function that *frame* runs, or nothing."""
        code = frame.f_code
        name = self._names.get(code)
        if name is None:
            module = frame.f_globals.get("__name__", "")
            name = code.co_name if is_kernel(module, code.co_name) else ""
            self._names[code] = name
        return name


@contextmanager
def recording(
    watched: Machine | OnMachine, pages: Iterable[int] = ()
) -> Iterator[Recorder]:
    """Record what a machine does from here to the end of the ``with`` block.

    Args:
        watched: The machine, or the kernel that runs on it.
        pages: Addresses of pages to watch: what the tables of each address space say of
            them becomes part of the state.

    >>> from tlbkit.arm64.machine import Machine
    >>> machine = Machine(cpus=2)
    >>> with recording(machine) as recorder:
    ...     machine.cpu(0).tlbi("VMALLE1IS")
    ...     machine.cpu(0).dsb("ish")
    >>> tape = recorder.finish()
    >>> print(tape.outline())
    0  CPU 0: TLBI VMALLE1IS
    1  CPU 0: dsb ish
    >>> tape.state(1)["in flight", 0]
    (('VMALLE1IS', 0),)
    """
    machine = machine_of(watched)
    recorder = Recorder(machine, pages)
    machine.events.listen(recorder.listen)
    try:
        yield recorder
    finally:
        machine.events.leave(recorder.listen)
        recorder.stop()


def record(
    machine: Machine, operation: Callable[[], object], pages: Iterable[int] = ()
) -> Recording:
    """Do *operation*, and return what *machine* did meanwhile as a recording.

    Args:
        machine: What to record.
        operation: What to do.
        pages: As `recording`.

    >>> from tlbkit.arm64.machine import Machine
    >>> machine = Machine(cpus=2)
    >>> tape = record(machine, lambda: machine.cpu(0).dsb("ish"))
    >>> print(tape.outline())
    0  CPU 0: dsb ish
    """
    with recording(machine, pages) as recorder:
        operation()
    return recorder.finish()
