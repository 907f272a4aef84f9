"""b0f86aaebed1: a DAX hole maps the huge zero folio through the common insertion."""

from tlbkit.patches import series
from tlbkit.patches.patch import Kind, Patch, Role

PATCH = Patch(
    commit="b0f86aaebed1fc2bdc7475b14675ebc9d542e5d3",
    subject="DAX: a hole fault inserts the huge zero folio by vmf_insert_folio_pmd()",
    series=series.NORMAL_PAGE,
    kind=Kind.CLEAN_UP,
    role=Role.PULL_REQUEST,
    author="David Hildenbrand",
    release="v6.18",
    touches={"fs/dax.c": ("dax_pmd_load_hole",)},
    chapter="book/commits/huge-zero-folio.md",
    sources=(
        "mainline b0f86aaebed1",
        "Message-ID 20250811112631.759341-5-david@redhat.com (v3 4/11)",
    ),
    needs={
        "5528ef06da01": "without it the insertion would count the huge zero folio",
    },
    note=(
        "Behaviour changes where something is mapped already: the fault is now "
        "answered as done, before it fell back and the caller split the PMD. The "
        "changelog calls the case theoretical, and a reviewer never managed to reach "
        "it."
    ),
)
