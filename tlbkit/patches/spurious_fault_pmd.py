"""79301c7d605a: a spurious write fault on a huge page can drop the stale entry."""

from tlbkit.patches import series
from tlbkit.patches.patch import Kind, Patch, Role

PATCH = Patch(
    commit="79301c7d605a10efea35af08167e0a362d8dffb1",
    subject="mm: spurious faults are fixed at PMD level too, by one shared helper",
    series=series.WRITE_FAULT,
    kind=Kind.PERFORMANCE,
    role=Role.CLAIMED,
    author="Huang Ying",
    release="v6.19",
    touches={
        "include/linux/huge_mm.h": ("huge_pmd_set_accessed",),
        "include/linux/pgtable.h": ("flush_tlb_fix_spurious_fault_pmd",),
        "mm/huge_memory.c": ("touch_pmd", "huge_pmd_set_accessed"),
        "mm/internal.h": ("touch_pmd",),
        "mm/memory.c": (
            "fix_spurious_fault",
            "handle_pte_fault",
            "__handle_mm_fault",
        ),
    },
    chapter="book/commits/write-fault.md",
    sources=(
        "mainline 79301c7d605a",
        "Message-ID 20251114085403.101552-2-ying.huang@linux.alibaba.com (v6 1/2)",
        "Message-ID 20251104095516.7912-2-ying.huang@linux.alibaba.com (v4, diff read)",
        series.PULL_REQUEST,
    ),
    needs={"b22cc9a9c7ff": "the helper takes the level as an enum pgtable_level"},
    note=(
        "By itself it changes no flush on any architecture: the PMD hook does nothing "
        "until cb1fa2e99955 gives arm64 one."
    ),
)
