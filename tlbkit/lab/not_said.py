"""What the fast commits leave as it was, case by case, on machines of both kinds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from tlbkit.arm64.machine import Machine
from tlbkit.lab.answer import Answer
from tlbkit.lab.exploration import Exploration, menu
from tlbkit.lab.flow import reach
from tlbkit.lab.parameter import Parameter
from tlbkit.observe.counters import Counts, counting
from tlbkit.patches.kernels import Kernel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tlbkit.lab.parameter import Value
    from tlbkit.linux.process import Process

PAGE: Final = 4096
BLOCK: Final = 512 * PAGE
VERSIONS: Final = ("v6.17", "v6.19")


class Scene(NamedTuple):
    """A process with pages that it wrote, on four CPUs.

    Attributes:
        kernel, process: The kernel and its only process.
        base: Address of the first page.
        pages: How many there are.
    """

    kernel: Kernel
    process: Process
    base: int
    pages: int

    @property
    def length(self) -> int:
        """Bytes that the pages take."""
        return self.pages * PAGE


Operation = Callable[[], object]
"""What is counted."""


def _start(version: str, model: str, pages: int, size: str = "pages") -> Scene:
    """Return a scene; *size* is ``pages``, ``groups`` of 64 KiB or ``blocks``."""
    kernel = Kernel(Machine(cpus=4, model=model), version)
    if size == "groups":
        kernel.huge_memory.set_hugepages_enabled(64, "always")
    if size == "blocks":
        kernel.huge_memory.enabled = "always"
        pages *= 512
    process = kernel.spawn()
    base = process.mmap(pages * PAGE)
    step = 512 if size == "blocks" else 1
    for page in range(0, pages, step):
        process.write(base + page * PAGE, page)
    return Scene(kernel, process, base, pages)


def _allow(scene: Scene) -> Operation:
    """Make read-only pages writable."""
    _, process, base, _ = scene
    process.mprotect(base, scene.length, "r")
    return lambda: process.mprotect(base, scene.length, "rw")


def _open(scene: Scene) -> Operation:
    """Give pages without rights all of them."""
    _, process, base, _ = scene
    process.mprotect(base, scene.length, "none")
    return lambda: process.mprotect(base, scene.length, "rw")


def _unprotect(scene: Scene) -> Operation:
    """Take userfaultfd's write protection away."""
    _, process, base, _ = scene
    fd = process.userfaultfd()
    fd.register(base, scene.length, wp=True)
    fd.writeprotect(base, scene.length)
    return lambda: fd.writeprotect(base, scene.length, protect=False)


def _unprotect_shared(scene: Scene) -> Operation:
    """Do so while a child has the pages too."""
    scene.process.fork()
    return _unprotect(scene)


def _move(scene: Scene, offset: int = 0) -> Operation:
    """Move all pages to a place that many pages off the start of a table."""
    _, process, base, _ = scene
    target = process.mmap(2 * BLOCK) + offset * PAGE
    fd = process.userfaultfd()
    fd.register(target, scene.length)
    return lambda: fd.move(target, base, scene.length)


def _move_askew(scene: Scene) -> Operation:
    return _move(scene, 100)


def _rewrite(scene: Scene) -> Operation:
    """Write to all pages after a fork; the child has gone."""
    scene.process.fork().exit()
    return lambda: _write_all(scene)


def _copy(scene: Scene) -> Operation:
    """Write to all pages after a fork; the child is still there."""
    scene.process.fork()
    return lambda: _write_all(scene)


def _write_all(scene: Scene) -> None:
    for page in range(scene.pages):
        scene.process.write(scene.base + page * PAGE, page)


def _after_reclaim(scene: Scene) -> Operation:
    """Open all pages but the first, which was paged out just before."""
    kernel, process, base, _ = scene
    kernel.swapfile.swapon(64)
    rest = scene.length - PAGE
    process.mprotect(base + PAGE, rest, "none")
    process.madvise(base, PAGE, "pageout")
    return lambda: process.mprotect(base + PAGE, rest, "rw")


@dataclass(frozen=True, slots=True)
class Case:
    """One operation that a patch text does not speak of.

    Attributes:
        prepare: Brings a scene to where the operation begins, and returns it.
        why: The reason for what there is to see.
        size: What the process has, as `_start` takes it.
    """

    prepare: Callable[[Scene], Operation]
    why: str
    size: str = "pages"


CASES: Final[Mapping[str, Case]] = {
    "mprotect gives a right": Case(
        _allow, "The rule compares bits, and asks for no direction."
    ),
    "mprotect opens huge pages": Case(
        _open,
        "Each entry of a block is flushed while it is hidden, before the rule is "
        "asked; the rule saves the one flush at the end.",
        "blocks",
    ),
    "userfaultfd: unprotect pages of one's own": Case(
        _unprotect, "The pages become writable in the same pass, which hardware reads."
    ),
    "userfaultfd: unprotect pages that a child has": Case(
        _unprotect_shared, "Only the mark of userfaultfd goes, which no walker reads."
    ),
    "MOVE, both places alike": Case(
        _move, "A batch is one range; without range TLBIs it is as many as pages."
    ),
    "MOVE, 100 pages askew": Case(
        _move_askew, "A batch also ends where a table of the target ends."
    ),
    "rewriting after fork, in groups of 64 KiB": Case(
        _rewrite,
        "The first write to each contiguous group breaks it up, and that is told to "
        "all; the others only gain a right.",
        "groups",
    ),
    "rewriting after fork, the child stays": Case(
        _copy, "Each write copies: another frame, and every CPU must know."
    ),
    "mprotect after a page was reclaimed": Case(
        _after_reclaim,
        "Reclaim may have put a flush off, so the next call that changes entries "
        "flushes the whole address space.",
    ),
}
"""The cases, by name."""

PAGES: Final = Parameter(
    "pages", "pages (or huge pages)", "", 64, (2, 8, 64, 256, 511, 512)
)


def counted(case: str, version: str, model: str, pages: int) -> Counts:
    """Return what the operation of a case issues on one kernel and CPU."""
    wanted = CASES[case]
    scene = _start(version, model, pages, wanted.size)
    operation = wanted.prepare(scene)
    with counting(scene.kernel.machine) as counts:
        operation()
    return counts


class NotSaid(Exploration):
    """One case, on the kernel without the fast commits and with them.

    Columns: ``quantity``, ``before``, ``after``: what `tlbkit.lab.flow.reach` tells.
    """

    name = "not-said"
    title = "Is anything saved here?"
    parameters = (
        menu("case", "what is done", tuple(CASES)),
        menu("cpu", "CPU", ("neoverse-n1", "neoverse-v2")),
        PAGES,
    )

    def answer(self, params: Mapping[str, Value]) -> Answer:
        """Do it on both kernels."""
        settings = self.settings(params)
        case, cpu = str(settings["case"]), str(settings["cpu"])
        old, new = (
            counted(case, version, cpu, int(settings["pages"])) for version in VERSIONS
        )
        before, after = reach(old), reach(new)
        rows = [
            [f"{name} {which}", str(was[which]), str(now[which])]
            for name, was, now in (
                ("TLBI", old.tlbi, new.tlbi),
                ("DSB", old.dsb, new.dsb),
            )
            for which in sorted(was.keys() | now.keys())
        ]
        less = [name for name in before if after[name] < before[name]]
        saved = (
            f"Fewer than before: {', '.join(less)}." if less else "Nothing is saved."
        )
        return Answer(
            columns={
                "quantity": list(before),
                "before": list(before.values()),
                "after": list(after.values()),
            },
            header=["issued", *VERSIONS],
            rows=rows,
            text=f"{saved} {CASES[case].why}",
        )
