"""878d9e8cebbb: adding an rmap also does its statistics, as removing one always did."""

from tlbkit.patches import series
from tlbkit.patches.patch import Kind, Patch, Role

PATCH = Patch(
    commit="878d9e8cebbb111a678e1f83d7daee917922f700",
    subject="rmap: adding does its statistics in the helper, as removing does",
    series=series.RMAP,
    kind=Kind.CLEAN_UP,
    role=Role.PULL_REQUEST,
    author="Wei Yang",
    release="v6.18",
    touches={
        "mm/rmap.c": (
            "__folio_add_rmap",
            "__folio_add_anon_rmap",
            "__folio_add_file_rmap",
        ),
    },
    chapter="book/commits/rmap.md",
    sources=("mainline 878d9e8cebbb", series.PULL_REQUEST),
    note=(
        "In the anonymous case the statistics now change before the debug check of the "
        "anon rmap, not after it; every final state is the same."
    ),
)
