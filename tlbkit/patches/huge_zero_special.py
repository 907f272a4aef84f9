"""d82d09e48219: every PMD that maps the huge zero folio carries the special bit."""

from tlbkit.patches import series
from tlbkit.patches.patch import Kind, Patch, Role

PATCH = Patch(
    commit="d82d09e482199e6bbc204df10b2082f764cbe1f4",
    subject="THP: PMD mappings of the huge zero folio are marked special",
    series=series.NORMAL_PAGE,
    kind=Kind.CLEAN_UP,
    role=Role.PULL_REQUEST,
    author="David Hildenbrand",
    release="v6.18",
    touches={
        "mm/huge_memory.c": ("set_huge_zero_folio", "insert_pmd", "copy_huge_pmd"),
        "mm/memory.c": ("vm_normal_page", "vm_normal_page_pmd"),
    },
    chapter="book/commits/huge-zero-folio.md",
    sources=(
        "mainline d82d09e48219",
        "Message-ID 20250811112631.759341-6-david@redhat.com (v3 5/11)",
    ),
    needs={
        "5528ef06da01": "it marks the leaf that insert_pmd() learnt to build there",
        "b0f86aaebed1": (
            "otherwise DAX builds such a leaf by itself, and it would stay unmarked"
        ),
    },
    note=(
        "In mm/memory.c only comments change. The claim that nothing changes holds for "
        "vm_normal_page_pmd(); other readers of the bit do notice: lockless GUP goes "
        "the slow way, arm64 no longer initialises MTE tags when it maps the folio, "
        "and UFFDIO_MOVE rebuilds the entry without the bit. Its second version lacked "
        "the exclusion in copy_huge_pmd() that fork needs."
    ),
)
