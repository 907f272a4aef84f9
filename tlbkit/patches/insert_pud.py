"""77e493280e92: what both PUD insertions repeated moves into ``insert_pud()``."""

from tlbkit.patches import series
from tlbkit.patches.patch import Kind, Patch, Role

PATCH = Patch(
    commit="77e493280e92301d3151d6a18a2e17f0c30a582c",
    subject="THP: insert_pud() checks the range, locks and gives the fault's answer",
    series=series.NORMAL_PAGE,
    kind=Kind.CLEAN_UP,
    role=Role.PULL_REQUEST,
    author="David Hildenbrand",
    release="v6.18",
    touches={
        "mm/huge_memory.c": (
            "insert_pud",
            "vmf_insert_pfn_pud",
            "vmf_insert_folio_pud",
        ),
    },
    chapter="book/commits/insert-pmd-pud.md",
    sources=(
        "mainline 77e493280e92",
        "Message-ID 20250811112631.759341-3-david@redhat.com (v3 2/11)",
    ),
    note=(
        "As for the PMD, a folio that is of the wrong order and out of range now warns "
        "first. There is no deposited table and no huge zero folio at this level."
    ),
)
