"""What each step touches, so that steps that cannot disturb each other are known.

While `watching` is in force, every access to what CPUs share is noted: words and frames
of memory, TLBs, and the fields of the kernel's objects. That is done by putting
properties in the place of the slots of their classes, so that no kernel code is written
for it, and none is forgotten. A field that is never assigned outside a constructor, and
holds no container, is a constant and is left alone.

Three kinds of access are told apart. Two reads commute, and so do two updates, such as
two readers that enter a list of readers; everything else conflicts.
"""

from __future__ import annotations

import dis
import sys
from array import array
from collections import Counter, deque
from contextlib import contextmanager
from functools import cache
from types import CodeType, FunctionType, MemberDescriptorType
from typing import TYPE_CHECKING, Any, Final

from tlbkit.arm64.cached import CachedTable
from tlbkit.arm64.cpu import Cpu
from tlbkit.arm64.interconnect import Interconnect
from tlbkit.arm64.memory import PhysicalMemory
from tlbkit.explore.compiled import check_plain
from tlbkit.linux.kernel.locking import RwSemaphore
from tlbkit.linux.mm.page_alloc import PageAlloc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tlbkit.arm64.events import Event
    from tlbkit.arm64.tlb import Tlb

READ: Final = 1
UPDATE: Final = 2
WRITE: Final = 4

_CONTAINERS = (list, dict, set, bytearray, array, Counter, deque)
_SETUP = -1

Resource = int
"""One thing that can be touched, by a number that is the same in each run."""


def conflict(one: int, other: int) -> bool:
    """Tell whether two kinds of access, or unions of kinds, cannot change places.

    >>> conflict(READ, READ), conflict(UPDATE, UPDATE), conflict(READ, UPDATE)
    (False, False, True)
    """
    return not (one == other == READ or one == other == UPDATE)


class Notes:
    """What is touched, noted for the flow that is at work.

    Attributes:
        touched: The accesses of the step that is being made.
        on: Whether they count; what only looks on from outside does not.
        passing: Whether a part of a run goes by that is known from another run.
        rules: Whether rules are to be kept that ask at an access whether the tables
            still say what the TLB answers: then a hit reads the descriptor too.
        page_shift: log2 of the bytes of a frame.
        slots: The slots behind the properties that note who uses them.
        words: The numbers of a word and of its frame, by its address.
    """

    def __init__(self) -> None:
        self.touched: dict[Resource, int] = {}
        self.on = False
        self.passing = False
        self.rules = False
        self.page_shift = 12
        self.slots: dict[property, MemberDescriptorType] = {}
        self.words: dict[int, tuple[Resource, Resource]] = {}
        self._numbers: dict[Any, Resource] = {}  # kept from run to run
        self._names: dict[int, tuple[int, int]] = {}
        self._alive: list[object] = []  # so that no two objects ever share an id
        self._made: Counter[int] = Counter()
        self._actor = _SETUP
        self._containers: list[tuple[Resource, Any, Any, int]] = []
        self._seen: set[Resource] = set()
        self._known: list[tuple[dict[int, Resource], int]] = []
        self._kept: dict[int, int] = {}  # how many were named before the run, by maker

    def begin(self) -> None:
        """Forget the objects of the last run; a new world is about to be made."""
        self._names.clear()
        self._alive.clear()
        self._made.clear()
        self._kept.clear()
        self.words.clear()  # the next world may have frames of another size
        self._forget()

    def keep(self) -> None:
        """Remember the names of the objects of a world that is made; see `again`."""
        self._kept = dict(self._made)

    def again(self) -> None:
        """Forget the objects of the last run, but not those of its world."""
        kept = self._kept.get(_SETUP, 0)
        for thing in self._alive[kept:]:
            del self._names[id(thing)]
        del self._alive[kept:]
        self._made.clear()
        self._made.update(self._kept)
        self._forget()

    def _forget(self) -> None:
        """Forget which fields the objects have that have no name any more."""
        left = []
        for field in self._known:
            known, key = field
            if key in self._names:
                left.append(field)
            else:
                del known[key]
        self._known = left
        self._actor = _SETUP
        self.take()

    def resume(self, flow: int) -> None:
        """Note from now on for *flow*."""
        self._actor = flow
        self.passing = False
        self.on = True

    def pass_over(self, flow: int) -> None:
        """Note nothing of what *flow* does from now on, but who makes what."""
        self._actor = flow
        self.passing = True

    def take(self) -> dict[Resource, int]:
        """Return what was touched since the last call, and stop to note."""
        touched = self.touched
        for resource, value, copy, how in self._containers:
            if value != copy or _deep(value) != copy:
                touched[resource] = touched.get(resource, 0) | how
            else:
                touched[resource] = touched.get(resource, 0) | READ
        self._containers.clear()
        self._seen.clear()
        self.touched = {}
        self.on = False
        return touched

    def note(self, resource: Resource, how: int) -> None:
        """Note one access."""
        if self.on:
            self.touched[resource] = self.touched.get(resource, 0) | how

    def number(self, *name: Any) -> Resource:
        """Return the number of what has this name; names hold numbers and texts."""
        number = self._numbers.get(name)
        if number is None:
            number = self._numbers[name] = len(self._numbers) + 1
        return number

    def place(self, thing: object, field: str, known: dict[int, Resource]) -> Resource:
        """Return the number of a field of an object, and put it into *known*."""
        key = id(thing)
        number = known[key] = self.number("field", *self.name(thing), field)
        self._known.append((known, key))
        return number

    def name(self, thing: object) -> tuple[int, int]:
        """Return the name of an object: who made it, and as which of its own.

        It gets one with its first field, whether or not that is noted. So the name
        depends on the history of the maker alone.
        """
        key = id(thing)
        name = self._names.get(key)
        if name is None:
            self._made[self._actor] += 1
            name = self._names[key] = self._actor, self._made[self._actor]
            self._alive.append(thing)
        return name

    def container(self, resource: Resource, value: Any, how: int) -> None:
        """Note that a container was looked at; the end of the step tells if it changed.

        Args:
            resource: Its field.
            value: The container.
            how: What a change is.
        """
        if resource not in self._seen:
            self._seen.add(resource)
            self._containers.append((resource, value, _deep(value), how))

    def hear(self, event: Event) -> None:
        """Note what an event tells of TLBs and frames; then others may look on."""
        if self.passing:
            return
        self.on = True
        self._hear(event)
        self.on = False

    def _hear(self, event: Event) -> None:
        match event.kind:
            case "fill":
                self.note(self.number("tlb", event.cpu), WRITE)
                self._translation(event.what, READ)
            case "drop":
                self.note(self.number("tlb", event.cpu), WRITE)
                self._translation(event.what, WRITE)
            case "alloc" | "free":
                order = event.new if event.kind == "alloc" else event.old
                for pfn in range(event.what, event.what + (1 << order)):
                    self.note(self.number("pfn", pfn), WRITE)

    def _translation(self, what: Any, how: int) -> None:
        """Note the descriptor and the frame that a cached translation speaks of."""
        if isinstance(what, CachedTable):
            self.note(self.number("word", what.table.descriptor_pa), READ)
            return
        self.note(self.number("word", what.descriptor_pa), how)
        self.note(self.number("pfn", what.pa >> self.page_shift), how)


def _deep(value: Any) -> Any:
    """Return a copy of a container, and of the lists in it."""
    if isinstance(value, list):
        return [list(one) if type(one) is list else one for one in value]
    return value.copy() if hasattr(value, "copy") else value[:]


@contextmanager
def watching() -> Iterator[Notes]:
    """Note accesses until the end of the ``with`` block.

    A world that is to be watched must be made within the block.

    Raises:
        CompiledError: The machine is compiled.
    """
    check_plain()
    notes = Notes()
    undo: list[tuple[type, str, Any]] = []

    def replace(owner: type, name: str, new: Any) -> None:
        undo.append((owner, name, owner.__dict__[name]))
        setattr(owner, name, new)

    changing = _assigned(len(sys.modules))
    for owner, name, slot in _slots():
        watched = _watched(notes, owner, slot, changes=name in changing)
        notes.slots[watched] = slot
        replace(owner, name, watched)
    _watch_memory(notes, replace)
    _watch_machine(notes, replace)
    try:
        yield notes
    finally:
        for owner, name, old in reversed(undo):
            setattr(owner, name, old)


_UNWATCHED: Final[dict[type, set[str]]] = {PageAlloc: {"_folios", "_free"}}
"""Fields whose contents are told by events instead."""


def _slots() -> Iterator[tuple[type, str, MemberDescriptorType]]:
    """Yield every field of the kernel's classes, and the interrupts of a CPU."""
    for owner in _classes():
        for name, slot in owner.__dict__.items():
            if isinstance(slot, MemberDescriptorType) and name not in _UNWATCHED.get(
                owner, ()
            ):
                yield owner, name, slot
    for name in ("_irqs_off", "_held"):
        yield Cpu, name, Cpu.__dict__[name]


def _classes() -> list[type]:
    """Return the classes of the kernel, each once."""
    found = {
        value: None
        for name, module in sorted(sys.modules.items())
        if name.startswith(("tlbkit.linux.", "tlbkit.patches."))
        for value in tuple(vars(module).values())
        if isinstance(value, type)
        and value.__module__.startswith(("tlbkit.linux.", "tlbkit.patches."))
        and not issubclass(value, BaseException)
    }
    return list(found)


@cache
def _assigned(_modules: int) -> frozenset[str]:
    """Return the names of all fields that the kernel assigns outside constructors.

    Known once for so many modules: to look through all code takes a while.
    """
    names = {"_irqs_off"}
    modules = {sys.modules[owner.__module__] for owner in _classes()}
    for thing in [*_classes(), *modules]:
        for name, value in vars(thing).items():
            for function in _functions(value):
                if name != "__init__":
                    names |= _stores(function.__code__)
    return frozenset(names)


def _functions(value: Any) -> Iterator[FunctionType]:
    """Yield the functions behind a member of a class or module."""
    if isinstance(value, property):
        for one in (value.fget, value.fset):
            yield from _functions(one)
    elif isinstance(value, staticmethod | classmethod):
        yield from _functions(value.__func__)
    elif isinstance(value, FunctionType):
        yield value
        if hasattr(value, "__wrapped__"):
            yield from _functions(value.__wrapped__)


def _stores(code: CodeType) -> set[str]:
    """Return the names of the fields that some code, or code in it, assigns."""
    names = {
        one.argval for one in dis.get_instructions(code) if one.opname == "STORE_ATTR"
    }
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            names |= _stores(inner)
    return names


def _watched(
    notes: Notes, owner: type, slot: MemberDescriptorType, *, changes: bool
) -> property:
    """Return a property that notes and then does what *slot* does."""
    get, put, name = slot.__get__, slot.__set__, slot.__name__
    known: dict[int, Resource] = {}
    # Two readers who enter and leave commute; everybody else looks at who is in.
    change = UPDATE if owner is RwSemaphore and name == "readers" else WRITE

    def resource(thing: object) -> Resource:
        number = known.get(id(thing))
        if number is None:
            number = notes.place(thing, name, known)
        return number

    def read(thing: object) -> Any:
        value = get(thing)
        if notes.on:
            if isinstance(value, _CONTAINERS):
                notes.container(resource(thing), value, change)
            elif changes:
                number = resource(thing)
                touched = notes.touched
                touched[number] = touched.get(number, 0) | READ
        return value

    def write(thing: object, value: Any) -> None:
        put(thing, value)
        if notes.on and changes:
            notes.touched[resource(thing)] = WRITE
        else:
            notes.name(thing)

    return property(read, write)


def _watch_memory(notes: Notes, replace: Callable[[type, str, Any], None]) -> None:
    """Note accesses to words and to whole frames.

    Whoever touches a word updates its frame; so words of a frame do not disturb each
    other, and who clears or copies the frame disturbs all of them.
    """
    words = notes.words

    def word(memory: PhysicalMemory, pa: int, how: int) -> None:
        if not notes.on:
            return
        places = words.get(pa)
        if places is None:
            frame = notes.number("frame", pa >> memory.page_shift)
            places = words[pa] = notes.number("word", pa), frame
        touched = notes.touched
        touched[places[0]] = touched.get(places[0], 0) | how
        touched[places[1]] = touched.get(places[1], 0) | UPDATE

    plain = PhysicalMemory.__dict__
    read_, swap_, exchange_ = plain["read"], plain["swap"], plain["compare_exchange"]
    frame_, clear_, copy_ = (
        plain["frame"],
        plain["clear_frame"],
        plain["copy_frame"],
    )
    is_clear_, zeros_ = plain["is_clear"], plain["zeros"]

    def read(memory: PhysicalMemory, pa: int) -> int:
        word(memory, pa, READ)
        return int(read_(memory, pa))

    def swap(memory: PhysicalMemory, pa: int, value: int) -> int:
        word(memory, pa, WRITE)
        return int(swap_(memory, pa, value))

    def compare_exchange(
        memory: PhysicalMemory, pa: int, expected: int, value: int
    ) -> int:
        word(memory, pa, WRITE)
        return int(exchange_(memory, pa, expected, value))

    def frame(memory: PhysicalMemory, pfn: int) -> array[int]:
        notes.note(notes.number("frame", pfn), WRITE)
        found: array[int] = frame_(memory, pfn)
        return found

    def clear_frame(memory: PhysicalMemory, pfn: int) -> None:
        notes.note(notes.number("frame", pfn), WRITE)
        clear_(memory, pfn)

    def copy_frame(memory: PhysicalMemory, source: int, target: int) -> None:
        notes.note(notes.number("frame", source), READ)
        notes.note(notes.number("frame", target), WRITE)
        copy_(memory, source, target)

    def is_clear(memory: PhysicalMemory, pfn: int) -> bool:
        notes.note(notes.number("frame", pfn), READ)
        return bool(is_clear_(memory, pfn))

    def zeros(memory: PhysicalMemory, pa: int) -> int:
        notes.note(notes.number("frame", pa >> memory.page_shift), READ)
        return int(zeros_(memory, pa))

    for new in (
        read,
        swap,
        compare_exchange,
        frame,
        clear_frame,
        copy_frame,
        is_clear,
        zeros,
    ):
        replace(PhysicalMemory, new.__name__, new)


def _watch_machine(notes: Notes, replace: Callable[[type, str, Any], None]) -> None:
    """Note who uses a TLB, who invalidates in it, and who asks for a frame's folio."""
    translate_ = Cpu.__dict__["_translate"]
    complete_ = Interconnect.__dict__["complete"]
    folio_ = PageAlloc.__dict__["folio"]

    def _translate(cpu: Cpu, va: int, need: int) -> Any:
        notes.note(notes.number("tlb", cpu.tlb.cpu), WRITE)
        if notes.rules and notes.on and (regime := cpu.current) is not None:
            for entry in cpu.tlb.answers(regime.canonical(va), regime.asid):
                notes.note(notes.number("word", entry.descriptor_pa), READ)
        return translate_(cpu, va, need)

    def complete(shared: Interconnect, issuer: Tlb, asid_bits: int, done: Any) -> None:
        for tlb in shared.tlbs:
            notes.note(notes.number("tlb", tlb.cpu), WRITE)
        complete_(shared, issuer, asid_bits, done)

    def folio(allocator: PageAlloc, pfn: int) -> Any:
        notes.note(notes.number("pfn", pfn), READ)
        return folio_(allocator, pfn)

    replace(Cpu, "_translate", _translate)
    replace(Interconnect, "complete", complete)
    replace(PageAlloc, "folio", folio)
