"""The gather, call by call and flush by flush: what is noted, and what it asks for."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from tlbkit.arm64.machine import Machine
from tlbkit.arm64.models import NEOVERSE_V2
from tlbkit.lab.answer import Answer
from tlbkit.lab.exploration import SWITCH, Exploration, menu, switch
from tlbkit.lab.parameter import Parameter
from tlbkit.linux.include.linux.mm import VM_EXEC, VM_HUGETLB, VM_PFNMAP
from tlbkit.linux.include.linux.mm_types import VmArea, ptdesc_pmd_pts_inc
from tlbkit.observe.counters import counting
from tlbkit.patches.kernels import Kernel
from tlbkit.patches.unshare_walk_cache import PATCH as WALK_CACHE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tlbkit.lab.parameter import Value
    from tlbkit.linux.include.asm_generic.tlb import MmuGather

PAGE: Final = 4096
HUGE: Final = 2 << 20
GIB: Final = 1 << 30

FLAGS: Final = (
    "cleared_ptes",
    "cleared_pmds",
    "cleared_puds",
    "cleared_p4ds",
    "freed_tables",
    "unshared_tables",
    "fully_unshared_tables",
    "vma_huge",
    "vma_exec",
    "vma_pfn",
)
"""What a gather notes besides its range."""

CALLS: Final = (
    "tlb_unshare_pmd_ptdesc, 2 users",
    "tlb_unshare_pmd_ptdesc, 3 users",
    "tlb_remove_tlb_entry",
    "tlb_remove_huge_tlb_entry, 2 MiB",
    "tlb_remove_huge_tlb_entry, 1 GiB",
    "pte_free_tlb",
    "pmd_free_tlb",
    "pud_free_tlb",
    "tlb_start_vma, huge pages",
    "tlb_start_vma, code",
    "tlb_start_vma, bare frames",
)
"""The calls that note something."""


def _calls(kernel: Kernel, tlb: MmuGather) -> dict[str, Callable[[], None]]:
    """Every call that notes something, ready to be made."""
    gather = kernel.gather

    def table(further: int = 0) -> Callable[[], None]:
        """Unshare a table that *further* others use besides."""
        folio = kernel.page_alloc.alloc_table("PMD table")
        assert folio is not None
        for _ in range(further):
            ptdesc_pmd_pts_inc(folio)
        return lambda: gather.tlb_unshare_pmd_ptdesc(tlb, folio, GIB)

    def free(which: str) -> Callable[[], None]:
        folio = kernel.page_alloc.alloc_table("table")
        assert folio is not None
        return lambda: getattr(gather, which)(tlb, folio, GIB)

    def start(flags: int) -> Callable[[], None]:
        area = VmArea(tlb.mm, GIB, 2 * GIB, flags, 0, 0)
        return lambda: gather.tlb_start_vma(tlb, area)

    return {
        "tlb_remove_tlb_entry": lambda: gather.tlb_remove_tlb_entry(tlb, GIB),
        "tlb_remove_huge_tlb_entry, 2 MiB": lambda: gather.tlb_remove_huge_tlb_entry(
            tlb, GIB, HUGE
        ),
        "tlb_remove_huge_tlb_entry, 1 GiB": lambda: gather.tlb_remove_huge_tlb_entry(
            tlb, GIB, GIB
        ),
        "pte_free_tlb": free("pte_free_tlb"),
        "pmd_free_tlb": free("pmd_free_tlb"),
        "pud_free_tlb": free("pud_free_tlb"),
        "tlb_unshare_pmd_ptdesc, 3 users": table(2),
        "tlb_unshare_pmd_ptdesc, 2 users": table(1),
        "tlb_start_vma, huge pages": start(VM_HUGETLB),
        "tlb_start_vma, code": start(VM_EXEC),
        "tlb_start_vma, bare frames": start(VM_PFNMAP),
    }


def _gathering() -> tuple[Kernel, MmuGather]:
    """Return a kernel, and a gather over part of a process."""
    kernel = Kernel(Machine(2), "fixed")
    process = kernel.spawn()
    return kernel, kernel.gather.tlb_gather_mmu(process.mm)


class GatherFlags(Exploration):
    """What one call notes, and what is left of that after each kind of flush.

    Columns: ``flag``, ``noted``, ``flushed``, ``settled``: the rows of the table.
    """

    name = "gather-flags"
    title = "What a gather notes, and what survives a flush"
    parameters = (menu("call", "the call", CALLS),)

    def answer(self, params: Mapping[str, Value]) -> Answer:
        """Make the call, flush, and settle what is owed for unshared tables."""
        call = str(self.settings(params)["call"])
        kernel, tlb = _gathering()
        _calls(kernel, tlb)[call]()
        span = tlb.end - tlb.start
        noted = _set(tlb)
        kernel.gather.tlb_flush_mmu_tlbonly(tlb)
        flushed = _set(tlb)
        with counting(kernel.machine) as counts:
            kernel.gather.tlb_flush_unshared_tables(tlb)
        settled = _set(tlb)
        stages = (noted, flushed, settled)
        rows = [
            [flag, *("set" if flag in stage else "" for stage in stages)]
            for flag in FLAGS
        ]
        size = f"{span >> 10:,} KiB" if span > 0 else "no range"
        owed = "An interrupt of every CPU was still owed then." * counts.ipi_broadcasts
        return Answer(
            {
                "flag": [row[0] for row in rows],
                "noted": [row[1] for row in rows],
                "flushed": [row[2] for row in rows],
                "settled": [row[3] for row in rows],
            },
            [
                "flag",
                "after the call",
                "after tlb_flush_mmu_tlbonly()",
                "after tlb_flush_unshared_tables()",
            ],
            rows,
            f"{call} notes {size} and sets {', '.join(noted) or 'no flag'}. "
            f"A flush leaves {', '.join(flushed) or 'none of that'}. {owed}".rstrip(),
        )


def _set(tlb: MmuGather) -> list[str]:
    """The flags that are set."""
    return [flag for flag in FLAGS if getattr(tlb, flag)]


SPAN: Final = Parameter("gib", "What is unmapped", "GiB", 1, (1, 2, 4, 8, 9, 16))


class GatherFlush(Exploration):
    """What arm64's tlb_flush() issues for a gather with these flags.

    Columns: ``kernel``, ``tlbi``, ``walk_cache``: the rows of the table.
    """

    name = "gather-flush"
    title = "Which flush a gather gets on arm64"
    parameters = (
        switch("fullmm", "the address space ends"),
        switch("freed", "tables were unhooked, to be freed"),
        switch("unshared", "tables were unhooked that others use", "on"),
        switch("range", "the CPU has range TLBIs", "on"),
        SPAN,
    )

    def answer(self, params: Mapping[str, Value]) -> Answer:
        """Flush such a gather on both kernels."""
        settings = self.settings(params)
        rows = []
        for name, without in (
            (f"without {WALK_CACHE.hash}", (WALK_CACHE.hash,)),
            (f"with {WALK_CACHE.hash}", ()),
        ):
            tlbi = issued(settings, without)
            rows.append([name, _forms(tlbi), _reaches(tlbi)])
        text = "Both kernels issue the same."
        if rows[0][1] != rows[1][1]:
            text = (
                "They differ: without the fix a CPU may keep, in its walk cache, the "
                "way to a table that now belongs to another process."
            )
        return Answer(
            {
                "kernel": [row[0] for row in rows],
                "tlbi": [row[1] for row in rows],
                "walk_cache": [row[2] for row in rows],
            },
            ["kernel", "issued", "walk caches"],
            rows,
            text,
        )


def issued(settings: Mapping[str, Value], without: tuple[str, ...]) -> dict[str, int]:
    """Return the TLBIs that one gather's flush issues, by their names."""
    on = {name: value == SWITCH[1] for name, value in settings.items()}
    model = replace(NEOVERSE_V2, range_tlbi=on["range"])
    kernel = Kernel(Machine(2, model), "fixed", without)
    gather = kernel.gather
    mm = kernel.spawn().mm
    tlb = (
        gather.tlb_gather_mmu_fullmm(mm) if on["fullmm"] else gather.tlb_gather_mmu(mm)
    )
    gather.tlb_flush_pmd_range(tlb, 1 << 40, int(settings["gib"]) * GIB)
    tlb.freed_tables, tlb.unshared_tables = on["freed"], on["unshared"]
    with counting(kernel.machine) as counts:
        kernel.tlb.tlb_flush(tlb)
    return dict(counts.tlbi)


def _forms(tlbi: Mapping[str, int]) -> str:
    return ", ".join(f"{n} {name}" for name, n in tlbi.items()) or "nothing"


def _reaches(tlbi: Mapping[str, int]) -> str:
    """Say what a flush of these forms does to walk caches."""
    if not tlbi:
        return "kept: the ASID is not used again before everything is flushed"
    leaves_only = all("VAL" in name for name in tlbi)
    return "kept: leaf entries only" if leaves_only else "emptied of it"
