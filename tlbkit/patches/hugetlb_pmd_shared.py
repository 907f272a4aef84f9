"""ca1a47cd3f5f: whether a PMD table is shared is read from its share count."""

from __future__ import annotations

from tlbkit.linux.mm.hugetlb import Hugetlb
from tlbkit.patches import series
from tlbkit.patches.patch import Kind, Patch, Role


class HugetlbBefore(Hugetlb):
    """The page's references, which since v6.13 say nothing of sharing."""

    __slots__ = ()

    def hugetlb_pmd_shared(self, ptep: int) -> bool:
        """Tell whether anybody else holds the table in which an entry stands.

        Source: include/linux/hugetlb.h, hugetlb_pmd_shared()
        """
        return self.ptdesc(ptep).refcount > 1


PATCH = Patch(
    commit="ca1a47cd3f5f4c46ca188b1c9a27af87d1ab2216",
    subject="hugetlb: hugetlb_pmd_shared() reads the share count, not the page count",
    series=series.HUGETLB,
    kind=Kind.FIX,
    role=Role.PULL_REQUEST,
    author="David Hildenbrand",
    release="v6.19",
    touches={"include/linux/hugetlb.h": ("hugetlb_pmd_shared",)},
    chapter="book/commits/hugetlb-pmd-shared.md",
    sources=(
        "mainline ca1a47cd3f5f, in v6.19-rc7",
        "Message-ID 20251223214037.580860-2-david@kernel.org (v3 1/4)",
        "mainline 39dde65c9940, in v2.6.20 (tables are shared)",
        "mainline 59d9094df3d7, in v6.13 (sharing gets a count of its own)",
    ),
    note=(
        "It repairs 59d9094df3d7 (v6.13), which moved sharing to a count of its own "
        "and left this helper behind. smaps, pagemap and mbind see the difference; no "
        "flush and no IPI does."
    ),
    reverts={"hugetlb": HugetlbBefore},
)
