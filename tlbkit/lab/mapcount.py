"""The counts of a folio, step by step, as two processes map it and let it go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tlbkit.arm64.machine import Machine
from tlbkit.errors import InputError
from tlbkit.lab.answer import Answer
from tlbkit.lab.exploration import Exploration, menu
from tlbkit.lab.parameter import Parameter
from tlbkit.linux.include.linux.mm_types import LargeFolio
from tlbkit.linux.kernel.config import Config
from tlbkit.patches.kernels import Kernel

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tlbkit.lab.parameter import Value
    from tlbkit.linux.include.linux.mm_types import VmArea

NOTHING: Final = "nothing"
COUNTINGS: Final = ("each page has a count", "no counts for pages")
STEPS: Final = 7


class Block:
    """A folio of one block, and two processes that may map it.

    Args:
        exact: Each page has a count of its own.

    Attributes:
        kernel: The kernel.
        folio: The folio.
        moves: What can be done, by name: each refuses what cannot be done now.
    """

    def __init__(self, *, exact: bool) -> None:
        self.kernel = Kernel(Machine(1), config=Config(page_mapcount=exact))
        folio = self.kernel.page_alloc.alloc(self.kernel.pgtable.hpage_pmd_order)
        assert isinstance(folio, LargeFolio)
        self.folio = folio
        self._areas = {name: self._area() for name in "AB"}
        self._blocks = {"A": 0, "B": 0}
        self._pages: dict[str, set[int]] = {"A": set(), "B": set()}
        self.moves: dict[str, Callable[[], None]] = {
            NOTHING: lambda: None,
            "fork: B gets A's PMD": self._fork,
            "A splits: page entries in": lambda: self._pages_in("A"),
            "A's PMD out": lambda: self._block_out("A"),
            "A's page 0 out": lambda: self._pages_out("A", only=0),
            "all of A's pages out": lambda: self._pages_out("A"),
            "B splits: page entries in": lambda: self._pages_in("B"),
            "B's PMD out": lambda: self._block_out("B"),
            "all of B's pages out": lambda: self._pages_out("B"),
        }

    def _area(self) -> VmArea:
        process = self.kernel.spawn()
        size = self.kernel.pgtable.pmd_size
        area = self.kernel.vma.vma_lookup(process.mm, process.mmap(size))
        assert area is not None
        self.kernel.rmap.anon_vma_prepare(area)
        return area

    def first(self) -> None:
        """Let A map the new folio by a PMD."""
        area = self._areas["A"]
        self.kernel.rmap.folio_add_new_anon_rmap(self.folio, area, area.start)
        self._blocks["A"] = 1

    def _fork(self) -> None:
        self._need("A", block=True)
        child, parent = self._areas["B"], self._areas["A"]
        self.kernel.rmap.folio_try_dup_anon_rmap_pmd(self.folio, child, parent)
        self._blocks["B"] += 1

    def _pages_in(self, who: str) -> None:
        self._need(who, block=True)
        if self._pages[who]:
            raise InputError(f"{who} has page entries already; take them out first")
        folio, area = self.folio, self._areas[who]
        self.kernel.rmap.folio_add_anon_rmap_ptes(
            folio, folio.pfn, folio.nr_pages, area, exclusive=False
        )
        self._pages[who] = set(range(folio.nr_pages))

    def _block_out(self, who: str) -> None:
        self._need(who, block=True)
        self.kernel.rmap.folio_remove_rmap_pmd(self.folio, self._areas[who])
        self._blocks[who] -= 1

    def _pages_out(self, who: str, only: int | None = None) -> None:
        self._need(who, block=False)
        pages = self._pages[who] if only is None else self._pages[who] & {only}
        if not pages:
            raise InputError(f"{who}'s page {only} is out already")
        first = min(pages)
        self.kernel.rmap.folio_remove_rmap_ptes(
            self.folio, self.folio.pfn + first, len(pages), self._areas[who]
        )
        self._pages[who] -= set(pages)

    def _need(self, who: str, *, block: bool) -> None:
        """Refuse a step for which there is no such entry."""
        if not (self._blocks[who] if block else self._pages[who]):
            what = "PMD entry" if block else "page entries"
            raise InputError(f"{who} has no {what} at this step; change one before it")

    def row(self, what: str) -> list[str]:
        """Return what is counted now, as the kernel stores it."""
        folio, node = self.folio, self.kernel.vmstat.node
        return [
            what,
            str(folio.entire_mapcount - 1),
            str(folio.mapcount - 1),
            f"{folio.nr_pages_mapped:#x}",
            str(node["NR_ANON_MAPPED"]),
            str(node["NR_ANON_THPS"]),
            "yes" if folio.partially_mapped else "no",
        ]


_DEFAULTS: Final = (
    "fork: B gets A's PMD",
    "A splits: page entries in",
    "A's PMD out",
    "A's page 0 out",
    "B's PMD out",
    "all of A's pages out",
    NOTHING,
)
_MOVES: Final = tuple(Block(exact=True).moves)


class Mapcount(Exploration):
    """A block that A maps first; then whatever the knobs say.

    Columns: ``step``, ``mapped``, ``blocks`` are the statistics after each step, in
    pages; ``at``, ``at_label`` the last step.
    """

    name = "mapcount"
    title = "Map and unmap a block, and watch it counted"
    parameters = (
        menu("counting", "kernel", COUNTINGS),
        *(
            Parameter(f"step{number}", f"step {number}", "", default, _MOVES)
            for number, default in enumerate(_DEFAULTS, 1)
        ),
    )

    def answer(self, params: Mapping[str, Value]) -> Answer:
        """Go through the steps; errors as in `Exploration`.

        Raises:
            InputError: A step takes away what is not there.
        """
        settings = self.settings(params)
        block = Block(exact=settings["counting"] == COUNTINGS[0])
        block.first()
        rows = [block.row("A maps it, by a PMD")]
        for number in range(1, STEPS + 1):
            move = str(settings[f"step{number}"])
            try:
                block.moves[move]()
            except InputError as error:
                raise InputError(f"step{number}={move}: {error}") from None
            if move != NOTHING:
                rows.append(block.row(move))
        node = block.kernel.vmstat.node
        left = block.folio.mapcount
        return Answer(
            columns={
                "step": list(range(len(rows))),
                "mapped": [int(row[4]) for row in rows],
                "blocks": [int(row[5]) for row in rows],
                "at": [len(rows) - 1],
                "at_label": [rows[-1][0]],
            },
            header=[
                "step",
                "entire",
                "all",
                "pages",
                "MAPPED",
                "THPS",
                "queued",
            ],
            rows=rows,
            text=(
                f"{left} entries are left; {node['NR_ANON_MAPPED']} pages count as "
                "mapped. The columns are _entire_mapcount and _large_mapcount "
                "as the kernel stores them, less one; then _nr_pages_mapped, "
                "NR_ANON_MAPPED and NR_ANON_THPS."
            ),
        )
