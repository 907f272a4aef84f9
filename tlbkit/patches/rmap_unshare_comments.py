"""a8682d500f69: two comments in rmap say what unsharing a PMD table unmaps."""

from tlbkit.patches import series
from tlbkit.patches.patch import Kind, Patch, Role

PATCH = Patch(
    commit="a8682d500f691b6dfaa16ae1502d990aeb86e8be",
    subject="rmap: two comments say that unsharing unmaps a table, and so its folio",
    series=series.HUGETLB,
    kind=Kind.COMMENT,
    role=Role.PULL_REQUEST,
    author="David Hildenbrand",
    release="v6.19",
    touches={"mm/rmap.c": ("try_to_unmap_one", "try_to_migrate_one")},
    chapter="book/commits/comments.md",
    sources=(
        "mainline a8682d500f69, in v6.19-rc7",
        "Message-ID 20251223214037.580860-4-david@kernel.org (v3 3/4)",
    ),
    note="Some lists spell the hash a8682d5f00f69, with two digits changed.",
)
