"""A patch of your own, tried: what it saves, what it breaks, and by which schedule.

A patch is a Python module in the form of `tlbkit.patches`: a class for each part of the
kernel that it changes, derived directly from that part, with the new bodies, and their
list::

    from tlbkit.linux.arch.arm64.include.asm.tlbflush import TlbFlush

    class Mine(TlbFlush):
        __slots__ = ()

        def flush_tlb_page(self, vma, uaddr): ...

    TITLE = "arm64: flush a page without waiting"
    REPLACES = {"tlbflush": Mine}

Four things are asked of it: what each scenario issues with it and without; whether a
meeting of the gallery that enters a new body breaks a rule in some order; whether
random programs see the same results, contents and counters; and, if all is well, which
barriers and TLBIs of the new bodies nothing needs, as far as these meetings go.
"""

from __future__ import annotations

import runpy
import sys
import traceback
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any, Final

from tlbkit.arm64.machine import Machine
from tlbkit.callers import caller
from tlbkit.errors import InputError, TlbkitError
from tlbkit.explore.search import explore, replay
from tlbkit.lab.gallery.programme import PROGRAMME
from tlbkit.linux.include.uapi.asm_generic.errno import Signal, SystemCallError
from tlbkit.linux.kernel.kernel import PARTS
from tlbkit.observe.counters import counting
from tlbkit.observe.recorder import recording
from tlbkit.observe.sanitizer import Sanitizer
from tlbkit.patches import registry
from tlbkit.patches.kernels import Kernel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path
    from types import FrameType

    from tlbkit.arm64.events import Event
    from tlbkit.explore.scheduler import Scenario as Worlds
    from tlbkit.lab.scenario import Scenario
    from tlbkit.linux.process import Process

PREEMPTIONS: Final = 1
"""Up to how many a meeting is searched, unless asked for more."""
PROGRAMS: Final = 100
"""How many random programs are run, unless asked for more."""
_WRONG: Final = (
    TlbkitError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    TypeError,
)
"""What a new body may raise: a broken rule, or a mistake of its author."""
_PAGES: Final = 3
_SLOTS: Final = 2
_BASE: Final = 1 << 40
_APART: Final = 1 << 30
_STEPS: Final = 60
_OFTEN: Final = (4, 4, 4, 4, 4, 1, 1, 1, 1, 1)
"""How often each kind of step is taken: those most that use an entry or change it."""


@dataclass(frozen=True, slots=True)
class OwnPatch:
    """New bodies for some kernel functions.

    Attributes:
        name: Of the file.
        title: What it does, in its author's words.
        replaces: Part -> the class that has the new bodies.
    """

    name: str
    title: str
    replaces: Mapping[str, type[Any]]

    @property
    def bodies(self) -> Mapping[CodeType, str]:
        """The new bodies, and what each is called."""
        found: dict[CodeType, str] = {}
        for one in self.replaces.values():
            for name, value in vars(one).items():
                body = getattr(value, "__func__", value)
                if isinstance(body, FunctionType):
                    found[body.__code__] = name
        return found

    @property
    def functions(self) -> frozenset[str]:
        """The names of the functions that have new bodies."""
        return frozenset(self.bodies.values())


@dataclass(frozen=True, slots=True)
class Change:
    """What one scenario issues without the patch and with it, where that differs.

    Attributes:
        scenario: Its name.
        what: What is counted.
        without: How often without it.
        with_it: How often with it.
    """

    scenario: str
    what: str
    without: int | str
    with_it: int | str


@dataclass(frozen=True, slots=True)
class Break:
    """Something that goes wrong with the patch, and does not without it.

    Attributes:
        where: The scenario, the meeting, or the random program.
        error: What went wrong.
        way: How it comes to that, step by step.
    """

    where: str
    error: str
    way: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of trying a patch.

    Attributes:
        patch: The patch.
        kernel: The name of the kernel that it was laid over.
        changes: What scenarios issue that they did not, or no longer.
        meetings: The meetings that enter a new body, with the schedules tried of each.
        programs: How many random programs were run.
        breaks: What goes wrong.
        needless: Points of the new bodies, as `Machine.taken_out` names them, without
            which no meeting breaks either.
    """

    patch: OwnPatch
    kernel: str
    changes: tuple[Change, ...]
    meetings: Mapping[str, int]
    programs: int
    breaks: tuple[Break, ...]
    needless: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "patch": self.patch.name,
            "title": self.patch.title,
            "functions": sorted(self.patch.functions),
            "kernel": self.kernel,
            "changes": [
                {
                    "scenario": one.scenario,
                    "what": one.what,
                    "without": one.without,
                    "with": one.with_it,
                }
                for one in self.changes
            ],
            "meetings": dict(self.meetings),
            "programs": self.programs,
            "breaks": [
                {"where": one.where, "error": one.error, "way": list(one.way)}
                for one in self.breaks
            ],
            "needless": list(self.needless),
        }


def load_patch(path: Path) -> OwnPatch:
    """Run a module of one's own, and return the patch that it is.

    Raises:
        InputError: It cannot be run, or is no patch; the message says in which line.
    """
    try:
        module = runpy.run_path(str(path))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except SyntaxError as error:
        raise InputError(f"{path}, line {error.lineno}: {error.msg}") from None
    except Exception as error:  # noqa: BLE001 - whatever the caller's module raises
        lines = [
            one.lineno
            for one in traceback.extract_tb(error.__traceback__)
            if one.filename == str(path)
        ]
        at = f", line {lines[-1]}" if lines else ""
        raise InputError(f"{path}{at}: {type(error).__name__}: {error}") from None
    replaces = module.get("REPLACES")
    if not isinstance(replaces, dict) or not replaces:
        raise InputError(
            f"{path}: a patch has REPLACES = {{PART: CLASS}}; see tlbkit.lab.trial"
        )
    for part, one in replaces.items():
        if part not in PARTS:
            raise InputError(f"{path}: no part {part!r}; there are {', '.join(PARTS)}")
        if not isinstance(one, type) or PARTS[part] not in one.__bases__:
            raise InputError(
                f"{path}: REPLACES[{part!r}] is a class derived from "
                f"{PARTS[part].__name__}, and from nothing between"
            )
    return OwnPatch(path.name, str(module.get("TITLE", path.stem)), dict(replaces))


def patched(
    patch: OwnPatch | None, kernel: str = registry.DEFAULT_KERNEL
) -> Callable[[Machine], Kernel]:
    """Return what starts a kernel with a patch, or with ``None`` as it is."""
    replaces = {} if patch is None else patch.replaces
    return lambda machine: Kernel(machine, kernel, replaces=replaces)


def attempt(
    patch: OwnPatch,
    kernel: str = registry.DEFAULT_KERNEL,
    *,
    scenarios: Iterable[Scenario] = (),
    preemptions: int = PREEMPTIONS,
    programs: int = PROGRAMS,
    seed: int = 1,
    tell: Callable[[str], None] = lambda _: None,
) -> Trial:
    """Try a patch.

    Args:
        patch: The patch.
        kernel: The kernel that it is laid over, by name.
        scenarios: Those whose counts are compared.
        preemptions: Up to how many each meeting is searched.
        programs: How many random programs are run.
        seed: Of the first; the same seed makes the same programs.
        tell: Is told how far the work has come.

    Raises:
        InputError: There is no such kernel.
    """
    registry.kernel(kernel)
    changes: list[Change] = []
    breaks: list[Break] = []
    for scenario in scenarios:
        tell(f"scenario {scenario.name}")
        _compare(scenario, patch, kernel, changes, breaks)
    meetings: dict[str, int] = {}
    points: dict[str, list[str]] = {}
    boot = patched(patch, kernel)
    for name, meeting in PROGRAMME.items():
        worlds = meeting.scenario(boot=boot)
        try:
            entered, passed = _enters(worlds, patch.bodies)
            if not entered:
                continue
            tell(f"meeting {name}")
            meetings[name] = _search(name, worlds, preemptions, breaks)
        except _WRONG as error:
            breaks.append(Break(f"meeting {name}", _first(error), ()))
            continue
        for point in passed:
            points.setdefault(point, []).append(name)
    tell("random programs")
    for number in range(programs):
        _program(seed + number, patch, kernel, breaks)
    needless: list[str] = []
    for point, names in points.items() if not breaks else ():
        tell(f"without {point}")
        worlds_without = (
            PROGRAMME[name].scenario({point}, boot=boot) for name in names
        )
        if all(
            explore(one, preemptions=preemptions, loads=True).breach is None
            for one in worlds_without
        ):
            needless.append(point)
    return Trial(
        patch,
        kernel,
        tuple(changes),
        meetings,
        programs,
        tuple(breaks),
        tuple(needless),
    )


# -- scenarios -----------------------------------------------------------------------


def _compare(
    scenario: Scenario,
    patch: OwnPatch,
    kernel: str,
    changes: list[Change],
    breaks: list[Break],
) -> None:
    """Run a scenario without the patch and with it, under the rules."""
    settings = scenario.settings({})
    found: list[dict[str, int | str]] = []
    for one in (None, patch):
        started = patched(one, kernel)(Machine(int(settings["cpus"])))
        try:
            with Sanitizer(started):
                operation = scenario.prepare(started, settings)
                with counting(started) as counts:
                    outcome = operation()
        except _WRONG as error:
            breaks.append(Break(f"scenario {scenario.name}", _first(error), ()))
            return
        found.append(
            {
                **{f"TLBI {name}": n for name, n in counts.tlbi.items()},
                **{f"DSB {name}": n for name, n in counts.dsb.items()},
                "DSBs that complete a TLBI": counts.flushes,
                "IPIs": counts.ipi_cpus,
                "faults": counts.faults.total(),
                "ended with": outcome,
            }
        )
    before, after = found
    for what in dict.fromkeys([*before, *after]):
        old, new = before.get(what, 0), after.get(what, 0)
        if old != new:
            changes.append(Change(scenario.name, what, old, new))
            if what == "ended with":
                said = f"ended with {old}, and ends with {new}"
                breaks.append(Break(f"scenario {scenario.name}", said, ()))


# -- meetings ------------------------------------------------------------------------


def _enters(worlds: Worlds, bodies: Mapping[CodeType, str]) -> tuple[bool, list[str]]:
    """Tell whether a meeting, run plainly, enters new bodies, and what these issue.

    Returns:
        Whether it does, and the barriers and TLBIs of the bodies as points.
    """
    entered = False
    points: dict[str, None] = {}

    def note(frame: Any, event: str, _: object) -> None:
        nonlocal entered
        entered = entered or (event == "call" and frame.f_code in bodies)

    def issued(event: Event) -> None:
        what = "tlbi" if event.kind == "tlbi" else f"dsb {event.what}"
        frame: FrameType | None = caller()
        while frame is not None:
            if frame.f_code in bodies:
                points[f"{what} in {frame.f_code.co_name}"] = None
                return
            frame = frame.f_back

    world = worlds()
    world.machine.events.listen(issued, {"tlbi", "dsb"})
    before = sys.getprofile()
    sys.setprofile(note)
    try:
        for flow in world.flows:
            try:
                flow.run()
            except TlbkitError:
                entered = True  # what it is, the search tells
    finally:
        sys.setprofile(before)
    return entered, list(points)


def _search(name: str, worlds: Worlds, bound: int, breaks: list[Break]) -> int:
    """Search a meeting, and note the breach; return how many schedules were tried."""
    found = explore(worlds, preemptions=bound, loads=True)
    if found.breach is None:
        return found.runs
    way: list[str] = []

    @contextmanager
    def taped(machine: Machine) -> Iterator[None]:
        with recording(machine) as recorder:
            yield
        way.extend(recorder.finish().outline().splitlines())

    replay(worlds, found.breach.schedule, taped, loads=found.breach.loads)
    breaks.append(Break(f"meeting {name}", _first(found.breach.error), tuple(way)))
    return found.runs


# -- random programs -----------------------------------------------------------------


def _program(seed: int, patch: OwnPatch, kernel: str, breaks: list[Break]) -> None:
    """Run one program on both kernels, and note where they part."""
    steps = program(seed)
    one, other = (play(patched(each, kernel), steps) for each in (None, patch))
    for number, (ours, theirs) in enumerate(zip(one, other, strict=False)):
        if ours != theirs:
            said = f"{steps[number] if number < len(steps) else 'the end'} answered "
            breaks.append(
                Break(
                    f"random program {seed}",
                    f"{said}{ours}, and answers {theirs}",
                    tuple(" ".join(map(str, step)) for step in steps[: number + 1]),
                )
            )
            return


def program(seed: int) -> list[tuple[Any, ...]]:
    """Return a program of system calls and accesses by two processes."""
    random = Random(seed)
    steps: list[tuple[Any, ...]] = [
        ("mmap", slot, random.choice(("rw", "r", "rx", "none")))
        for slot in range(_SLOTS)
    ]
    for _ in range(_STEPS):
        slot, page = random.randrange(_SLOTS), random.randrange(_PAGES)
        pages = random.randint(1, _PAGES - page)
        who = random.randrange(2)
        kinds: tuple[tuple[Any, ...], ...] = (
            ("write", who, slot, page, random.randrange(1 << 16)),
            ("read", who, slot, page),
            ("execute", who, slot, page),
            ("mprotect", who, slot, page, pages, random.choice(("r", "rw"))),
            ("mprotect", who, slot, page, pages, random.choice(("rx", "rwx", "none"))),
            ("munmap", who, slot, page, pages),
            ("madvise", who, slot, page, pages, "dontneed"),
            ("mremap", who, slot, page, pages),
            ("fork",),
            ("exit",),
        )
        steps.append(random.choices(kinds, _OFTEN)[0])
    return steps


def play(boot: Callable[[Machine], Kernel], steps: list[tuple[Any, ...]]) -> list[str]:
    """Do what a program says, and return what each step answered, and the end.

    A rule that is broken is an answer too, and the last.
    """
    said: list[str] = []
    kernel = boot(Machine(2))
    page = kernel.pgtable.page_size
    family: list[Process] = [kernel.spawn(0)]
    try:
        with Sanitizer(kernel):
            said.extend(_do(family, step, page) for step in steps)
            for process in family:
                words = [
                    _answer(lambda va=va, p=process: p.read(va))  # type: ignore[misc]
                    for slot in range(_SLOTS)
                    for va in range(_at(slot), _at(slot) + _PAGES * page, page)
                ]
                said.append(f"rss {process.mm.anonpages}, holds {' '.join(words)}")
            while family:
                family.pop().exit()
    except _WRONG as error:
        said.append(_first(error))
    return said


def _do(family: list[Process], step: tuple[Any, ...], page: int) -> str:
    """Do one step, and say what came of it."""
    name, *rest = step
    if name == "mmap":
        slot, prot = rest
        length = _PAGES * page
        first = family[0]
        return _answer(lambda: first.mmap(length, prot, addr=_at(slot), fixed=True))
    if name == "fork":
        if len(family) == 1:
            family.append(family[0].fork(1))
        return "done"
    if name == "exit":
        if len(family) == 2:
            family.pop().exit()
        return "done"
    who, slot, first_page, *more = rest
    process = family[min(who, len(family) - 1)]
    va = _at(slot) + first_page * page
    if name == "write":
        return _answer(lambda: process.write(va, more[0]))
    if name == "read":
        return _answer(lambda: process.read(va))
    if name == "execute":
        return _answer(lambda: process.execute(va))
    length = more[0] * page
    if name == "mprotect":
        return _answer(lambda: process.mprotect(va, length, more[1]))
    if name == "munmap":
        return _answer(lambda: process.munmap(va, length))
    if name == "madvise":
        return _answer(lambda: process.madvise(va, length, more[1]))
    there = _at((slot + 1) % _SLOTS)
    return _answer(
        lambda: process.mremap(
            va, length, length, maymove=True, fixed=True, new_address=there
        )
    )


def _answer(do: Callable[[], object]) -> str:
    """Return what a call answers: its value, its errno, or a signal."""
    try:
        return str(do())
    except (SystemCallError, Signal) as error:
        return str(error)


def _at(slot: int) -> int:
    return _BASE + slot * _APART


def _first(error: Exception) -> str:
    """Return the first line of an error."""
    said = str(error).partition("\n")[0]
    return said if isinstance(error, TlbkitError) else f"{type(error).__name__}: {said}"
