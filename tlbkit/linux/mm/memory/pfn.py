"""What drivers map: frames by number, and pages of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pte_mkdirty,
    pte_mkyoung,
    pte_none,
)
from tlbkit.linux.include.linux.mm import (
    VM_DONTEXPAND,
    VM_FAULT_NOPAGE,
    VM_FAULT_OOM,
    VM_FAULT_SIGBUS,
    VM_IO,
    VM_MIXEDMAP,
    VM_PFNMAP,
    is_cow_mapping,
)
from tlbkit.linux.include.uapi.asm_generic.errno import (
    EFAULT,
    EINVAL,
    ENOMEM,
)
from tlbkit.linux.kernel.panic import BugError
from tlbkit.linux.mm.memory.insert import MemoryInsert

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import MmStruct, Page, VmArea
    from tlbkit.linux.kernel.locking import SpinLock


class MemoryPfn(MemoryInsert):
    """The calls by which a driver fills its areas."""

    __slots__ = ()

    # -- frames by number ------------------------------------------------------------

    def remap_pfn_range(
        self, vma: VmArea, addr: int, pfn: int, size: int, prot: int
    ) -> int:
        """Map frames in a row, which nobody counts; 0 or a negative error number.

        A private area that may be written must be covered whole, and then says where
        the row begins: without a special bit that is how copies in it are told apart.

        Raises:
            BugError: Something is mapped there.

        Source: mm/memory.c, remap_pfn_range()
        """
        pgtable = self._pgtable
        end = addr + size
        if is_cow_mapping(vma.flags):
            if addr != vma.start or end != vma.end:
                return -EINVAL
            vma.pgoff = pfn
        vma.flags |= VM_IO | VM_PFNMAP | VM_DONTEXPAND
        for at in range(addr, end, pgtable.page_size):
            found = self.get_locked_pte(vma.mm, at)
            if found is None:
                return -ENOMEM
            ptep, ptl = found
            try:
                if not pte_none(pgtable.read(ptep)):
                    raise BugError(f"remap_pfn_range() of {at:#x}, where something is")
                pgtable.set_pte(ptep, pgtable.pte_mkspecial(pgtable.pfn_pte(pfn, prot)))
            finally:
                ptl.release()
            pfn += 1
        return 0

    def vmf_insert_pfn(self, vma: VmArea, addr: int, pfn: int) -> int:
        """Map one frame for a fault, if nothing is there; ``VM_FAULT_`` bits.

        Raises:
            BugError: The area is not one for frames.

        Source: mm/memory.c, vmf_insert_pfn()
        """
        self._check_pfn_area(vma)
        if not vma.start <= addr < vma.end:
            return VM_FAULT_SIGBUS
        return self.insert_pfn_(vma, addr, pfn, mkwrite=False)

    def vmf_insert_mixed(
        self, vma: VmArea, addr: int, pfn: int, *, mkwrite: bool = False
    ) -> int:
        """Map a frame that may or may not be memory; ``VM_FAULT_`` bits.

        Without a special bit, memory must be mapped as a page that is counted, because
        nothing would tell that it is not.

        Raises:
            BugError: The area is not for both.

        Source: mm/memory.c, vmf_insert_mixed()
        """
        if not vma.flags & VM_MIXEDMAP:
            raise BugError("vmf_insert_mixed() into an area that is not VM_MIXEDMAP")
        if not vma.start <= addr < vma.end:
            return VM_FAULT_SIGBUS
        has_special = self._kernel.config.arch_has_pte_special
        if has_special or not self._kernel.page_alloc.pfn_valid(pfn):
            return self.insert_pfn_(vma, addr, pfn, mkwrite=mkwrite)
        return self._fault_code(self.insert_page(vma, addr, pfn, mkwrite=mkwrite))

    def insert_pfn_(self, vma: VmArea, addr: int, pfn: int, *, mkwrite: bool) -> int:
        """Map a frame, marked; or, for a write, make the same one writable.

        Source: insert_pfn().
        """
        pgtable = self._pgtable
        found = self.get_locked_pte(vma.mm, addr)
        if found is None:
            return VM_FAULT_OOM
        ptep, ptl = found
        old = pgtable.ptep_get(ptep)
        if pte_none(old):
            entry = pgtable.pte_mkspecial(pgtable.pfn_pte(pfn, vma.page_prot))
            if mkwrite:
                entry = self._mkwrite(entry, vma)
            pgtable.set_pte(ptep, entry)
        elif mkwrite and pgtable.pte_pfn(old) == pfn:
            entry = self._mkwrite(old, vma)
            self._kernel.fault.ptep_set_access_flags(vma, addr, ptep, entry, dirty=True)
        elif mkwrite and not self.is_zero_pfn(pgtable.pte_pfn(old)):
            self._kernel.panic.warn_on_once("insert_pfn", "another frame is there")
        ptl.release()
        return VM_FAULT_NOPAGE

    @staticmethod
    def _check_pfn_area(vma: VmArea) -> None:
        """Stop if an area is not one for frames, is for both, or could be copied."""
        kind = vma.flags & (VM_PFNMAP | VM_MIXEDMAP)
        if kind not in {VM_PFNMAP, VM_MIXEDMAP}:
            raise BugError("a frame needs an area of VM_PFNMAP or of VM_MIXEDMAP")
        if kind == VM_PFNMAP and is_cow_mapping(vma.flags):
            raise BugError("a frame cannot be put into a private VM_PFNMAP area")

    # -- pages -----------------------------------------------------------------------

    def vm_insert_page(self, vma: VmArea, addr: int, page: Page) -> int:
        """Map a driver's own page, which is counted; 0 or a negative error number.

        Source: mm/memory.c, vm_insert_page()
        """
        if not vma.start <= addr < vma.end:
            return -EFAULT
        vma.flags |= VM_MIXEDMAP
        return self.insert_page(vma, addr, page, mkwrite=False)

    # --------------------------------------------------------------------------------

    def get_locked_pte(self, mm: MmStruct, addr: int) -> tuple[int, SpinLock] | None:
        """Return where a page entry stands and the PTL, taken; tables are made.

        ``None`` without memory, or if there is no table any more.

        Source: mm/memory.c, __get_locked_pte()
        """
        pmdp = self.pmd_alloc(mm, addr)
        if pmdp is None or not self.pte_alloc(mm, pmdp):
            return None
        return self._kernel.pgtable_generic.pte_offset_map_lock(mm, pmdp, addr)

    def _mkwrite(self, entry: int, vma: VmArea) -> int:
        """Make an entry young, dirty, and writable if its area is."""
        return self._kernel.memory.maybe_mkwrite(pte_mkdirty(pte_mkyoung(entry)), vma)
