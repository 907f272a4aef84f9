"""af38538801c6: PTE and PMD ask one function which page an entry normally maps."""

from tlbkit.patches import series
from tlbkit.patches.patch import Kind, Patch, Role

PATCH = Patch(
    commit="af38538801c6a97565b44700ee6695d7d60ad779",
    subject="mm: vm_normal_page() and vm_normal_page_pmd() share one decision",
    series=series.NORMAL_PAGE,
    kind=Kind.CLEAN_UP,
    role=Role.PULL_REQUEST,
    author="David Hildenbrand",
    release="v6.18",
    touches={
        "mm/memory.c": (
            "__vm_normal_page",
            "vm_normal_page",
            "vm_normal_folio",
            "vm_normal_page_pmd",
            "vm_normal_folio_pmd",
        ),
    },
    chapter="book/commits/normal-page.md",
    sources=(
        "mainline af38538801c6",
        "Message-ID 20250811112631.759341-10-david@redhat.com (v3 9/11)",
    ),
    needs={
        "ec63a44011dc": "it reports bad entries with their level",
        "d82d09e48219": (
            "with a special bit it no longer tests an unmarked PMD for the huge zero "
            "folio, so every such PMD has to be marked"
        ),
    },
    note=(
        "The claim that nothing changes is conditional: it holds where every raw or "
        "zero entry is marked, and where a level that is said to have a special bit "
        "has one. For the two folio forms only documentation is added."
    ),
)
