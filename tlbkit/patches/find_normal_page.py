"""4c89792ea0a2: Xen's hook says what it does, and costs the others nothing."""

from tlbkit.patches import series
from tlbkit.patches.patch import Kind, Patch, Role

PATCH = Patch(
    commit="4c89792ea0a224340ff198abc7caffa211baccd6",
    subject="mm: vm_ops->find_special_page() becomes find_normal_page(), for Xen only",
    series=series.NORMAL_PAGE,
    kind=Kind.RENAME,
    role=Role.PULL_REQUEST,
    author="David Hildenbrand",
    release="v6.18",
    touches={
        "drivers/xen/Kconfig": ("XEN_GNTDEV",),
        "drivers/xen/gntdev.c": (
            "find_grant_ptes",
            "gntdev_vma_find_normal_page",
            "gntdev_vmops",
        ),
        "include/linux/mm.h": ("struct vm_operations_struct",),
        "mm/Kconfig": ("FIND_NORMAL_PAGE",),
        "mm/memory.c": ("__vm_normal_page",),
        "tools/testing/vma/vma_internal.h": ("struct vm_operations_struct",),
    },
    chapter="book/commits/normal-page.md",
    sources=(
        "mainline 4c89792ea0a2",
        "Message-ID 20250811112631.759341-12-david@redhat.com (v3 11/11)",
    ),
    needs={"af38538801c6": "it changes __vm_normal_page(), which that one makes"},
    note="The option is selected by XEN_GNTDEV alone, so no arm64 kernel has the hook.",
)
