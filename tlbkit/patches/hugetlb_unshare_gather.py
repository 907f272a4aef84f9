"""8ce720d5bd91: unsharing hugetlb PMD tables is gathered, and rarely needs an IPI."""

from tlbkit.patches import series
from tlbkit.patches.patch import Figure, Kind, Patch, Role

_REPORT = "Message-ID 4d3878531c76479d9f8ca9789dc6485d@amazon.de"
_REPRODUCER = (
    "1000 children of a process with 1200 GiB of shared hugetlb memory, each reading "
    "100 pages; 196 CPUs, 1.5 TB"
)


def _time(name: str, value: float, which: str, kernel: str) -> Figure:
    """Name one time of the report that led to this commit."""
    return Figure(
        name=name,
        value=value,
        unit="s",
        what=f"{which} time, {kernel} 1013af4f585f; {_REPRODUCER}",
        source=_REPORT,
    )


PATCH = Patch(
    commit="8ce720d5bd91e9dc16db3604aa4b1bf76770a9a1",
    subject="hugetlb: unshare through mmu_gather; only the last sharer sends an IPI",
    series=series.HUGETLB,
    kind=Kind.PERFORMANCE,
    role=Role.PULL_REQUEST,
    author="David Hildenbrand",
    release="v6.19",
    touches={
        "include/asm-generic/tlb.h": (
            "struct mmu_gather",
            "__tlb_reset_range",
            "tlb_flush_mmu_tlbonly",
            "tlb_unshare_pmd_ptdesc",
            "tlb_flush_unshared_tables",
        ),
        "include/linux/hugetlb.h": ("huge_pmd_unshare", "huge_pmd_unshare_flush"),
        "include/linux/mm_types.h": ("tlb_gather_mmu_vma",),
        "mm/hugetlb.c": (
            "__unmap_hugepage_range",
            "hugetlb_change_protection",
            "move_hugetlb_page_tables",
            "hugetlb_unshare_pmds",
            "huge_pmd_unshare",
            "huge_pmd_unshare_flush",
        ),
        "mm/mmu_gather.c": (
            "__tlb_gather_mmu",
            "tlb_gather_mmu_vma",
            "tlb_finish_mmu",
        ),
        "mm/rmap.c": ("try_to_unmap_one", "try_to_migrate_one"),
    },
    chapter="book/commits/hugetlb-unshare.md",
    sources=(
        "mainline 8ce720d5bd91, in v6.19-rc7",
        "Message-ID 20251223214037.580860-5-david@kernel.org (v3 4/4)",
        f"{_REPORT} (the report)",
    ),
    figures=(
        _time("real without the IPI", 2.475, "real", "before"),
        _time("real with the IPI", 11.275, "real", "with"),
        _time("user without the IPI", 1.398, "user", "before"),
        _time("user with the IPI", 0.177, "user", "with"),
        _time("sys without the IPI", 2.501, "sys", "before"),
        _time("sys with the IPI", 23.905, "sys", "with"),
    ),
    needs={
        "3937027caecb": "it moves the two comments corrected there into one helper",
        "a8682d500f69": "it changes the code under the two comments corrected there",
    },
    note=(
        "No run time of the repaired kernel was found; the figures are those of the "
        "regression. On arm64 it turned flushes that reached the walk cache into "
        "leaf-only ones, until c2ff4764e03e."
    ),
)
