"""af38538801c6: PTE and PMD ask one function which page an entry normally maps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.include.linux.mm import VM_MIXEDMAP, VM_PFNMAP, is_cow_mapping
from tlbkit.linux.mm.memory import Memory
from tlbkit.patches import series
from tlbkit.patches.find_normal_page import SpecialPageOperations
from tlbkit.patches.patch import Kind, Patch, Role

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import Page, VmArea


class MemoryBefore(Memory):
    """Page entries and PMD leaves had a decision each, and the two were not alike.

    Source: mm/memory.c, v6.17.
    """

    __slots__ = ()

    def vm_normal_page(self, vma: VmArea, addr: int, pte: int) -> Page | None:
        """Return the normal page that a present page entry maps.

        Source: mm/memory.c, vm_normal_page()
        """
        pfn = self._pgtable.pte_pfn(pte)
        mixed = False
        if self._kernel.config.arch_has_pte_special:
            if self._pgtable.pte_special(pte):
                if isinstance(vma.ops, SpecialPageOperations):
                    return vma.ops.find_special_page(vma, addr)
                if not (vma.flags & (VM_PFNMAP | VM_MIXEDMAP) or self.is_zero_pfn(pfn)):
                    self.print_bad_pte(vma, addr, pte, None)
                return None
        elif self._raw_by_area(vma, addr, pfn) or self.is_zero_pfn(pfn):
            return None
        else:
            mixed = bool(vma.flags & VM_MIXEDMAP)  # where it lies was not looked at
        if not mixed and pfn > self._kernel.page_alloc.highest_memmap_pfn:
            self.print_bad_pte(vma, addr, pte, None)
            return None
        if self._kernel.config.debug_vm and self.is_zero_pfn(pfn):
            self._kernel.panic.warn_on_once(
                "vm_normal_page", "the zero page is taken for a normal one"
            )
        return pfn

    def vm_normal_page_pmd(self, vma: VmArea, addr: int, pmd: int) -> Page | None:
        """Return the first page of what a present PMD leaf maps, if it is normal.

        The area was looked at also where there is a special bit, and nothing was ever
        reported.

        Source: mm/memory.c, vm_normal_page_pmd()
        """
        pfn = self._pgtable.pmd_pfn(pmd)
        if self._pgtable.pmd_special(pmd):
            return None
        if vma.flags & VM_MIXEDMAP:
            return pfn if self._kernel.page_alloc.pfn_valid(pfn) else None
        if vma.flags & VM_PFNMAP:
            offset = (addr - vma.start) >> self._pgtable.page_shift
            if pfn == vma.pgoff + offset or not is_cow_mapping(vma.flags):
                return None
        if self.is_huge_zero_pfn(pfn):
            return None
        return pfn if pfn <= self._kernel.page_alloc.highest_memmap_pfn else None


PATCH = Patch(
    commit="af38538801c6a97565b44700ee6695d7d60ad779",
    subject="mm: vm_normal_page() and vm_normal_page_pmd() share one decision",
    series=series.NORMAL_PAGE,
    kind=Kind.CLEAN_UP,
    role=Role.PULL_REQUEST,
    author="David Hildenbrand",
    release="v6.18",
    touches={
        "mm/memory.c": (
            "__vm_normal_page",
            "vm_normal_page",
            "vm_normal_folio",
            "vm_normal_page_pmd",
            "vm_normal_folio_pmd",
        ),
    },
    chapter="book/commits/normal-page.md",
    sources=(
        "mainline af38538801c6",
        "Message-ID 20250811112631.759341-10-david@redhat.com (v3 9/11)",
    ),
    needs={
        "ec63a44011dc": "it reports bad entries with their level",
        "d82d09e48219": (
            "with a special bit it no longer tests an unmarked PMD for the huge zero "
            "folio, so every such PMD has to be marked"
        ),
    },
    reverts={"memory": MemoryBefore},
    note=(
        "The claim that nothing changes is conditional: it holds where every raw or "
        "zero entry is marked, and where a level that is said to have a special bit "
        "has one. For the two folio forms only documentation is added."
    ),
)
