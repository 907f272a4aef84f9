"""The series in which the commits were posted, and the pull request that took them."""

from tlbkit.patches.patch import Series

PULL_REQUEST = "pull request 350 of NVIDIA/NV-Kernels, March 2026, closed unmerged"

MOVE = Series(
    "move",
    "userfaultfd MOVE flushes once a batch, not once a page",
    "Message-ID 20250816191123.3601561-1-lokeshgidra@google.com (v6, single patch)",
)

RMAP = Series(
    "rmap-statistics",
    "rmap keeps its statistics where it keeps its counts",
    "single patch by Wei Yang, merged for v6.18; its mail was not read",
)

NORMAL_PAGE = Series(
    "normal-page",
    "one vm_normal_page() for all levels, and what it takes to get there",
    "Message-ID 20250811112631.759341-1-david@redhat.com (v3, 11 patches)",
)

MPROTECT = Series(
    "mprotect",
    "mprotect on arm64 flushes only what a TLB can hold",
    "Message-ID 20251017160251.96717-1-dev.jain@arm.com (v2 resent, single patch)",
)

WRITE_FAULT = Series(
    "write-fault",
    "arm64 no longer tells every CPU that a page may be written again",
    "Message-ID 20251114085403.101552-1-ying.huang@linux.alibaba.com (v6, 2 patches)",
)

HUGETLB = Series(
    "hugetlb",
    "hugetlb stops sharing page tables with one flush and at most one IPI",
    "Message-ID 20251223214037.580860-1-david@kernel.org (v3 resent, 4 patches)",
)

LATER = Series(
    "later-fixes",
    "repairs to these very commits, found after they were merged",
    "single patches, each with its own sources",
)

CONTEXT = Series(
    "context",
    "what else changed between two releases in a function that the model has",
    "commits of no common series, each with its own sources",
)
