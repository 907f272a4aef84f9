"""4c89792ea0a2: Xen's hook says what it does, and costs the others nothing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from tlbkit.linux.drivers.xen.gntdev import Gntdev, GntdevOperations
from tlbkit.linux.include.linux.mm import VM_MIXEDMAP, VM_PFNMAP, VmOperations
from tlbkit.linux.mm.memory import Memory
from tlbkit.patches import series
from tlbkit.patches.patch import Kind, Patch, Role

if TYPE_CHECKING:
    from tlbkit.linux.drivers.xen.gntdev import Grants
    from tlbkit.linux.include.linux.mm_types import Page, VmArea
    from tlbkit.linux.include.linux.pgtable import PgtableLevel


class SpecialPageOperations(VmOperations, ABC):
    """The hook under its old name, which every kernel had."""

    __slots__ = ()

    @abstractmethod
    def find_special_page(self, vma: VmArea, addr: int) -> Page | None:
        """Return the page behind a special entry, or ``None`` if it has none."""


class OldGntdevOperations(GntdevOperations, SpecialPageOperations):
    """Knows the pages of one opened device, under the hook's old name."""

    __slots__ = ()

    def find_special_page(self, vma: VmArea, addr: int) -> Page | None:
        """Return the page that stands for the grant at *addr*."""
        return self.find_normal_page(vma, addr)


class GntdevBefore(Gntdev):
    """The driver gave its areas the hook by the old name.

    Source: drivers/xen/gntdev.c, v6.17.
    """

    __slots__ = ()

    def operations(self, grants: Grants) -> VmOperations:
        """Return what the driver answers for an area that maps *grants*."""
        page_shift = self._kernel.pgtable.page_shift
        return OldGntdevOperations(grants, page_shift, self._areas)


class MemoryBefore(Memory):
    """Each special entry of a driver's area asked for the hook, in every kernel.

    Source: mm/memory.c, between af38538801c6 and 4c89792ea0a2.
    """

    __slots__ = ()

    def vm_normal_page_(
        self,
        vma: VmArea,
        addr: int,
        pfn: int,
        *,
        special: bool,
        entry: int,
        level: PgtableLevel,
    ) -> Page | None:
        """Return the page that a present leaf maps, if it is a normal one."""
        if self.pgtable_level_has_pxx_special(level):
            if special:
                if isinstance(vma.ops, SpecialPageOperations):
                    return vma.ops.find_special_page(vma, addr)
                if vma.flags & (VM_PFNMAP | VM_MIXEDMAP):
                    return None
                if self.is_zero_pfn(pfn) or self.is_huge_zero_pfn(pfn):
                    return None
                self.print_bad_page_map(vma, addr, entry, None, level)
                return None
        elif self._raw_by_area(vma, addr, pfn) or (
            self.is_zero_pfn(pfn) or self.is_huge_zero_pfn(pfn)
        ):
            return None
        return self._page_unless_bad(vma, addr, pfn, entry, level)


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
    reverts={"memory": MemoryBefore, "gntdev": GntdevBefore},
    note="The option is selected by XEN_GNTDEV alone, so no arm64 kernel has the hook.",
)
