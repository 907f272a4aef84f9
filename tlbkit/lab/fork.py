"""The scenarios of fork: what does the parent pay to write its memory again?"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from tlbkit.lab.flow import FEWER_PAGES, THP, THREADS, Flow, written
from tlbkit.lab.parameter import Parameter
from tlbkit.lab.published import gain, quote, share_rows
from tlbkit.lab.scenario import CPUS, Claim
from tlbkit.patches.write_fault_local_flush import PATCH as FLUSH_LOCALLY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tlbkit.lab.parameter import Value
    from tlbkit.lab.result import Comparison
    from tlbkit.lab.scenario import Operation
    from tlbkit.linux.process import Process
    from tlbkit.patches.kernels import Kernel

CURVE: Final = (1, 8, 64)
WRITERS: Final = Parameter(
    "writers", "Threads that write each page again", "threads", 1, (1, 2, 4, 8)
)
BOTH: Final = Parameter("both", "The child writes too", "", "no", ("no", "yes"))
WORK: Final = Parameter(
    "work",
    "The program's own work on each page written",
    "ns",
    0,
    (0, 1000, 2000, 3700, 5000, 9916, 20000),
    most=1_000_000,
)
"""3,700 and 9,916 ns are what fits the published share and the published score."""

ROUNDS: Final = Parameter("rounds", "Forks", "forks", 1, (1, 2, 3), most=8)


SAME_END: Final = Claim(
    "both kernels end the operation the same way",
    lambda both: both.before.outcome == both.after.outcome,
)
NO_MORE: Final = Claim(
    "the newer kernel broadcasts no more often",
    lambda both: both.after.counts.broadcasts <= both.before.counts.broadcasts,
)


def _shared(
    kernel: Kernel, params: Mapping[str, Value]
) -> tuple[Process, Process, int, tuple[int, ...]]:
    """Return a parent and its child that share pages, where, and whose they are."""
    parent, address, cpus = written(kernel, params)
    child = parent.fork(cpu=len(kernel.machine.cpus) - 1)
    kernel.swap.lru_add_drain_all()
    return parent, child, address, cpus


def _cache_everywhere(
    kernel: Kernel, process: Process, address: int, cpus: tuple[int, ...]
) -> None:
    """Let every thread read every page: from here on it holds read-only entries."""
    size = kernel.pgtable.page_size
    for cpu in sorted(set(cpus)):
        for page in range(len(cpus)):
            process.read(address + page * size, cpu=cpu)


class ForkReuse(Flow):
    """The child has gone, and the parent writes its pages again.

    Every thread has read every page since the fork, so each CPU holds entries that are
    too strict as soon as another one has written.
    """

    name = "fork-reuse"
    title = "The child has gone: who must hear that the parent may write again?"
    operation = "the parent writes its pages again"
    curve = CURVE
    parameters = (FEWER_PAGES, CPUS, THREADS, WRITERS, THP)
    claims = (SAME_END, NO_MORE)

    def prepare(self, kernel: Kernel, params: Mapping[str, Value]) -> Operation:
        """Write, fork, let the child exit, and let every thread read every page."""
        parent, child, address, cpus = _shared(kernel, params)
        child.exit()
        _cache_everywhere(kernel, parent, address, cpus)
        size = kernel.pgtable.page_size
        count, cores = int(params["threads"]), len(kernel.machine.cpus)
        writers = min(int(params["writers"]), count, cores)

        def rewrite() -> str:
            for page, cpu in enumerate(cpus):
                for other in range(writers):
                    number = (cpu + other) % min(count, cores)
                    parent.write(address + page * size, page, cpu=number)
            return "ok"

        return rewrite

    def reason(self, settings: Mapping[str, Value]) -> str:
        """Say what the rule is."""
        if int(settings["writers"]) > 1:
            return (
                "a page that only gains write permission is flushed on the CPU that "
                "faulted; each further writer that holds the strict entry takes one "
                "spurious fault"
            )
        return (
            "a page that only gains write permission is flushed on the CPU that "
            "faulted, and no other CPU writes to it here"
        )


class ForkCopy(Flow):
    """The child stays, so each page that the parent writes is copied."""

    name = "fork-copy"
    title = "The child stays: what does copying a page cost the others?"
    operation = "the parent writes the pages that it shares"
    curve = CURVE
    parameters = (FEWER_PAGES, CPUS, THREADS, BOTH, THP)
    claims = (SAME_END, NO_MORE)

    def prepare(self, kernel: Kernel, params: Mapping[str, Value]) -> Operation:
        """Write, fork, and let every thread of the parent read every page."""
        parent, child, address, cpus = _shared(kernel, params)
        _cache_everywhere(kernel, parent, address, cpus)
        size = kernel.pgtable.page_size

        def write() -> str:
            for page, cpu in enumerate(cpus):
                parent.write(address + page * size, page, cpu=cpu)
                if params["both"] == "yes":
                    child.write(address + page * size, page)
            return "ok"

        return write

    def reason(self, settings: Mapping[str, Value]) -> str:
        """Say what the rule is."""
        copied = "a copy changes the frame, so every CPU must forget the old one first"
        if settings["both"] == "no":
            return copied
        return f"{copied}; the child, then alone, reuses its page"


class ForkStorm(Flow):
    """A program with much memory that forks again and again, as usemem was made to.

    Each round forks, lets the child start another program, and has every thread write
    its share of the pages again. What the program does with a page takes time of its
    own that no kernel changes: by default none, and then the shares are upper ones.
    """

    name = "fork-storm"
    title = "Forking under load: what do the other CPUs hear?"
    operation = "rounds of fork, exec and rewriting"
    curve = CURVE
    parameters = (
        replace(FEWER_PAGES, default=128),
        replace(CPUS, choices=(*CPUS.choices, 144, 192)),
        replace(THREADS, choices=(*THREADS.choices, 192)),
        ROUNDS,
        WORK,
        THP,
    )
    claims = (SAME_END, NO_MORE)

    def prepare(self, kernel: Kernel, params: Mapping[str, Value]) -> Operation:
        """Map the pages, and let each be written by its thread."""
        size = kernel.pgtable.page_size
        process, address, cpus = written(kernel, params)

        def storm() -> str:
            for round_ in range(int(params["rounds"])):
                child = process.fork(cpu=len(kernel.machine.cpus) - 1)
                child.execve()
                for page, cpu in enumerate(cpus):
                    process.write(address + page * size, round_, cpu=cpu)
                child.exit()
            return "ok"

        return storm

    def reason(self, settings: Mapping[str, Value]) -> str:
        """Say what the rule is."""
        del settings
        return (
            "fork itself flushes by address space, once; what differs is each page "
            "that is written again"
        )

    def published_rows(self, both: Comparison) -> list[list[str]]:
        """Return the share of the flushes and what is gained without them."""
        score = FLUSH_LOCALLY.figure("score gained")
        settings = both.before.params
        pages, threads, cpus = (int(settings[n]) for n in ("pages", "threads", "cpus"))
        work = float(int(settings["work"]) * int(settings["rounds"]) * pages)
        # Each thread writes its share, at the same time as the others.
        work_each = work / min(threads, cpus, pages)
        return [
            *share_rows(
                both,
                FLUSH_LOCALLY.figure("flush cycles before"),
                FLUSH_LOCALLY.figure("flush cycles after"),
                work,
            ),
            [
                "predicted, done in the same time (%)",
                "",
                f"+{gain(both, work_each):.1f}",
            ],
            ["published, done in the same time (%)", "", f"{quote(score)}"],
        ]
