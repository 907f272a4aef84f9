"""Which page an entry maps: every input there is, and what each kernel answers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeVar

from tlbkit.arm64.machine import Machine
from tlbkit.errors import InputError
from tlbkit.lab.answer import Answer
from tlbkit.lab.exploration import Exploration, menu, switch
from tlbkit.lab.parameter import Parameter
from tlbkit.linux.include.linux.mm import (
    VM_MAYWRITE,
    VM_MIXEDMAP,
    VM_PFNMAP,
    VM_READ,
    NormalPageOperations,
)
from tlbkit.linux.include.linux.mm_types import LargeFolio, VmArea
from tlbkit.linux.include.linux.pgtable import PgtableLevel
from tlbkit.linux.kernel import kernel as linux
from tlbkit.linux.kernel.config import PROFILES, Config, with_profile
from tlbkit.linux.mm.page_alloc import PageAlloc
from tlbkit.patches.build import build
from tlbkit.patches.find_normal_page import SpecialPageOperations

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tlbkit.lab.parameter import Value
    from tlbkit.linux.include.linux.mm_types import Page
    from tlbkit.linux.include.linux.pgtable import LeafLevel

T = TypeVar("T")
Area = Literal["ordinary", "PFNMAP", "MIXEDMAP"]
Frame = Literal["memory", "zero page", "huge zero folio"]
Result = Literal["page", "none", "the hook's page"]

AREAS: Final[tuple[Area, ...]] = ("ordinary", "PFNMAP", "MIXEDMAP")
FRAMES: Final[tuple[Frame, ...]] = ("memory", "zero page", "huge zero folio")
LEVELS: Final[Mapping[str, LeafLevel]] = {
    "pte": PgtableLevel.PTE,
    "pmd": PgtableLevel.PMD,
    "pud": PgtableLevel.PUD,
}

PFN: Final = 1 << 20
"""The frame that is asked about: the first of a block at every level."""
HOOK_PAGE: Final = 0x4242
"""The page that a driver's hook answers with."""


@dataclass(frozen=True, slots=True)
class Situation:
    """All that the decision can depend on.

    Attributes:
        special: The entry is marked.
        area: Whether a driver put frames into the area, and how.
        linear: The frame is the one that the area's offset gives for the address.
        cow: The area is private and may be written.
        memmap: The frame is memory: there is a page to speak of.
        frame: Whether it is one of those that are full of zeros.
        above: It lies beyond the last frame of memory.
        hook: The driver answers for its special entries.
    """

    special: bool = False
    area: Area = "ordinary"
    linear: bool = False
    cow: bool = True
    memmap: bool = True
    frame: Frame = "memory"
    above: bool = False
    hook: bool = False

    @property
    def in_row(self) -> bool:
        """Whether the area says that the frame was put in as a number, not as a page.

        In a private area of frames in a row, what is out of the row is a copy.
        """
        return self.area == "PFNMAP" and (self.linear or not self.cow)


def situations(*, has_special: bool) -> Iterator[Situation]:
    """Yield every situation, possible in a kernel or not.

    Left out are only contradictions: an area of both kinds, a mark where there is no
    bit, and a page of zeros that is not memory, or beyond it.
    """
    flags = (False, True)
    for special, area, linear, cow, hook in product(flags, AREAS, flags, flags, flags):
        if special and not has_special:
            continue
        for memmap, above in product(flags, flags):
            yield Situation(special, area, linear, cow, memmap, "memory", above, hook)
        for frame in FRAMES[1:]:
            yield Situation(
                special, area, linear, cow, memmap=True, frame=frame, hook=hook
            )


def legal(at: Situation, level: LeafLevel, *, has_special: bool) -> bool:
    """Tell whether a kernel without a fault can bring about a situation.

    For levels with a special bit: what is raw or full of zeros is marked, and nothing
    else is, but for what a hook answers for. For the others: frames that are no memory
    are only where the area tells. And memory ends where it ends.
    """
    if at.memmap and at.above:
        return False
    if level is PgtableLevel.PTE:
        if at.frame == "huge zero folio":
            return False
    elif at.frame == "zero page" or (has_special and at.hook):
        return False
    if has_special:
        if at.special:
            return at.area != "ordinary" or at.frame != "memory" or at.hook
        return at.frame == "memory" and at.memmap and not at.in_row
    if at.frame == "huge zero folio" and at.area == "MIXEDMAP":
        return False
    return at.memmap or at.area == "MIXEDMAP" or at.in_row


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a kernel made of a situation.

    Attributes:
        result: Whose page it gave, if any.
        reported: It wrote a report of a bad entry.
        warned: A debug kernel warned that a page of zeros is taken for a normal one.
    """

    result: Result
    reported: bool = False
    warned: bool = False

    def __str__(self) -> str:
        """Say it in a few words."""
        return (
            self.result
            + " and a report" * self.reported
            + " and a warning" * self.warned
        )


class _Frames(PageAlloc):
    """Memory of which the situation says where it ends, and what is memory.

    Attributes:
        memmap: Whether the frame that is asked about is memory.
    """

    __slots__ = ("memmap",)

    memmap: bool

    def pfn_valid(self, pfn: int) -> bool:
        """Answer as the situation says."""
        del pfn
        return self.memmap


class _Hook(NormalPageOperations, SpecialPageOperations):
    """A driver that answers, under whichever name it is asked."""

    __slots__ = ()

    def find_normal_page(self, vma: VmArea, addr: int) -> Page | None:
        """Return the page that only a hook can know."""
        del vma, addr
        return HOOK_PAGE

    def find_special_page(self, vma: VmArea, addr: int) -> Page | None:
        """Return the same."""
        return self.find_normal_page(vma, addr)


class Decider:
    """One kernel that is asked about situations.

    Args:
        name: A name of `tlbkit.patches.registry.KERNELS`.
        config: What it is built with.
        without: Commits to leave out besides.
    """

    def __init__(
        self, name: str, config: Config, without: tuple[str, ...] = ()
    ) -> None:
        self._parts = dict(build(linux.PARTS, name, without).parts)
        frames = self._parts["page_alloc"]
        self._parts["page_alloc"] = type("Frames", (_Frames, frames), {"__slots__": ()})
        self._config = config
        self._boot()

    def _boot(self) -> None:
        """Start afresh, with one process whose tables a report can show."""
        self._kernel = linux.Kernel(Machine(1), self._parts, self._config)
        self._mm = self._kernel.spawn().mm

    def ask(self, at: Situation, level: LeafLevel) -> Outcome:
        """Return what ``vm_normal_page()`` of that level makes of a situation."""
        kernel = self._kernel
        kernel.timer.pass_time(61)  # no report is left out for being one too many
        log = len(kernel.printk.log)
        page = self._call(at, level)
        warned = bool(kernel.panic.warnings)
        if warned:
            self._boot()  # or it would warn no second time
        result: Result = "none"
        if page is not None:
            result = "the hook's page" if page == HOOK_PAGE else "page"
        return Outcome(result, len(kernel.printk.log) > log, warned)

    def _call(self, at: Situation, level: LeafLevel) -> Page | None:
        """Arrange the kernel as the situation says, and ask it."""
        kernel = self._kernel
        frames = kernel.page_alloc
        assert isinstance(frames, _Frames)
        frames.memmap = at.memmap
        frames.highest_memmap_pfn = PFN - at.above
        kernel.zero_pfn = PFN if at.frame == "zero page" else 1
        huge = LargeFolio(PFN, kernel.pgtable.hpage_pmd_order)
        if at.frame != "huge zero folio":
            kernel.huge_memory.huge_zero_folio = None
        else:
            kernel.huge_memory.huge_zero_folio = huge
        pgtable = kernel.pgtable
        start = 1 << 39
        flags = VM_READ | VM_MAYWRITE * at.cow
        flags |= {"ordinary": 0, "PFNMAP": VM_PFNMAP, "MIXEDMAP": VM_MIXEDMAP}[at.area]
        pgoff = PFN if at.linear else PFN + 1
        vma = VmArea(self._mm, start, start + pgtable.pud_size, flags, 0, pgoff)
        vma.ops = _Hook() if at.hook else None
        entry = pgtable.pfn_pte(PFN, 0) | 1
        match level:
            case PgtableLevel.PTE:
                entry = pgtable.pte_mkspecial(entry) if at.special else entry
                return kernel.memory.vm_normal_page(vma, start, entry)
            case PgtableLevel.PMD:
                entry = pgtable.pmd_mkspecial(entry) if at.special else entry
                return kernel.memory.vm_normal_page_pmd(vma, start, entry)
            case PgtableLevel.PUD:
                entry = pgtable.pud_mkspecial(entry) if at.special else entry
                return kernel.memory.vm_normal_page_pud(vma, start, entry)


VERSIONS: Final = ("v6.17", "v6.19", "fixed")
"""The kernels that are asked: before, after, and after the later repair."""


@lru_cache(maxsize=32)
def decider(name: str, config: Config) -> Decider:
    """Return the kernel called *name*, built with *config*, ready to be asked."""
    return Decider(name, config)


def build_for(profile: str, *, find: bool = False) -> Config:
    """Return what a kernel for *profile* is built with; debugging is on."""
    return replace(with_profile(profile), find_normal_page=find, debug_vm=True)


class Step(NamedTuple):
    """One question on the way to the answer.

    Attributes:
        question: What is asked.
        answer: What it is here.
    """

    question: str
    answer: str


def path(at: Situation, level: LeafLevel, config: Config) -> list[Step]:
    """Return the questions that the newest kernel asks, up to the one that decides."""
    steps = []

    def ask(question: str, *, yes: bool) -> bool:
        steps.append(Step(question, "yes" if yes else "no"))
        return yes

    zeros = at.frame != "memory"
    if ask(f"has a {level} a special bit here?", yes=config.has_special(level)):
        if ask("is the entry marked special?", yes=at.special):
            if config.find_normal_page and ask("has the driver a hook?", yes=at.hook):
                return [*steps, Step("so", "whatever the hook says")]
            if ask("PFNMAP or MIXEDMAP?", yes=at.area != "ordinary"):
                return [*steps, Step("so", "no normal page")]
            if ask("a page of zeros?", yes=zeros):
                return [*steps, Step("so", "no normal page")]
            return [*steps, Step("so", "a report, and no normal page")]
    else:
        if ask("MIXEDMAP?", yes=at.area == "MIXEDMAP"):
            if not ask("is the frame memory?", yes=at.memmap):
                return [*steps, Step("so", "no normal page")]
        elif ask("PFNMAP?", yes=at.area == "PFNMAP"):
            if ask("is the frame in its place of the row?", yes=at.linear):
                return [*steps, Step("so", "no normal page")]
            if not ask("may a write copy the page?", yes=at.cow):
                return [*steps, Step("so", "no normal page")]
        if ask("a page of zeros?", yes=zeros):
            return [*steps, Step("so", "no normal page")]
    if ask("beyond all memory?", yes=at.above):
        return [*steps, Step("so", "a report, and no normal page")]
    return [*steps, Step("so", "the page of the frame")]


class NormalPage(Exploration):
    """An entry, where it stands and what it maps, and what each kernel makes of it.

    Columns: ``field``, ``bits``, ``value``, ``chosen`` are the questions that the
    newest kernel asks, in their order, the last one chosen.
    """

    name = "normal-page"
    title = "Is this a normal page?"
    parameters = (
        menu("level", "level of the entry", tuple(LEVELS)),
        Parameter(
            "profile", "special bit at PTE, PMD, PUD", "", "110", tuple(PROFILES)
        ),
        switch("special", "special bit of the entry"),
        menu("area", "VMA", AREAS),
        switch("cow", "VMA is private and writable", "on"),
        switch("linear", "frame is in its place of the row"),
        menu("frame", "frame", FRAMES),
        switch("memmap", "frame is memory", "on"),
        switch("above", "frame is beyond all memory"),
        switch("hook", "driver has the hook"),
        switch("find", "kernel is built for the hook"),
    )

    def answer(self, params: Mapping[str, Value]) -> Answer:
        """Ask each kernel; errors as in `Exploration`.

        Raises:
            InputError: The situation contradicts itself.
        """
        settings = self.settings(params)
        on = {name for name, value in settings.items() if value == "on"}
        config = build_for(str(settings["profile"]), find="find" in on)
        level = LEVELS[str(settings["level"])]
        at = Situation(
            special="special" in on,
            area=_one_of(AREAS, settings["area"]),
            linear="linear" in on,
            cow="cow" in on,
            memmap="memmap" in on,
            frame=_one_of(FRAMES, settings["frame"]),
            above="above" in on,
            hook="hook" in on,
        )
        _check(at, level, config)
        steps = path(at, level, config)
        outcomes = {
            name: (
                None
                if level is PgtableLevel.PUD and name == "v6.17"
                else decider(name, config).ask(at, level)
            )
            for name in VERSIONS
        }
        return Answer(
            columns={
                "field": [step.question for step in steps],
                "bits": [str(number + 1) for number in range(len(steps))],
                "value": [step.answer for step in steps],
                "chosen": [int(step is steps[-1]) for step in steps],
            },
            header=["kernel", "normal page?"],
            rows=[
                [name, "not asked at this level" if one is None else str(one)]
                for name, one in outcomes.items()
            ],
            text=_reading(at, level, config, {str(one) for one in outcomes.values()}),
        )


def _one_of(choices: tuple[T, ...], value: Value) -> T:
    """Return the choice that a parameter's value names."""
    return next(choice for choice in choices if choice == value)


def _check(at: Situation, level: LeafLevel, config: Config) -> None:
    """Refuse what contradicts itself, saying which knob to turn."""
    if at.special and not config.has_special(level):
        raise InputError(
            f"special=on: on {config.profile} a {level} has no such bit; choose "
            "another profile or level, or turn it off"
        )
    if at.frame != "memory" and (at.above or not at.memmap):
        raise InputError(
            f"frame={at.frame}: that is memory, and within it; turn memmap on and "
            "above off"
        )


def _reading(
    at: Situation, level: LeafLevel, config: Config, outcomes: set[str]
) -> str:
    """Say whether the kernels agree, and whether it can come to this at all."""
    agree = "All kernels agree." if len(outcomes) == 1 else "The kernels differ."
    has_special = config.has_special(level)
    if legal(at, level, has_special=has_special):
        return f"{agree} A kernel without a fault can bring this about."
    return f"{agree} Only a fault, of a driver or of memory, can bring this about."
