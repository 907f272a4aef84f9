"""rmap as it was: where it kept its statistics, and what it did about wrong levels."""

from itertools import permutations, product
from typing import Any

import pytest

from tlbkit.linux.include.linux.mm_types import AnonVma, LargeFolio
from tlbkit.linux.include.linux.pgtable import PgtableLevel
from tlbkit.linux.mm.page_alloc import BadPageError
from tlbkit.linux.tests.mapped import (
    apply,
    area_of,
    entries_by_level,
    folio_of,
    kernel_of,
    share,
    state,
    stored,
)
from tlbkit.patches.pgtable_level import RmapLevel

BOTH = pytest.mark.parametrize("exact", [True, False], ids=["page counts", "none"])
STATISTICS = "878d9e8cebbb"
LEVELS = "b22cc9a9c7ff"


# -- 878d9e8cebbb: where the statistics are kept ---------------------------------------


@BOTH
@pytest.mark.parametrize("kind", ["anon", "shmem", "file"])
def test_old_and_new_statistics_agree_on_every_sequence(exact, kind):
    """All sequences of three additions and all orders of removal: one and the same."""
    moves = [("pmd", 0, 0, 512), ("pte", 1, 0, 512), ("pte", 0, 7, 9), ("pmd", 1, 0, 0)]
    kernels = [kernel_of(exact=exact), kernel_of(exact=exact, without=[STATISTICS])]
    setups = []
    for kernel in kernels:
        folio = folio_of(kernel, 9, kind)
        areas = [area_of(kernel), area_of(kernel)]
        share(folio, *areas)
        setups.append((kernel, folio, areas))
    compared = 0
    for steps in product(moves, repeat=3):
        for order in permutations(range(3)):
            traces = []
            for kernel, folio, areas in setups:
                trace = []
                undo = []
                for step in steps:
                    undo.append(apply(kernel, folio, areas, step))
                    trace.append(dict(kernel.vmstat.node))
                for place in order:
                    undo[place]()
                    trace.append(dict(kernel.vmstat.node))
                traces.append(trace)
            assert traces[0] == traces[1]
            compared += 1
    assert compared == 4**3 * 6


def test_statistics_now_come_before_the_check():
    """Where the check of the anon_vma fails, the new order has counted already."""
    counted = []
    for without in ([], [STATISTICS]):
        kernel = kernel_of(without=without, debug=True)
        folio: Any = folio_of(kernel, 9)
        stranger = area_of(kernel)
        assert isinstance(folio.mapping, AnonVma)
        with pytest.raises(BadPageError, match="does not belong"):
            kernel.rmap.folio_add_anon_rmap_pmd(folio, stranger, exclusive=False)
        counted.append(kernel.vmstat.node["NR_ANON_MAPPED"])
        assert folio.mapcount == 1, "the counts have changed in both"
    assert counted == [512, 0]


def test_such_levels_did_nothing_before_and_warned_once():
    """The old switches fell through: a warning in a debug kernel, and no counts."""
    kernel = kernel_of(without=[LEVELS], debug=True)
    folio: Any = folio_of(kernel, 9)
    area, other = area_of(kernel), area_of(kernel)
    share(folio, area, other)
    before = {k: v for k, v in state(kernel, folio).items() if k != "taints"}
    for call in entries_by_level(kernel, folio, area, other).values():
        call(PgtableLevel.P4D)
    after = {k: v for k, v in state(kernel, folio).items() if k != "taints"}
    assert after == before
    assert len(kernel.panic.warnings) == 1


def test_the_three_real_levels_are_counted_alike():
    """For PTE, PMD and PUD nothing but the names changed, and not even the numbers."""
    assert [int(level) for level in RmapLevel] == [
        int(PgtableLevel[level.name]) for level in RmapLevel
    ]
    results = []
    for without in ([], [LEVELS]):
        seen = []
        for level in (PgtableLevel.PTE, PgtableLevel.PMD, PgtableLevel.PUD):
            order = 18 if level is PgtableLevel.PUD else 9
            for name in ("add", "add file", "dup", "remove"):
                kernel = kernel_of(without=without, debug=True)
                folio: Any = LargeFolio(1 << 18, order)
                area, other = area_of(kernel), area_of(kernel)
                calls = entries_by_level(kernel, folio, area, other)
                if name == "remove":
                    calls["add"](level)
                calls[name](level)
                seen.append(
                    (
                        *stored(folio),
                        sum(folio.page_mapcount),
                        *kernel.vmstat.node.values(),
                    )
                )
                assert not kernel.panic.warnings
        results.append(seen)
    assert results[0] == results[1]
