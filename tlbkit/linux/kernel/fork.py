"""Making and ending address spaces: kernel/fork.c.

Compared with: v6.19, in December 2026.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.fs.userfaultfd import UserfaultError
from tlbkit.linux.include.linux.hugetlb import is_vm_hugetlb_page
from tlbkit.linux.include.linux.mm import (
    VM_DONTCOPY,
    VM_LOCKED,
    VM_WIPEONFORK,
)
from tlbkit.linux.include.linux.mm_types import MmStruct, VmArea
from tlbkit.linux.include.uapi.asm_generic.errno import ENOMEM
from tlbkit.linux.kernel.locking import RwSemaphore, SpinLock

if TYPE_CHECKING:
    from tlbkit.linux.fs.userfaultfd import Forked
    from tlbkit.linux.kernel.kernel import Kernel


class Fork:
    """fork() and the end of what it made, as far as memory is concerned.

    Attributes:
        mmlist: Every address space that there is, also one in the making.
    """

    __slots__ = ("_kernel", "mmlist")

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.mmlist: list[MmStruct] = []

    def mm_alloc(self) -> MmStruct | None:
        """Return an empty address space, or ``None`` without memory.

        Source: kernel/fork.c, mm_alloc()
        """
        kernel = self._kernel
        table = kernel.page_alloc.alloc_table("PGD table")
        if table is None:
            return None
        machine = kernel.machine
        mm = MmStruct(
            table.pfn << kernel.pgtable.page_shift,
            kernel.mmap.mmap_base(),
            RwSemaphore(machine, "mmap_lock"),
            SpinLock(machine, "page_table_lock"),
        )
        self.mmlist.append(mm)
        return mm

    def dup_mm(self, parent: MmStruct) -> MmStruct | int:
        """Return a copy of an address space, or a negative error number.

        Source: kernel/fork.c, dup_mm()
        """
        child = self.mm_alloc()
        if child is None:
            return -ENOMEM
        # The kernel copies the whole struct, and mm_init() leaves this as it was.
        child.tlb_flush_batched = parent.tlb_flush_batched
        try:
            error = self.dup_mmap(child, parent)
        except UserfaultError:
            self.mmput(child)  # nobody reads of the fork, which ends here
            raise
        if error:
            self.mmput(child)
            return error
        return child

    def dup_mmap(self, child: MmStruct, parent: MmStruct) -> int:
        """Copy areas and entries; 0 or a negative error number.

        The parent's entries become read-only one by one and are flushed once, at the
        end, by ASID: whatever they were, and also if the copy failed half-way.

        Source: mm/mmap.c, dup_mmap()
        """
        kernel = self._kernel
        parent.mmap_lock.down_write()
        child.mmap_lock.down_write()
        child.total_vm = parent.total_vm
        uf: list[Forked] = []
        error = 0
        for vma in parent.vmas:
            kernel.mmap_lock.vma_start_write(vma)
            if vma.flags & VM_DONTCOPY:
                pages = (vma.end - vma.start) >> kernel.pgtable.page_shift
                child.total_vm -= pages
                continue
            tmp = self.vm_area_dup(vma)
            tmp.mm = child
            error = kernel.fs_userfaultfd.dup_userfaultfd(tmp, uf)
            if error:
                break
            if tmp.flags & VM_WIPEONFORK:
                tmp.anon_vma = None
            else:
                kernel.rmap.anon_vma_fork(tmp, vma)
            tmp.flags &= ~VM_LOCKED
            if is_vm_hugetlb_page(tmp):
                tmp.private_data = None  # hugetlb_dup_vma_private()
            child.vmas.append(tmp)
            if tmp.ops is not None:
                tmp.ops.open(tmp)
            kernel.vma.vma_link_file(tmp)
            if not tmp.flags & VM_WIPEONFORK:
                error = kernel.memory.copy_page_range(tmp, vma)
            if error:
                break
        child.mmap_lock.up_write()
        kernel.tlbflush.flush_tlb_mm(parent)
        parent.mmap_lock.up_write()
        if error:
            kernel.fs_userfaultfd.dup_userfaultfd_fail(uf)
        else:
            kernel.fs_userfaultfd.dup_userfaultfd_complete(uf)
        return error

    @staticmethod
    def vm_area_dup(orig: VmArea) -> VmArea:
        """Return a copy of an area, which is in no address space and no file.

        Source: mm/vma_init.c, vm_area_dup()
        """
        new = VmArea(
            orig.mm, orig.start, orig.end, orig.flags, orig.page_prot, orig.pgoff
        )
        new.anon_vma = orig.anon_vma
        new.file = orig.file
        new.ops = orig.ops
        new.uffd = orig.uffd
        new.private_data = orig.private_data
        new.maybe_guard = orig.maybe_guard
        return new

    def check_mm(self, mm: MmStruct) -> None:
        """Report pages that were counted and never given back.

        Source: kernel/fork.c, check_mm()
        """
        for kind, count in (
            ("MM_FILEPAGES", mm.filepages),
            ("MM_ANONPAGES", mm.anonpages),
            ("MM_SWAPENTS", mm.swapents),
            ("MM_SHMEMPAGES", mm.shmempages),
        ):
            if count:
                printk = self._kernel.printk
                printk.pr_alert(
                    f"BUG: Bad rss-counter state mm:{printk.address(mm):016x} "
                    f"type:{kind} val:{count}"
                )

    def mmput(self, mm: MmStruct) -> None:
        """Drop one user of an address space, and all of it with the last.

        Source: kernel/fork.c, mmput()
        """
        mm.users -= 1
        if mm.users:
            return
        kernel = self._kernel
        kernel.mmap.exit_mmap(mm)
        self.check_mm(mm)
        kernel.huge_memory.mm_put_huge_zero_folio(mm)
        kernel.sched.leave(mm)
        self.mmlist.remove(mm)
        pgd = kernel.page_alloc.folio_of(mm.pgd >> kernel.pgtable.page_shift)
        kernel.page_alloc.free(pgd)
