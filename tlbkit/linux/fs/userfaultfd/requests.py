"""What user space asks of a userfaultfd: its ioctls, with their checks in order."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from tlbkit.linux.fs.userfaultfd.context import UserfaultfdCtx
from tlbkit.linux.fs.userfaultfd.fault import UffdMessages
from tlbkit.linux.include.linux.hugetlb import is_vm_hugetlb_page
from tlbkit.linux.include.linux.mm import (
    VM_MAYWRITE,
    VM_UFFD_MINOR,
    VM_UFFD_MISSING,
    VM_UFFD_WP,
)
from tlbkit.linux.include.linux.userfaultfd_k import (
    MFILL_ATOMIC_WP,
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
    FEATURES,
    O_CLOEXEC,
    O_NONBLOCK,
    UFFD_API,
    UFFD_FEATURE_WP_ASYNC,
    UFFD_FEATURE_WP_UNPOPULATED,
    UFFD_USER_MODE_ONLY,
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
from tlbkit.linux.kernel.locking import RwSemaphore
from tlbkit.linux.mm.mmap import MMAP_MIN_ADDR

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

    from tlbkit.linux.include.linux.mm_types import MmStruct, VmArea

UFFD_FEATURE_INITIALIZED: Final = 1 << 31
"""That UFFDIO_API was asked; user space knows nothing of this bit."""


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
    """The ioctls, in the order of the C file, and the system call that comes before.

    Each checks in the kernel's order. What copy_from_user() could fail with is left
    out: arguments are arguments here.
    """

    __slots__ = ()

    @staticmethod
    def userfaultfd_is_initialized(ctx: UserfaultfdCtx) -> bool:
        """Tell whether UFFDIO_API was asked of *ctx*: nothing else may be before.

        Source: fs/userfaultfd.c, userfaultfd_is_initialized()
        """
        return bool(ctx.features & UFFD_FEATURE_INITIALIZED)

    def validate_unaligned_range(self, start: int, length: int) -> int:
        """Return ``-EINVAL`` unless a range is of a length in pages, and a task's.

        Source: fs/userfaultfd.c, validate_unaligned_range()
        """
        task_size = self._pgtable.task_size
        if length & ~self._pgtable.page_mask or length <= 0:
            return -EINVAL
        if start < MMAP_MIN_ADDR or start >= task_size:
            return -EINVAL
        if length > task_size - start:
            return -EINVAL
        return 0

    def validate_range(self, start: int, length: int) -> int:
        """Return ``-EINVAL`` unless a range is of pages, and a task's.

        Source: fs/userfaultfd.c, validate_range()
        """
        if start & ~self._pgtable.page_mask:
            return -EINVAL
        return self.validate_unaligned_range(start, length)

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

        Every VMA of the range is checked before the first is changed. An error from
        splitting one leaves those before it watched.

        Source: fs/userfaultfd.c, userfaultfd_register()
        Deviates: it does not say which ioctls the range can be asked for.
        """
        if not mode or mode & ~UFFDIO_REGISTER_MODES:
            return -EINVAL
        vm_flags = 0
        if mode & UFFDIO_REGISTER_MODE_MISSING:
            vm_flags |= VM_UFFD_MISSING
        if mode & UFFDIO_REGISTER_MODE_WP:
            vm_flags |= VM_UFFD_WP
        if mode & UFFDIO_REGISTER_MODE_MINOR:
            vm_flags |= VM_UFFD_MINOR
        error = self.validate_range(start, length)
        if error:
            return error
        end = start + length
        with self._mmget_not_zero(ctx.mm) as alive:
            if not alive:
                return -ENOMEM
            ctx.mm.mmap_lock.down_write()
            vmas = self._kernel.vma.overlapping(ctx.mm, start, end)
            error = self._check_register(ctx, vmas, start, end, vm_flags)
            if not error:
                error = self._kernel.userfaultfd.userfaultfd_register_range(
                    ctx, vmas[0], vm_flags, start, end
                )
            ctx.mm.mmap_lock.up_write()
        return error

    def _check_register(
        self,
        ctx: UserfaultfdCtx,
        vmas: list[VmArea],
        start: int,
        end: int,
        vm_flags: int,
    ) -> int:
        """Return why a VMA of a range cannot be watched, or 0."""
        wp_async = bool(ctx.features & UFFD_FEATURE_WP_ASYNC)
        if not vmas or self._cuts_huge_page(vmas[0], start):
            return -EINVAL
        for cur in vmas:
            if not vma_can_userfault(cur, vm_flags, wp_async=wp_async):
                return -EINVAL
            if not cur.flags & VM_MAYWRITE:
                return -EPERM
            if end <= cur.end and self._cuts_huge_page(cur, end):
                return -EINVAL
            if cur.uffd not in (None, ctx):
                return -EBUSY
        return 0

    def _cuts_huge_page(self, vma: VmArea, address: int) -> bool:
        """Tell whether a range that begins or ends here has part of a hugetlb page."""
        if not is_vm_hugetlb_page(vma):
            return False
        return bool(address & (self._kernel.hugetlb.hstate_vma(vma).size - 1))

    def userfaultfd_unregister(
        self, ctx: UserfaultfdCtx, start: int, length: int
    ) -> int:
        """Stop watching a range; threads that sleep for it go on.

        Source: fs/userfaultfd.c, userfaultfd_unregister()
        """
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
        """Check every VMA of a range, then let go of each; the mmap lock is held."""
        wp_async = bool(ctx.features & UFFD_FEATURE_WP_ASYNC)
        vmas = self._kernel.vma.overlapping(ctx.mm, start, end)
        if not vmas or self._cuts_huge_page(vmas[0], start):
            return -EINVAL
        for cur in vmas:
            if cur.uffd not in (None, ctx):
                return -EINVAL
            if not vma_can_userfault(cur, cur.flags, wp_async=wp_async):
                return -EINVAL
        vma = self._kernel.vma.find_vma(ctx.mm, start)
        while vma is not None and vma.start < end:
            if vma.uffd is not None:
                start = max(start, vma.start)
                vma_end = min(end, vma.end)
                if userfaultfd_missing(vma):
                    self.wake_userfault(vma.uffd, start, vma_end - start)
                ret = self._kernel.userfaultfd.userfaultfd_clear_vma(
                    vma, start, vma_end
                )
                if isinstance(ret, int):
                    return ret
                vma = ret
            start = vma.end
            vma = self._kernel.vma.find_vma(ctx.mm, start)
        return 0

    def userfaultfd_wake(self, ctx: UserfaultfdCtx, start: int, length: int) -> int:
        """Let the threads go on that sleep for a page of a range.

        Source: fs/userfaultfd.c, userfaultfd_wake()
        """
        error = self.validate_range(start, length)
        if not error:
            self.wake_userfault(ctx, start, length)
        return error

    def userfaultfd_copy(
        self, ctx: UserfaultfdCtx, dst: int, src: int, length: int, mode: int
    ) -> Answer:
        """Fill missing pages with what the calling process has at *src*.

        Source: fs/userfaultfd.c, userfaultfd_copy()
        """
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
            flags = MFILL_ATOMIC_WP if mode & UFFDIO_COPY_MODE_WP else 0
            done = self._kernel.userfaultfd.mfill_atomic_copy(
                ctx, dst, src, length, flags
            )
        return self._finish(ctx, dst, length, done, mode & UFFDIO_COPY_MODE_DONTWAKE)

    def userfaultfd_zeropage(
        self, ctx: UserfaultfdCtx, start: int, length: int, mode: int
    ) -> Answer:
        """Map the zero page at missing pages.

        Source: fs/userfaultfd.c, userfaultfd_zeropage()
        """
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

    def userfaultfd_writeprotect(
        self, ctx: UserfaultfdCtx, start: int, length: int, mode: int
    ) -> int:
        """Protect the pages of a range against writes, or let them be written again.

        Source: fs/userfaultfd.c, userfaultfd_writeprotect()
        """
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

    def userfaultfd_continue(
        self, ctx: UserfaultfdCtx, start: int, length: int, mode: int
    ) -> Answer:
        """Map pages that the file has already.

        Source: fs/userfaultfd.c, userfaultfd_continue()
        """
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
            flags = MFILL_ATOMIC_WP if mode & UFFDIO_CONTINUE_MODE_WP else 0
            done = self._kernel.userfaultfd.mfill_atomic_continue(
                ctx, start, length, flags
            )
        return self._finish(
            ctx, start, length, done, mode & UFFDIO_CONTINUE_MODE_DONTWAKE
        )

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

        Source: fs/userfaultfd.c, userfaultfd_move()
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

    def userfaultfd_api(self, ctx: UserfaultfdCtx, api: int, features: int) -> int:
        """Give *ctx* features, once; what a feature builds on comes with it.

        Source: fs/userfaultfd.c, userfaultfd_api()
        Deviates: every process may ask to be told of forks.
        """
        if api != UFFD_API:
            return -EINVAL
        if features & UFFD_FEATURE_WP_ASYNC:
            features |= UFFD_FEATURE_WP_UNPOPULATED
        if features & ~sum(FEATURES.values()):
            return -EINVAL
        if ctx.features:
            return -EINVAL
        ctx.features = features | UFFD_FEATURE_INITIALIZED
        return 0

    def new_userfaultfd(self, mm: MmStruct, flags: int) -> UserfaultfdCtx | int:
        """Return a context for *mm*, or a negative error number.

        Source: fs/userfaultfd.c, new_userfaultfd()
        Deviates: every process may have faults of the kernel handed to it, and a
        context never fails for want of memory.
        """
        if flags & ~(O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY):
            return -EINVAL
        lock = RwSemaphore(self._machine, "map_changing_lock")
        return UserfaultfdCtx(mm, flags, lock)
