"""b7298e418e29: what both PMD insertions repeated moves into ``insert_pmd()``."""

from tlbkit.patches import series
from tlbkit.patches.patch import Kind, Patch, Role

PATCH = Patch(
    commit="b7298e418e298545b195aef51c01cceed816558e",
    subject="THP: insert_pmd() checks the range, brings the spare table and locks",
    series=series.NORMAL_PAGE,
    kind=Kind.CLEAN_UP,
    role=Role.PULL_REQUEST,
    author="David Hildenbrand",
    release="v6.18",
    touches={
        "mm/huge_memory.c": (
            "insert_pmd",
            "vmf_insert_pfn_pmd",
            "vmf_insert_folio_pmd",
        ),
    },
    chapter="book/commits/insert-pmd-pud.md",
    sources=(
        "mainline b7298e418e29",
        "Message-ID 20250811112631.759341-2-david@redhat.com (v3 1/11)",
    ),
    note=(
        "Two things differ for who looks closely: a folio of the wrong order outside "
        "the range now warns before the SIGBUS, and the cache mode of a pfn is looked "
        "up even if the insertion ends in SIGBUS or out of memory."
    ),
)
