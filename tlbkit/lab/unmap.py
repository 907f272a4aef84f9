"""The scenario of munmap: what goes, in how many flushes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.lab.flow import PAGES, THP, THREADS, Flow, cpus_of, mapped
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
        size = kernel.pgtable.page_size
        pages = int(params["pages"])
        process = kernel.spawn(cpu=0)
        address = mapped(process, pages * size, params["thp"])
        cpus = cpus_of(kernel, pages, int(params["threads"]))
        for page, cpu in enumerate(cpus):
            process.write(address + page * size, page, cpu=cpu)

        def unmap() -> str:
            process.munmap(address, pages * size)
            return "ok"

        return unmap

    def reason(self, settings: Mapping[str, Value]) -> str:
        """Say why there are two flushes."""
        del settings
        return (
            "one flush takes the leaf entries, another the tables that nobody else "
            "uses; none of the commits changes that"
        )
