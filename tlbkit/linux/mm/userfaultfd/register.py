"""What VMAs know of the userfaultfd context that watches them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.include.linux.hugetlb import is_vm_hugetlb_page
from tlbkit.linux.include.linux.mm import VM_SHARED, VM_UFFD, VM_UFFD_WP
from tlbkit.linux.include.linux.userfaultfd_k import (
    uffd_disable_huge_pmd_share,
    userfaultfd_wp,
)
from tlbkit.linux.mm.userfaultfd.move import UffdMove

if TYPE_CHECKING:
    from tlbkit.linux.fs.userfaultfd import UserfaultfdCtx
    from tlbkit.linux.include.linux.mm_types import VmArea


class UffdRegister(UffdMove):
    """Registering VMAs and letting go of them."""

    __slots__ = ()

    def userfaultfd_set_vm_flags(self, vma: VmArea, vm_flags: int) -> None:
        """Give a VMA flags; shared memory notices writes while it can be protected.

        Source: mm/userfaultfd.c, userfaultfd_set_vm_flags()
        """
        uffd_wp_changed = (vma.flags ^ vm_flags) & VM_UFFD_WP
        vma.flags = vm_flags
        if vma.flags & VM_SHARED and uffd_wp_changed:
            self._kernel.vma.vma_set_page_prot(vma)

    def userfaultfd_set_ctx(
        self, vma: VmArea, ctx: UserfaultfdCtx | None, vm_flags: int
    ) -> None:
        """Let *ctx* watch a VMA in the ways of *vm_flags*.

        Source: mm/userfaultfd.c, userfaultfd_set_ctx()
        """
        self._kernel.mmap_lock.vma_start_write(vma)
        vma.uffd = ctx
        self.userfaultfd_set_vm_flags(vma, vma.flags & ~VM_UFFD | vm_flags)

    def userfaultfd_reset_ctx(self, vma: VmArea) -> None:
        """Let nobody watch a VMA.

        Source: mm/userfaultfd.c, userfaultfd_reset_ctx()
        """
        self.userfaultfd_set_ctx(vma, None, 0)

    def userfaultfd_clear_vma(self, vma: VmArea, start: int, end: int) -> VmArea | int:
        """Let nobody watch a part of a VMA, and protect none of its pages.

        Returns:
            The VMA that holds the part now, or a negative error number.

        Source: mm/userfaultfd.c, userfaultfd_clear_vma()
        Deviates: a merge never fails for want of memory, so nothing is given up.
        """
        if userfaultfd_wp(vma):
            self.uffd_wp_range(vma, start, end - start, enable_wp=False)
        ret = self._kernel.vma.vma_modify_flags_uffd(
            vma, start, end, vma.flags & ~VM_UFFD, None
        )
        if not isinstance(ret, int):
            self.userfaultfd_reset_ctx(ret)
        return ret

    def userfaultfd_register_range(
        self, ctx: UserfaultfdCtx, vma: VmArea, vm_flags: int, start: int, end: int
    ) -> int:
        """Let *ctx* watch a range that begins in, or before, *vma*.

        The mmap lock is held for writing.

        Returns:
            0 or a negative error number; what comes before its place is watched.

        Source: mm/userfaultfd.c, userfaultfd_register_range()
        """
        found: VmArea | None = vma
        while found is not None and found.start < end:
            vma = found
            if vma.uffd is not ctx or vma.flags & vm_flags != vm_flags:
                start = max(start, vma.start)
                vma_end = min(end, vma.end)
                new_flags = vma.flags & ~VM_UFFD | vm_flags
                ret = self._kernel.vma.vma_modify_flags_uffd(
                    vma, start, vma_end, new_flags, ctx
                )
                if isinstance(ret, int):
                    return ret
                vma = ret
                self.userfaultfd_set_ctx(vma, ctx, vm_flags)
                if is_vm_hugetlb_page(vma) and uffd_disable_huge_pmd_share(vma):
                    self._kernel.hugetlb.hugetlb_unshare_all_pmds(vma)
            start = vma.end
            found = self._kernel.vma.find_vma(ctx.mm, start)
        return 0

    def userfaultfd_release_new(self, ctx: UserfaultfdCtx) -> None:
        """Let *ctx* watch nothing: the context that a fork made and nobody has read.

        Source: mm/userfaultfd.c, userfaultfd_release_new()
        """
        ctx.mm.mmap_lock.down_write()
        for vma in ctx.mm.vmas:
            if vma.uffd is ctx:
                self.userfaultfd_reset_ctx(vma)
        ctx.mm.mmap_lock.up_write()

    def userfaultfd_release_all(self, ctx: UserfaultfdCtx) -> None:
        """Let *ctx* watch nothing, which is being closed.

        Source: mm/userfaultfd.c, userfaultfd_release_all()
        """
        mm = ctx.mm
        if not mm.users:  # mmget_not_zero()
            return
        mm.users += 1
        mm.mmap_lock.down_write()
        vma = self._kernel.vma.find_vma(mm, 0)
        while vma is not None:
            end = vma.end
            if vma.uffd is ctx:
                ret = self.userfaultfd_clear_vma(vma, vma.start, vma.end)
                end = end if isinstance(ret, int) else ret.end
            vma = self._kernel.vma.find_vma(mm, end)
        mm.mmap_lock.up_write()
        self._kernel.fork.mmput(mm)
