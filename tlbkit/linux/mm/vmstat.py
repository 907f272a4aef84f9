"""Statistics of memory: mm/vmstat.c, as far as reverse mapping keeps them.

There is one node, and there are no memory control groups, so that what the kernel
counts for both is one number here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, get_args

if TYPE_CHECKING:
    from tlbkit.linux.kernel.kernel import Kernel

NodeStat = Literal[
    "NR_ANON_MAPPED",
    "NR_FILE_MAPPED",
    "NR_ANON_THPS",
    "NR_SHMEM_PMDMAPPED",
    "NR_FILE_PMDMAPPED",
]
NODE_STATS: Final[tuple[NodeStat, ...]] = get_args(NodeStat)


class Vmstat:
    """What is mapped, in pages.

    Events: ``stat``; ``what`` is the item, with ``old`` and ``new`` value.

    Attributes:
        node: Each item of `NODE_STATS`. Those of blocks count pages, not blocks.
        mthp_nr_anon: For each order above 0, anonymous folios of that size.
    """

    __slots__ = ("_machine", "mthp_nr_anon", "node")

    def __init__(self, kernel: Kernel) -> None:
        self._machine = kernel.machine
        self.node: dict[NodeStat, int] = dict.fromkeys(NODE_STATS, 0)
        self.mthp_nr_anon: dict[int, int] = {}

    def mod_node_page_state(self, item: NodeStat, delta: int) -> None:
        """Count *delta* pages more.

        Source: mm/vmstat.c, mod_node_page_state()
        """
        old = self.node[item]
        self.node[item] = old + delta
        if "stat" in self._machine.events.heard:
            number = self._machine.running.number
            self._machine.events.emit(number, "stat", item, old, old + delta)

    def lruvec_stat_mod_folio(self, item: NodeStat, delta: int) -> None:
        """Do so for the node and, in the kernel, for the folio's control group.

        Source: mm/memcontrol.c, lruvec_stat_mod_folio()
        """
        self.mod_node_page_state(item, delta)

    def mod_mthp_stat(self, order: int, delta: int) -> None:
        """Count large anonymous folios of 2**order pages: MTHP_STAT_NR_ANON.

        Source: include/linux/huge_mm.h, mod_mthp_stat()
        """
        if order:
            self.mthp_nr_anon[order] = self.mthp_nr_anon.get(order, 0) + delta
