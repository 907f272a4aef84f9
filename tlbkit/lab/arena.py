"""The scenario of an allocator's arena: growing it piece by piece."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tlbkit.lab.flow import PAGES, THREADS, Flow, cpus_of
from tlbkit.lab.fork import NO_MORE, SAME_END
from tlbkit.lab.parameter import Parameter
from tlbkit.lab.scenario import CPUS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tlbkit.lab.parameter import Value
    from tlbkit.lab.scenario import Operation
    from tlbkit.patches.kernels import Kernel

STEP: Final = Parameter("step", "Pages a call", "pages", 32, (1, 8, 32, 128, 512))
HISTORY: Final = Parameter(
    "history", "What the arena was before", "", "used", ("used", "fresh")
)


class Arena(Flow):
    """An arena without rights that becomes readable and writable step by step."""

    name = "arena"
    title = "Growing an arena: from no rights to read and write"
    operation = "growing the whole arena"
    parameters = (PAGES, CPUS, THREADS, STEP, HISTORY)
    claims = (SAME_END, NO_MORE)

    def prepare(self, kernel: Kernel, params: Mapping[str, Value]) -> Operation:
        """Reserve the arena; a used one was written by its threads and closed again."""
        size = kernel.pgtable.page_size
        pages, step = int(params["pages"]), int(params["step"])
        process = kernel.spawn(cpu=0)
        address = process.mmap(pages * size, "none", noreserve=True)
        if params["history"] == "used":
            process.mprotect(address, pages * size, "rw")
            cpus = cpus_of(kernel, pages, int(params["threads"]))
            for page, cpu in enumerate(cpus):
                process.write(address + page * size, page, cpu=cpu)
            process.mprotect(address, pages * size, "none")

        def grow() -> str:
            for first in range(0, pages, step):
                length = min(step, pages - first) * size
                process.mprotect(address + first * size, length, "rw")
            return "ok"

        return grow

    def reason(self, settings: Mapping[str, Value]) -> str:
        """Say what the hardware would see of it."""
        if settings["history"] == "fresh":
            return "a fresh arena has no entries, so no kernel flushes"
        return "the old entries are invalid, so no TLB can hold them"
