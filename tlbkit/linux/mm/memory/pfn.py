"""What drivers map: frames by number, and pages of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pte_mkdirty,
    pte_mkyoung,
    pte_none,
)
from tlbkit.linux.arch.arm64.include.asm.pgtable_hwdef import SLOT
from tlbkit.linux.include.linux.mm import (
    VM_FAULT_NOPAGE,
    VM_FAULT_OOM,
    VM_FAULT_SIGBUS,
    VM_MIXEDMAP,
    VM_PFNMAP,
    VM_REMAP_FLAGS,
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
        end = addr + size
        if is_cow_mapping(vma.flags):  # get_remap_pgoff()
            if addr != vma.start or end != vma.end:
                return -EINVAL
            vma.pgoff = pfn
        vma.flags |= VM_REMAP_FLAGS
        return self.remap_pfn_range_notrack(vma, addr, pfn, size, prot)

    def remap_pfn_range_notrack(
        self, vma: VmArea, addr: int, pfn: int, size: int, prot: int
    ) -> int:
        """Do so in a VMA that says by now that it maps frames.

        If not all can be mapped, what was is unmapped: the driver, which is told of the
        error, may give the memory to somebody else.

        Source: mm/memory.c, remap_pfn_range_notrack()
        """
        error = self.remap_pfn_range_internal(vma, addr, pfn, size, prot)
        if error:
            self._kernel.memory.zap_page_range_single(vma, addr, size)
        return error

    def remap_pfn_range_internal(
        self, vma: VmArea, addr: int, pfn: int, size: int, prot: int
    ) -> int:
        """Map frames table by table; 0 or ``-ENOMEM``, and then some are mapped.

        Source: mm/memory.c, remap_pfn_range_internal()
        """
        pgtable = self._pgtable
        end = addr + size
        while addr != end:
            following = pgtable.addr_end(addr, end, pgtable.pmd_shift)
            pmd = self.pmd_alloc(vma.mm, addr)
            if pmd is None:
                return -ENOMEM
            error = self.remap_pte_range(vma.mm, pmd, addr, following, pfn, prot)
            if error:
                return error
            pfn += following - addr >> pgtable.page_shift
            addr = following
        return 0

    def remap_pte_range(
        self, mm: MmStruct, pmd: int, addr: int, end: int, pfn: int, prot: int
    ) -> int:
        """Map frames by the entries of one table; 0 or ``-ENOMEM``.

        Source: mm/memory.c, remap_pte_range()
        """
        pgtable = self._pgtable
        if not self.pte_alloc(mm, pmd):
            return -ENOMEM
        found = self._kernel.pgtable_generic.pte_offset_map_lock(mm, pmd, addr)
        if found is None:
            return -ENOMEM
        pte, ptl = found
        pgtable.arch_enter_lazy_mmu_mode()
        try:
            for at in range(addr, end, pgtable.page_size):
                if not pte_none(pgtable.ptep_get(pte)):
                    raise BugError(f"remap_pfn_range() of {at:#x}, where something is")
                pgtable.set_pte(pte, pgtable.pte_mkspecial(pgtable.pfn_pte(pfn, prot)))
                pfn += 1
                pte += SLOT
        finally:
            pgtable.arch_leave_lazy_mmu_mode()
            ptl.release()
        return 0

    def vmf_insert_pfn(self, vma: VmArea, addr: int, pfn: int) -> int:
        """Map one frame for a fault, if nothing is there; ``VM_FAULT_`` bits.

        Raises:
            BugError: The area is not one for frames.

        Source: mm/memory.c, vmf_insert_pfn() and vmf_insert_pfn_prot()
        """
        self._check_pfn_area(vma, pfn)
        if not vma.start <= addr < vma.end:
            return VM_FAULT_SIGBUS
        return self.insert_pfn(vma, addr, pfn, mkwrite=False)

    def vmf_insert_mixed(
        self, vma: VmArea, addr: int, pfn: int, *, mkwrite: bool = False
    ) -> int:
        """Map a frame that may or may not be memory; ``VM_FAULT_`` bits.

        Without a special bit, memory must be mapped as a page that is counted, because
        nothing would tell that it is not.

        Source: mm/memory.c, vmf_insert_mixed(), vmf_insert_mixed_mkwrite() and
        __vm_insert_mixed()
        """
        if not self.vm_mixed_ok(vma, pfn, mkwrite=mkwrite):
            return VM_FAULT_SIGBUS
        if not vma.start <= addr < vma.end:
            return VM_FAULT_SIGBUS
        has_special = self._kernel.config.arch_has_pte_special
        if has_special or not self._kernel.page_alloc.pfn_valid(pfn):
            return self.insert_pfn(vma, addr, pfn, mkwrite=mkwrite)
        return self._fault_code(self.insert_page(vma, addr, pfn, mkwrite=mkwrite))

    def vm_mixed_ok(self, vma: VmArea, pfn: int, *, mkwrite: bool) -> bool:
        """Tell whether *vma* may hold this frame beside pages.

        Source: mm/memory.c, vm_mixed_ok()
        """
        if self.is_zero_pfn(pfn):
            return not mkwrite and self.vm_mixed_zeropage_allowed(vma)
        return bool(vma.flags & VM_MIXEDMAP)

    def insert_pfn(self, vma: VmArea, addr: int, pfn: int, *, mkwrite: bool) -> int:
        """Map a frame, marked; or, for a write, make the same one writable.

        Source: mm/memory.c, insert_pfn()
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

    def _check_pfn_area(self, vma: VmArea, pfn: int) -> None:
        """Stop if an area is not one for frames, is for both, or could be copied."""
        kind = vma.flags & (VM_PFNMAP | VM_MIXEDMAP)
        if kind not in {VM_PFNMAP, VM_MIXEDMAP}:
            raise BugError("a frame needs an area of VM_PFNMAP or of VM_MIXEDMAP")
        if kind == VM_PFNMAP and is_cow_mapping(vma.flags):
            raise BugError("a frame cannot be put into a private VM_PFNMAP area")
        if kind == VM_MIXEDMAP and self._kernel.page_alloc.pfn_valid(pfn):
            raise BugError("memory in a VM_MIXEDMAP area must be counted")

    # -- pages -----------------------------------------------------------------------

    def vm_insert_page(self, vma: VmArea, addr: int, page: Page) -> int:
        """Map a driver's own page, which is counted; 0 or a negative error number.

        Source: mm/memory.c, vm_insert_page()
        """
        if not vma.start <= addr < vma.end:
            return -EFAULT
        folio = self._kernel.page_alloc.folio(page)
        if folio is None or not folio.refcount:
            return -EINVAL
        vma.flags |= VM_MIXEDMAP
        return self.insert_page(vma, addr, page, mkwrite=False)

    def _mkwrite(self, entry: int, vma: VmArea) -> int:
        """Make an entry young, dirty, and writable if its area is."""
        return self._kernel.memory.maybe_mkwrite(pte_mkdirty(pte_mkyoung(entry)), vma)
