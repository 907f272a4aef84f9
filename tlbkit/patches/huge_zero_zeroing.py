"""5bebe8de1926: asking for cleared tags no longer loses the zeroing of the page."""

from tlbkit.patches import series
from tlbkit.patches.patch import Kind, Patch, Role

PATCH = Patch(
    commit="5bebe8de19264946d398ead4e6c20c229454a552",
    subject="THP: the huge zero folio is zeroed also where there are no memory tags",
    series=series.LATER,
    kind=Kind.FIX,
    role=Role.LATER_FIX,
    author="",
    release="v6.18",
    touches={
        "arch/arm64/include/asm/page.h": ("tag_clear_highpages",),
        "arch/arm64/mm/fault.c": ("tag_clear_highpages",),
        "include/linux/highmem.h": ("tag_clear_highpages",),
        "mm/page_alloc.c": ("post_alloc_hook",),
    },
    chapter="book/commits/huge-zero-folio.md",
    sources=(
        "mainline 5bebe8de1926, in v6.18-rc7",
        "Message-ID aTErsX-wfnxkNJ1G@kernel.org (which commits bound the breakage)",
    ),
    needs={
        "adfb6609c680": "only that one asks for cleared tags without asking for MTE"
    },
    repairs="adfb6609c680",
    note=(
        "Its diff was not read: the functions are inferred from their state just "
        "before 6a288a4ddb4a, where the tag helper answers whether it has initialised "
        "the pages."
    ),
)
