"""3937027caecb: two comments in hugetlb give the real reason for the early flush."""

from tlbkit.patches import series
from tlbkit.patches.patch import Kind, Patch, Role

PATCH = Patch(
    commit="3937027caecb4f8251e82dd857ba1d749bb5a428",
    subject="hugetlb: two comments say why the flush after unsharing cannot wait",
    series=series.HUGETLB,
    kind=Kind.COMMENT,
    role=Role.PULL_REQUEST,
    author="David Hildenbrand",
    release="v6.19",
    touches={
        "mm/hugetlb.c": ("__unmap_hugepage_range", "hugetlb_change_protection"),
    },
    chapter="book/commits/comments.md",
    sources=(
        "mainline 3937027caecb, in v6.19-rc7",
        "Message-ID 20251223214037.580860-3-david@kernel.org (v3 2/4)",
    ),
    note=(
        "8 lines added, 16 removed, none of them code. It did not apply cleanly to "
        "6.17: upstream had meanwhile mended a typing error in the old text."
    ),
)
