"""What is watched, and what is write-protected: WRITEPROTECT and registration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.include.linux.hugetlb import is_vm_hugetlb_page
from tlbkit.linux.include.linux.mm import (
    MM_CP_TRY_CHANGE_WRITABLE,
    MM_CP_UFFD_WP,
    MM_CP_UFFD_WP_RESOLVE,
    VM_SHARED,
    VM_UFFD,
    VM_UFFD_WP,
)
from tlbkit.linux.include.linux.userfaultfd_k import (
    uffd_disable_huge_pmd_share,
    userfaultfd_wp,
)
from tlbkit.linux.include.uapi.asm_generic.errno import (
    EAGAIN,
    ENOENT,
)
from tlbkit.linux.mm.userfaultfd.areas import UffdAreas

if TYPE_CHECKING:
    from tlbkit.linux.fs.userfaultfd import UserfaultfdCtx
    from tlbkit.linux.include.linux.mm_types import VmArea


class UffdWatch(UffdAreas):
    """Watching areas, and protecting their pages, on behalf of user space."""

    __slots__ = ()

    # -- WRITEPROTECT ----------------------------------------------------------------

    def uffd_wp_range(
        self, vma: VmArea, start: int, length: int, *, enable_wp: bool
    ) -> int:
        """Protect the pages of a range of *vma*, or give writes free.

        Giving free tries to give write permission back at once, where a write fault
        would do no more than that.

        Returns:
            How many entries changed, or a negative error number.
        """
        how = MM_CP_UFFD_WP if enable_wp else MM_CP_UFFD_WP_RESOLVE
        mprotect = self._kernel.mprotect
        if not enable_wp and mprotect.vma_wants_manual_pte_write_upgrade(vma):
            how |= MM_CP_TRY_CHANGE_WRITABLE
        tlb = self._kernel.gather.tlb_gather_mmu(vma.mm)
        result = mprotect.change_protection(tlb, vma, start, start + length, how)
        self._kernel.gather.tlb_finish_mmu(tlb)
        return result

    def mwriteprotect_range(
        self, ctx: UserfaultfdCtx, start: int, length: int, *, enable_wp: bool
    ) -> int:
        """Protect or give free a range of areas, all watched; 0 or an error number.

        Areas before the one that gives an error keep their change.
        """
        mm = ctx.mm
        end = start + length
        mm.mmap_lock.down_read()
        ctx.map_changing_lock.down_read()
        error = -EAGAIN if ctx.mmap_changing else -ENOENT
        if not ctx.mmap_changing:
            for vma in self._kernel.vma.overlapping(mm, start, end):
                if not userfaultfd_wp(vma):
                    error = -ENOENT
                    break
                first, last = max(vma.start, start), min(vma.end, end)
                changed = self.uffd_wp_range(
                    vma, first, last - first, enable_wp=enable_wp
                )
                error = min(changed, 0)
                if error:
                    break
        ctx.map_changing_lock.up_read()
        mm.mmap_lock.up_read()
        return error

    # -- what is watched -------------------------------------------------------------

    def userfaultfd_set_vm_flags(self, vma: VmArea, flags: int) -> None:
        """Give *vma* flags; shared pages are not writable at once while protected."""
        changed = vma.flags ^ flags
        vma.flags = flags
        if flags & VM_SHARED and changed & VM_UFFD_WP:
            self._kernel.vma.vma_set_page_prot(vma)

    def userfaultfd_set_ctx(
        self, vma: VmArea, ctx: UserfaultfdCtx | None, vm_flags: int
    ) -> None:
        """Let *ctx* watch *vma*, in the ways of *vm_flags*, or nobody."""
        self._kernel.mmap_lock.vma_start_write(vma)
        vma.uffd = ctx
        self.userfaultfd_set_vm_flags(vma, vma.flags & ~VM_UFFD | vm_flags)

    def userfaultfd_reset_ctx(self, vma: VmArea) -> None:
        """Let nobody watch *vma* any more.

        Source: mm/userfaultfd.c, userfaultfd_reset_ctx()
        """
        vma.uffd = None
        self.userfaultfd_set_vm_flags(vma, vma.flags & ~VM_UFFD)

    def userfaultfd_clear_vma(self, vma: VmArea, start: int, end: int) -> int:
        """Stop watching a part of *vma*; 0 or a negative error number."""
        if userfaultfd_wp(vma):
            self.uffd_wp_range(vma, start, end - start, enable_wp=False)
        result = self._kernel.vma.vma_modify_flags_uffd(
            vma, start, end, vma.flags & ~VM_UFFD, None
        )
        if isinstance(result, int):
            return result
        self.userfaultfd_set_ctx(result, None, 0)
        return 0

    def userfaultfd_register_range(
        self, ctx: UserfaultfdCtx, vm_flags: int, start: int, end: int
    ) -> int:
        """Watch a range for *ctx*; the mmap lock is held for writing.

        Returns:
            0, or a negative error number; what comes before its place is watched.
        """
        at = start
        while at < end:
            vma = self._kernel.vma.find_vma(ctx.mm, at)
            if vma is None or vma.start >= end:
                break
            at, until = max(at, vma.start), min(end, vma.end)
            if vma.uffd is not ctx or vma.flags & vm_flags != vm_flags:
                result = self._kernel.vma.vma_modify_flags_uffd(
                    vma, at, until, vma.flags & ~VM_UFFD | vm_flags, ctx
                )
                if isinstance(result, int):
                    return result
                self.userfaultfd_set_ctx(result, ctx, vm_flags)
                if is_vm_hugetlb_page(result) and uffd_disable_huge_pmd_share(result):
                    self._kernel.hugetlb.hugetlb_unshare_all_pmds(result)
            at = until
        return 0

    def userfaultfd_release_all(self, ctx: UserfaultfdCtx) -> None:
        """Stop watching anything for *ctx*, which is being closed."""
        mm = ctx.mm
        mm.mmap_lock.down_write()
        for vma in [vma for vma in mm.vmas if vma.uffd is ctx]:
            if vma.uffd is ctx:
                self.userfaultfd_clear_vma(vma, vma.start, vma.end)
        mm.mmap_lock.up_write()
