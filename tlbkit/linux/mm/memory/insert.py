"""Pages that an owner brings while it handles a fault: vmf_insert_page_mkwrite()."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pte_mkdirty,
    pte_mkyoung,
    pte_none,
)
from tlbkit.linux.include.linux.mm import (
    VM_FAULT_NOPAGE,
    VM_FAULT_OOM,
    VM_FAULT_SIGBUS,
    VM_IO,
    VM_MAYWRITE,
    VM_WRITE,
    is_cow_mapping,
)
from tlbkit.linux.include.uapi.asm_generic.errno import EBUSY, EFAULT, EINVAL, ENOMEM
from tlbkit.linux.mm.memory.normal import MemoryNormal

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import MmStruct, Page, VmArea, VmFault
    from tlbkit.linux.kernel.locking import SpinLock


class MemoryInsert(MemoryNormal):
    """Maps a page that somebody else chose, by a page entry."""

    __slots__ = ()

    def vmf_insert_page_mkwrite(self, vmf: VmFault, page: Page, *, write: bool) -> int:
        """Map *page* for a fault; for a write make it, or find it, writable.

        Returns:
            ``VM_FAULT_NOPAGE``, also if something was there and this is no write;
            ``VM_FAULT_SIGBUS`` or ``VM_FAULT_OOM``.

        Source: mm/memory.c, vmf_insert_page_mkwrite()
        """
        if not vmf.vma.start <= vmf.address < vmf.vma.end:
            return VM_FAULT_SIGBUS
        error = self.insert_page(vmf.vma, vmf.address, page, mkwrite=write)
        return self._fault_code(error)

    @staticmethod
    def _fault_code(error: int) -> int:
        """Return the ``VM_FAULT_`` bits of an error number."""
        if error == -ENOMEM:
            return VM_FAULT_OOM
        return VM_FAULT_SIGBUS if error not in {0, -EBUSY} else VM_FAULT_NOPAGE

    def insert_page(self, vma: VmArea, addr: int, page: Page, *, mkwrite: bool) -> int:
        """Look whether *page* may be mapped here, and map it; 0 or an error number.

        Source: mm/memory.c, insert_page()
        """
        error = self.validate_page_before_insert(vma, page)
        if error:
            return error
        found = self.get_locked_pte(vma.mm, addr)
        if found is None:
            return -ENOMEM
        ptep, ptl = found
        error = self.insert_page_into_pte_locked(vma, ptep, addr, page, mkwrite=mkwrite)
        ptl.release()
        return error

    def validate_page_before_insert(self, vma: VmArea, page: Page) -> int:
        """Return 0 if a page may be mapped into *vma*, or ``-EINVAL``.

        Somebody must hold it, and it must be no anonymous memory. The zero page only
        goes where nobody will find it exchanged for another page without being told.

        Source: mm/memory.c, validate_page_before_insert()
        """
        folio = self._kernel.page_alloc.folio(page)
        if folio is None or not folio.refcount:
            return -EINVAL
        if self.is_zero_pfn(page):
            return 0 if self.vm_mixed_zeropage_allowed(vma) else -EINVAL
        return -EINVAL if folio.anon else 0

    @staticmethod
    def vm_mixed_zeropage_allowed(vma: VmArea) -> bool:
        """Tell whether an area may hold the zero page beside others.

        Source: mm/memory.c, vm_mixed_zeropage_allowed()
        """
        if is_cow_mapping(vma.flags):
            return True
        if not vma.flags & (VM_WRITE | VM_MAYWRITE):
            return True
        told = vma.ops is not None and vma.ops.has("pfn_mkwrite")
        return told and (vma.dax or bool(vma.flags & VM_IO))

    def insert_page_into_pte_locked(
        self, vma: VmArea, ptep: int, addr: int, page: Page, *, mkwrite: bool
    ) -> int:
        """Store the entry; 0 or an error number. The zero page is marked, not counted.

        Unlike a block's, an entry that is made writable where it stands is not marked
        dirty here.

        Source: mm/memory.c, insert_page_into_pte_locked()
        """
        pgtable = self._pgtable
        old = pgtable.ptep_get(ptep)
        if not pte_none(old):
            if not mkwrite:
                return -EBUSY
            if pgtable.pte_pfn(old) != page:
                if not self.is_zero_pfn(pgtable.pte_pfn(old)):
                    self._kernel.panic.warn_on_once(
                        "insert_page_into_pte_locked", "another page is mapped"
                    )
                return -EFAULT
            entry = self._kernel.memory.maybe_mkwrite(pte_mkyoung(old), vma)
            self._kernel.fault.ptep_set_access_flags(vma, addr, ptep, entry, dirty=True)
            return 0
        entry = pgtable.pfn_pte(page, vma.page_prot)
        if self.is_zero_pfn(page):
            entry = pgtable.pte_mkspecial(entry)
        else:
            folio = self._kernel.page_alloc.folio_of(page)
            folio.refcount += 1
            if mkwrite:
                entry = pte_mkdirty(pte_mkyoung(entry))
                entry = self._kernel.memory.maybe_mkwrite(entry, vma)
            self._kernel.swap.inc_file_counter(vma.mm, folio)
            self._kernel.rmap.folio_add_file_rmap_pte(folio, page, vma)
        pgtable.set_ptes(vma.mm, addr, ptep, entry, 1)
        return 0

    def get_locked_pte(self, mm: MmStruct, addr: int) -> tuple[int, SpinLock] | None:
        """Return where a page entry stands and the PTL, taken; tables are made.

        ``None`` without memory, or if there is no table any more.

        Source: mm/memory.c, __get_locked_pte()
        """
        pmdp = self.pmd_alloc(mm, addr)
        if pmdp is None or not self.pte_alloc(mm, pmdp):
            return None
        return self._kernel.pgtable_generic.pte_offset_map_lock(mm, pmdp, addr)
