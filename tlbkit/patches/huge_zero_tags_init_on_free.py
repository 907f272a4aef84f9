"""6a288a4ddb4a: the huge zero folio's tags are cleared with init_on_free as well."""

from tlbkit.patches import series
from tlbkit.patches.patch import Kind, Patch, Role

PATCH = Patch(
    commit="6a288a4ddb4a994490505ab5f41c445f8e6b6467",
    subject="page_alloc: clear the tags when asked, also if the page is zero already",
    series=series.LATER,
    kind=Kind.FIX,
    role=Role.LATER_FIX,
    author="David Hildenbrand",
    release="v7.1",
    touches={
        "arch/arm64/include/asm/page.h": ("tag_clear_highpages",),
        "arch/arm64/mm/fault.c": ("tag_clear_highpages",),
        "include/linux/gfp_types.h": ("__GFP_ZEROTAGS",),
        "include/linux/highmem.h": ("tag_clear_highpages",),
        "mm/page_alloc.c": ("post_alloc_hook",),
    },
    chapter="book/commits/huge-zero-folio.md",
    sources=(
        "mainline 6a288a4ddb4a, merged 2026-05-18",
        "Message-ID 20260421-zerotags-v2-1-05cb1035482e@kernel.org (v2)",
        "Message-ID 20260528194639.794101868@linuxfoundation.org (6.18 review)",
    ),
    needs={
        "adfb6609c680": "it completes what that one asks the allocator for",
        "5bebe8de1926": "it changes the tag helper in the form given to it there",
    },
    repairs="adfb6609c680",
)
