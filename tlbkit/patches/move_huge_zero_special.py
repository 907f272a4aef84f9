"""fae654083bfa: UFFDIO_MOVE moves a huge zero entry instead of building a new one."""

from tlbkit.patches import series
from tlbkit.patches.patch import Kind, Patch, Role

PATCH = Patch(
    commit="fae654083bfa409bb2244f390232e2be47f05bfc",
    subject="userfaultfd MOVE: a huge zero PMD keeps its frame and its special bit",
    series=series.LATER,
    kind=Kind.FIX,
    role=Role.LATER_FIX,
    author="Chris Down",
    release="v7.0",
    touches={"mm/huge_memory.c": ("move_pages_huge_pmd",)},
    chapter="book/commits/huge-zero-folio.md",
    sources=(
        "mainline fae654083bfa; in v6.18.20 and v6.19.10",
        "Message-ID aaBVaHs8rIkNcwM0@chrisdown.name (v2, still two patches)",
        "OSV record of CVE-2026-31397",
    ),
    repairs="d82d09e48219",
    note=(
        "Two faults in one commit. The special bit was lost since d82d09e48219; the "
        "bogus frame, or the NULL dereference, came with e3981db444a0 (v6.16), which "
        "is none of the commits here. Posted as two patches, joined when merged."
    ),
)
