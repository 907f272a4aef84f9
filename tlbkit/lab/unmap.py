"""The scenario of munmap: what goes, in how many flushes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.lab.flow import PAGES, THP, THREADS, Flow, written
from tlbkit.lab.fork import NO_MORE, SAME_END
from tlbkit.lab.scenario import CPUS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tlbkit.lab.parameter import Value
    from tlbkit.lab.scenario import Operation
    from tlbkit.patches.kernels import Kernel


class Unmap(Flow):
    """One munmap of pages that several threads have touched."""

    name = "unmap"
    title = "Unmapping a range: leaves first, then tables"
    operation = "one munmap call"
    parameters = (PAGES, CPUS, THREADS, THP)
    claims = (SAME_END, NO_MORE)

    def prepare(self, kernel: Kernel, params: Mapping[str, Value]) -> Operation:
        """Map the pages, and let each be written by its thread."""
        process, address, cpus = written(kernel, params)

        def unmap() -> str:
            process.munmap(address, len(cpus) * kernel.pgtable.page_size)
            return "ok"

        return unmap

    def reason(self, settings: Mapping[str, Value]) -> str:
        """Say why there are two flushes."""
        del settings
        return (
            "one flush takes the leaf entries, another the tables that no other "
            "process uses; none of the commits changes that"
        )
