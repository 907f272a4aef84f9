"""What user space asks of a userfaultfd: its ioctls, with their checks in order."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from tlbkit.linux.fs.userfaultfd.fault import UffdMessages
from tlbkit.linux.include.linux.mm import (
    VM_MAYWRITE,
    VM_UFFD_MINOR,
    VM_UFFD_MISSING,
    VM_UFFD_WP,
)
from tlbkit.linux.include.linux.userfaultfd_k import (
    userfaultfd_missing,
    vma_can_userfault,
)
from tlbkit.linux.include.uapi.asm_generic.errno import (
    EAGAIN,
    EBUSY,
    EINVAL,
    ENOMEM,
    EPERM,
    ESRCH,
)
from tlbkit.linux.include.uapi.linux.userfaultfd import (
    UFFD_FEATURE_WP_ASYNC,
    UFFDIO_CONTINUE_MODE_DONTWAKE,
    UFFDIO_CONTINUE_MODE_WP,
    UFFDIO_COPY_MODE_DONTWAKE,
    UFFDIO_COPY_MODE_WP,
    UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES,
    UFFDIO_MOVE_MODE_DONTWAKE,
    UFFDIO_REGISTER_MODE_MINOR,
    UFFDIO_REGISTER_MODE_MISSING,
    UFFDIO_REGISTER_MODE_WP,
    UFFDIO_REGISTER_MODES,
    UFFDIO_WRITEPROTECT_MODE_DONTWAKE,
    UFFDIO_WRITEPROTECT_MODE_WP,
    UFFDIO_ZEROPAGE_MODE_DONTWAKE,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tlbkit.linux.fs.userfaultfd.context import UserfaultfdCtx
    from tlbkit.linux.include.linux.mm_types import MmStruct


class Answer(NamedTuple):
    """How a request that may stop half-way ended.

    Attributes:
        ret: 0 or a negative error number.
        done: The output field: bytes that were done, or the error if there were none;
            ``None`` if the kernel left it alone.
    """

    ret: int
    done: int | None


class UffdRequests(UffdMessages):
    """The requests of user space."""

    __slots__ = ()

    def validate_range(self, start: int, length: int) -> int:
        """Return ``-EINVAL`` unless a range is of pages, not empty, and a task's."""
        if start & ~self._pgtable.page_mask:
            return -EINVAL
        return self.validate_unaligned_range(start, length)

    def validate_unaligned_range(self, start: int, length: int) -> int:
        """Check a range that may begin anywhere."""
        task_size = self._pgtable.task_size
        if length & ~self._pgtable.page_mask or length <= 0:
            return -EINVAL
        if not 0 <= start < task_size or length > task_size - start:
            return -EINVAL
        return 0

    @contextmanager
    def _mmget_not_zero(self, mm: MmStruct) -> Iterator[bool]:
        """Keep an address space from going away; false if it has gone."""
        alive = mm.users > 0
        mm.users += alive
        try:
            yield alive
        finally:
            if alive:
                self._kernel.fork.mmput(mm)

    def userfaultfd_register(
        self, ctx: UserfaultfdCtx, start: int, length: int, mode: int
    ) -> int:
        """Watch a range in the ways of *mode*, besides what was watched elsewhere.

        Every area of the range is checked before the first is changed. An error from
        splitting one leaves those before it watched.
        """
        if not mode or mode & ~UFFDIO_REGISTER_MODES:
            return -EINVAL
        vm_flags = VM_UFFD_MISSING * bool(mode & UFFDIO_REGISTER_MODE_MISSING)
        vm_flags |= VM_UFFD_WP * bool(mode & UFFDIO_REGISTER_MODE_WP)
        vm_flags |= VM_UFFD_MINOR * bool(mode & UFFDIO_REGISTER_MODE_MINOR)
        error = self.validate_range(start, length)
        if error:
            return error
        end = start + length
        with self._mmget_not_zero(ctx.mm) as alive:
            if not alive:
                return -ENOMEM
            ctx.mm.mmap_lock.down_write()
            error = self._check_register(ctx, start, end, vm_flags)
            if not error:
                error = self._kernel.userfaultfd.userfaultfd_register_range(
                    ctx, vm_flags, start, end
                )
            ctx.mm.mmap_lock.up_write()
        return error

    def _check_register(
        self, ctx: UserfaultfdCtx, start: int, end: int, vm_flags: int
    ) -> int:
        """Return why an area of a range cannot be watched, or 0."""
        wp_async = bool(ctx.features & UFFD_FEATURE_WP_ASYNC)
        vmas = self._kernel.vma.overlapping(ctx.mm, start, end)
        if not vmas:
            return -EINVAL
        for vma in vmas:
            if not vma_can_userfault(vma, vm_flags, wp_async=wp_async):
                return -EINVAL
            if not vma.flags & VM_MAYWRITE:
                return -EPERM
            if vma.uffd not in (None, ctx):
                return -EBUSY
        return 0

    def userfaultfd_unregister(
        self, ctx: UserfaultfdCtx, start: int, length: int
    ) -> int:
        """Stop watching a range; threads that sleep for it go on."""
        error = self.validate_range(start, length)
        if error:
            return error
        with self._mmget_not_zero(ctx.mm) as alive:
            if not alive:
                return -ENOMEM
            ctx.mm.mmap_lock.down_write()
            error = self._unregister_range(ctx, start, start + length)
            ctx.mm.mmap_lock.up_write()
        return error

    def _unregister_range(self, ctx: UserfaultfdCtx, start: int, end: int) -> int:
        wp_async = bool(ctx.features & UFFD_FEATURE_WP_ASYNC)
        vmas = self._kernel.vma.overlapping(ctx.mm, start, end)
        if not vmas:
            return -EINVAL
        for vma in vmas:
            if not vma_can_userfault(vma, vma.flags, wp_async=wp_async):
                return -EINVAL
            if vma.uffd not in (None, ctx):
                return -EINVAL
        at = start
        while at < end:
            area = self._kernel.vma.find_vma(ctx.mm, at)
            if area is None or area.start >= end:
                break
            at, until = max(at, area.start), min(end, area.end)
            if area.uffd is not None:
                if userfaultfd_missing(area):
                    self.wake_userfault(ctx, at, until - at)
                error = self._kernel.userfaultfd.userfaultfd_clear_vma(area, at, until)
                if error:
                    return error
            at = until
        return 0

    def userfaultfd_release(self, ctx: UserfaultfdCtx) -> None:
        """Close a context: nothing is watched any more, and all sleepers go on."""
        ctx.released = True
        with self._mmget_not_zero(ctx.mm) as alive:
            if alive:
                self._kernel.userfaultfd.userfaultfd_release_all(ctx)
        self.wake_userfault(ctx)

    def userfaultfd_wake(self, ctx: UserfaultfdCtx, start: int, length: int) -> int:
        """Let the threads go on that sleep for a page of a range."""
        error = self.validate_range(start, length)
        if not error:
            self.wake_userfault(ctx, start, length)
        return error

    def userfaultfd_copy(
        self, ctx: UserfaultfdCtx, dst: int, src: int, length: int, mode: int
    ) -> Answer:
        """Fill missing pages with what the calling process has at *src*."""
        if ctx.mmap_changing:
            return Answer(-EAGAIN, -EAGAIN)
        error = self.validate_unaligned_range(src, length)
        error = error or self.validate_range(dst, length)
        if not error and mode & ~(UFFDIO_COPY_MODE_DONTWAKE | UFFDIO_COPY_MODE_WP):
            error = -EINVAL
        if error:
            return Answer(error, None)
        with self._mmget_not_zero(ctx.mm) as alive:
            if not alive:
                return Answer(-ESRCH, None)
            done = self._kernel.userfaultfd.mfill_atomic_copy(
                ctx, dst, src, length, wp=bool(mode & UFFDIO_COPY_MODE_WP)
            )
        return self._finish(ctx, dst, length, done, mode & UFFDIO_COPY_MODE_DONTWAKE)

    def userfaultfd_zeropage(
        self, ctx: UserfaultfdCtx, start: int, length: int, mode: int
    ) -> Answer:
        """Map the zero page at missing pages."""
        if ctx.mmap_changing:
            return Answer(-EAGAIN, -EAGAIN)
        error = self.validate_range(start, length)
        if not error and mode & ~UFFDIO_ZEROPAGE_MODE_DONTWAKE:
            error = -EINVAL
        if error:
            return Answer(error, None)
        with self._mmget_not_zero(ctx.mm) as alive:
            if not alive:
                return Answer(-ESRCH, None)
            done = self._kernel.userfaultfd.mfill_atomic_zeropage(ctx, start, length)
        return self._finish(
            ctx, start, length, done, mode & UFFDIO_ZEROPAGE_MODE_DONTWAKE
        )

    def userfaultfd_continue(
        self, ctx: UserfaultfdCtx, start: int, length: int, mode: int
    ) -> Answer:
        """Map pages that the file has, and that the fault was told of."""
        if ctx.mmap_changing:
            return Answer(-EAGAIN, -EAGAIN)
        error = self.validate_range(start, length)
        known = UFFDIO_CONTINUE_MODE_DONTWAKE | UFFDIO_CONTINUE_MODE_WP
        if not error and mode & ~known:
            error = -EINVAL
        if error:
            return Answer(error, None)
        with self._mmget_not_zero(ctx.mm) as alive:
            if not alive:
                return Answer(-ESRCH, None)
            done = self._kernel.userfaultfd.mfill_atomic_continue(
                ctx, start, length, wp=bool(mode & UFFDIO_CONTINUE_MODE_WP)
            )
        return self._finish(
            ctx, start, length, done, mode & UFFDIO_CONTINUE_MODE_DONTWAKE
        )

    def userfaultfd_writeprotect(
        self, ctx: UserfaultfdCtx, start: int, length: int, mode: int
    ) -> int:
        """Protect the pages of a range against writes, or give writes free again."""
        if ctx.mmap_changing:
            return -EAGAIN
        error = self.validate_range(start, length)
        if error:
            return error
        known = UFFDIO_WRITEPROTECT_MODE_WP | UFFDIO_WRITEPROTECT_MODE_DONTWAKE
        protect = bool(mode & UFFDIO_WRITEPROTECT_MODE_WP)
        dontwake = bool(mode & UFFDIO_WRITEPROTECT_MODE_DONTWAKE)
        if mode & ~known or (protect and dontwake):
            return -EINVAL
        with self._mmget_not_zero(ctx.mm) as alive:
            if not alive:
                return -ESRCH
            error = self._kernel.userfaultfd.mwriteprotect_range(
                ctx, start, length, enable_wp=protect
            )
        if not error and not protect and not dontwake:
            self.wake_userfault(ctx, start, length)
        return error

    def userfaultfd_move(
        self,
        ctx: UserfaultfdCtx,
        current: MmStruct | None,
        dst: int,
        src: int,
        length: int,
        mode: int,
    ) -> Answer:
        """Move pages of the calling process to missing pages of a watched range.

        Args:
            ctx: Whose range *dst* is.
            current: The address space of the caller, which must be the one watched.
            dst: Page-aligned.
            src: Page-aligned.
            length: In bytes, of pages.
            mode: The ``UFFDIO_MOVE_MODE_`` bits.
        """
        if ctx.mmap_changing:
            return Answer(-EAGAIN, -EAGAIN)
        if ctx.mm is not current:
            return Answer(-EINVAL, None)
        error = self.validate_range(dst, length) or self.validate_range(src, length)
        known = UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES | UFFDIO_MOVE_MODE_DONTWAKE
        if not error and mode & ~known:
            error = -EINVAL
        if error:
            return Answer(error, None)
        with self._mmget_not_zero(ctx.mm) as alive:
            if not alive:
                return Answer(-ESRCH, None)
            done = self._kernel.userfaultfd.move_pages(ctx, dst, src, length, mode)
        return self._finish(ctx, dst, length, done, mode & UFFDIO_MOVE_MODE_DONTWAKE)

    def _finish(
        self, ctx: UserfaultfdCtx, start: int, length: int, done: int, dontwake: int
    ) -> Answer:
        """Wake whom the *done* bytes are for, and say how the request ended."""
        if done < 0:
            return Answer(done, done)
        if not dontwake:
            self.wake_userfault(ctx, start, done)
        return Answer(0 if done == length else -EAGAIN, done)
