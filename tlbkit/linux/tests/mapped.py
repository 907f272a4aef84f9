"""What the tests of reverse mapping share: folios, areas, and all that is counted."""

from typing import Any

from tlbkit.arm64.machine import Machine
from tlbkit.linux.include.linux.mm_types import (
    Folio,
    LargeFolio,
    PG_swapbacked,
    VmArea,
)
from tlbkit.linux.kernel.config import Config
from tlbkit.patches.kernels import Kernel


def kernel_of(*, exact=True, without=(), model="neoverse-v2", debug=False):
    """A kernel that counts pages, or that does not."""
    config = Config(page_mapcount=exact, debug_vm=debug)
    return Kernel(Machine(1, model), "fixed", without, config)


def area_of(kernel: Kernel) -> VmArea:
    """An area of an address space of its own, ready for private pages."""
    process = kernel.spawn()
    area = kernel.vma.vma_lookup(process.mm, process.mmap(4 * kernel.pgtable.pmd_size))
    assert area is not None
    kernel.rmap.anon_vma_prepare(area)
    return area


def folio_of(kernel: Any, order: int, kind: str = "anon") -> Folio:
    """A folio that nobody maps: anonymous, of shared memory, or of a file."""
    folio: Folio = kernel.page_alloc.alloc(order)
    if kind == "anon":
        folio.mapping = area_of(kernel).anon_vma
    if kind != "file":
        folio.flags |= PG_swapbacked
    return folio


def share(folio: Folio, *areas: VmArea) -> None:
    """Let areas belong to the family of an anonymous folio."""
    for area in areas:
        area.anon_vma = folio.mapping if folio.anon else area.anon_vma


def state(kernel: Any, folio: Folio) -> dict[str, Any]:
    """Everything that rmap may change."""
    seen: dict[str, Any] = {
        name: getattr(folio, name)
        for kind in type(folio).__mro__
        for name in getattr(kind, "__slots__", ())
        if name not in {"pfn", "order"}
    }
    for name in ("page_mapcount", "exclusive", "mm_id", "mm_id_mapcount"):
        if name in seen:
            seen[name] = list(seen[name])
    return {**seen, **kernel.vmstat.node, "taints": set(kernel.panic.taints)}


def stored(folio: LargeFolio) -> tuple[int, int, int]:
    """The counts as the kernel stores them, less one where it does."""
    return folio.entire_mapcount - 1, folio.mapcount - 1, folio.nr_pages_mapped


def apply(kernel, folio, areas, step):
    """Map as *step* says; return what takes it back."""
    level, number, first, nr = step
    area, rmap = areas[number], kernel.rmap
    if level == "pmd":
        if folio.anon:
            rmap.folio_add_anon_rmap_pmd(folio, area, exclusive=False)
        else:
            rmap.folio_add_file_rmap_pmd(folio, area)
        return lambda: rmap.folio_remove_rmap_pmd(folio, area)
    nr = min(nr, folio.nr_pages - first)
    pfn = folio.pfn + first
    if folio.anon:
        rmap.folio_add_anon_rmap_ptes(folio, pfn, nr, area, exclusive=False)
    else:
        rmap.folio_add_file_rmap_ptes(folio, pfn, nr, area)
    return lambda: rmap.folio_remove_rmap_ptes(folio, pfn, nr, area)


def entries_by_level(kernel, folio, area, other):
    """Every function that takes a level, ready to be called with one."""
    rmap = kernel.rmap
    pages = (folio, folio.pfn, folio.nr_pages)
    return {
        "check": lambda level: rmap.folio_rmap_sanity_checks_(*pages, level),
        "add": lambda level: rmap.folio_add_rmap_(*pages, area, level),
        "add anon": lambda level: rmap.folio_add_anon_rmap_(
            *pages, area, level, exclusive=True
        ),
        "add file": lambda level: rmap.folio_add_file_rmap_(*pages, area, level),
        "mark": lambda level: rmap._mark_exclusive(*pages, level),
        "remove": lambda level: rmap.folio_remove_rmap_(*pages, area, level),
        "dup": lambda level: rmap.folio_dup_file_rmap_(*pages, other, level),
        "dup anon": lambda level: rmap.folio_try_dup_anon_rmap_(
            *pages, other, area, level
        ),
    }
