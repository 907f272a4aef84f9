"""adfb6609c680: the huge zero folio is born with its MTE tags cleared."""

from __future__ import annotations

from tlbkit.linux.include.linux.mm_types import LargeFolio
from tlbkit.linux.mm.huge_memory import HugeMemory
from tlbkit.patches import series
from tlbkit.patches.patch import Kind, Patch, Role


class HugeMemoryBefore(HugeMemory):
    """The huge zero folio is asked for like any huge page of zeros."""

    __slots__ = ()

    def get_huge_zero_folio(self) -> bool:
        """Take a reference to the huge zero folio, whose tags are what they are.

        Source: mm/huge_memory.c, get_huge_zero_folio(), just before the commit
        """
        while not self.huge_zero_refcount:
            zero = self._kernel.page_alloc.alloc_zeroed(self._pgtable.hpage_pmd_order)
            if zero is None:
                return False
            if self.huge_zero_folio is not None:
                self._kernel.swap.folio_put(zero)  # another CPU was faster
                continue
            assert isinstance(zero, LargeFolio)
            self.huge_zero_folio = zero
            self.huge_zero_refcount = 2  # the other one is the shrinker's
            return True
        self.huge_zero_refcount += 1
        return True


PATCH = Patch(
    commit="adfb6609c6809e107ded9a1cd46f519c882e64ea",
    subject="THP: allocate the huge zero folio with its memory tags cleared",
    series=series.LATER,
    kind=Kind.FIX,
    role=Role.LATER_FIX,
    author="Catalin Marinas",
    release="v6.18",
    touches={"mm/huge_memory.c": ("get_huge_zero_folio",)},
    chapter="book/commits/huge-zero-folio.md",
    sources=(
        "mainline adfb6609c680, merged 2025-11-10 for v6.18-rc6",
        "Message-ID aNPA--5AcqeFd6nl@arm.com (why d82d09e48219 makes it necessary)",
        "Message-ID 202511131537.1a31ee77-lkp@intel.com (it fails xfstests on x86_64)",
    ),
    repairs="d82d09e48219",
    note=(
        "Its diff was not read, so other files may be touched. It went wrong at once: "
        "v6.18-rc6 could hand out a huge zero folio that was not zero, until "
        "5bebe8de1926. Both were in v6.18, so v6.19 never had the missing tags."
    ),
    reverts={"huge_memory": HugeMemoryBefore},
)
