"""The scenario of userfaultfd MOVE: a garbage collector's compaction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tlbkit.lab.flow import FEWER_PAGES, THP, THREADS, Flow, cpus_of, mapped
from tlbkit.lab.fork import NO_MORE, SAME_END
from tlbkit.lab.parameter import Parameter
from tlbkit.lab.published import quote, saving, share_rows
from tlbkit.lab.scenario import CPUS
from tlbkit.linux.include.uapi.asm_generic.errno import SystemCallError
from tlbkit.patches.userfaultfd_move_batching import PATCH as MOVE_IN_BATCHES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tlbkit.lab.parameter import Value
    from tlbkit.lab.result import Comparison
    from tlbkit.lab.scenario import Operation
    from tlbkit.patches.kernels import Kernel

RUN: Final = Parameter(
    "run",
    "Pages between two holes",
    "pages",
    4096,
    (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096),
)
OFFSET: Final = Parameter(
    "offset",
    "Pages by which the target is out of step with its 2 MiB",
    "pages",
    0,
    (0, 1, 100, 256, 511),
)


class Move(Flow):
    """One UFFDIO_MOVE of live pages, as a compacting garbage collector makes it.

    After each run of pages the source has a hole of one page, which the request steps
    over. With huge pages the runs have no holes and source and target are aligned.
    """

    name = "move"
    title = "Compaction: moving live pages together"
    operation = "one UFFDIO_MOVE request"
    parameters = (FEWER_PAGES, CPUS, THREADS, RUN, OFFSET, THP)
    claims = (SAME_END, NO_MORE)

    def prepare(self, kernel: Kernel, params: Mapping[str, Value]) -> Operation:
        """Lay out live pages and holes, and watch an empty target."""
        size = kernel.pgtable.page_size
        block = kernel.pgtable.pmd_size
        pages, run = int(params["pages"]), int(params["run"])
        huge = params["thp"] == "yes"
        live = _layout(pages, pages if huge else run)
        length = (live[-1] + 1) * size
        process = kernel.spawn(cpu=0)
        room = -(-length // block) * block + block
        source = mapped(process, room, params["thp"])
        target = process.mmap(room, "rw") + (
            0 if huge else int(params["offset"]) * size
        )
        cpus = cpus_of(kernel, pages, int(params["threads"]))
        for page, cpu in zip(live, cpus, strict=True):
            process.write(source + page * size, page, cpu=cpu)
        fd = process.userfaultfd()
        fd.register(target, length)

        def move() -> str:
            try:
                moved = fd.move(target, source, length, allow_src_holes=True)
            except SystemCallError as error:
                return error.errno
            return f"{moved} bytes"

        return move

    def reason(self, settings: Mapping[str, Value]) -> str:
        """Say what ends a run."""
        if settings["thp"] == "yes":
            return (
                "whole huge pages were moved with one flush each before, and still are"
            )
        return (
            "consecutive pages are cleared together and flushed once; a hole, and "
            "the end of a page table of either side, ends a run"
        )

    def published_rows(self, both: Comparison) -> list[list[str]]:
        """Return the share of the flushes and the time that batching saves."""
        saved = MOVE_IN_BATCHES.figure("compaction time saved")
        before = MOVE_IN_BATCHES.figure("flush share before")
        return [
            *share_rows(both, before, None),
            ["predicted, time saved (%)", "", f"{saving(both):.1f}"],
            ["published, time saved (%)", "", quote(saved)],
        ]


def _layout(pages: int, run: int) -> list[int]:
    """Return where *pages* live pages lie, with a hole of one page after each *run*.

    >>> _layout(5, 2)
    [0, 1, 3, 4, 6]
    """
    return [page + page // run for page in range(pages)]
