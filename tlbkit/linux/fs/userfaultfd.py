"""Faults that user space handles: fs/userfaultfd.c.

A thread that meets a missing or protected page of a watched area sleeps, and a message
goes to whoever reads the userfaultfd. That thread repairs the page with one of the
requests below, which also wakes the sleeper; the access is then repeated.

Requests return 0 or a negative error number, and those that may come to an end half-way
an `Answer`, which also holds the output field that the kernel writes.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

from tlbkit.errors import TlbkitError
from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pmd_table,
    pte_none,
    pte_present,
    pte_write,
)
from tlbkit.linux.include.linux.mm import (
    FAULT_FLAG_ALLOW_RETRY,
    FAULT_FLAG_RETRY_NOWAIT,
    FAULT_FLAG_WRITE,
    VM_FAULT_RETRY,
    VM_FAULT_SIGBUS,
    VM_MAYWRITE,
    VM_UFFD_MINOR,
    VM_UFFD_MISSING,
    VM_UFFD_WP,
)
from tlbkit.linux.include.linux.swapops import pte_none_mostly
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
    UFFD_FEATURE_EVENT_REMAP,
    UFFD_FEATURE_EVENT_REMOVE,
    UFFD_FEATURE_EVENT_UNMAP,
    UFFD_FEATURE_EXACT_ADDRESS,
    UFFD_FEATURE_SIGBUS,
    UFFD_FEATURE_WP_ASYNC,
    UFFD_FEATURE_WP_UNPOPULATED,
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
    UffdMsg,
)
from tlbkit.linux.kernel.locking import RwSemaphore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tlbkit.linux.include.linux.mm_types import MmStruct, VmArea, VmFault
    from tlbkit.linux.kernel.kernel import Kernel


_TIMES_WOKEN_IN_VAIN: Final = 64


class UserfaultError(TlbkitError):
    """A thread waits for user space to answer a message, and nobody is there to do it.

    Attributes:
        cpu: The CPU whose thread waits.
        message: What user space was told.
    """

    def __init__(self, cpu: int, message: UffdMsg, problem: str) -> None:
        if message.event != "pagefault":
            what = f"has changed a range at {message.address:#x} ({message.event})"
            repair = "read() the message from another thread"
        elif message.wp:
            what = f"writes to the protected page at {message.address:#x}"
            repair = "un-protect it with writeprotect(protect=False) and write again"
        else:
            access = "writes to" if message.write else "reads"
            what = f"{access} the missing page at {message.address:#x}"
            repair = "fill it with copy(), zeropage() or move() and access it again"
        super().__init__(
            f"CPU {cpu}: a thread {what} and waits for user space: {problem}; "
            f"{repair}, or let serve() name a function that answers messages"
        )
        self.cpu = cpu
        self.message = message


class UserfaultfdWait:
    """A thread asleep until a message is answered: struct userfaultfd_wait_queue.

    Attributes:
        msg: The message.
        waken: Whether the thread may go on.
    """

    __slots__ = ("msg", "waken")

    def __init__(self, msg: UffdMsg) -> None:
        self.msg = msg
        self.waken = False


class UserfaultfdCtx:
    """One userfaultfd: struct userfaultfd_ctx.

    Attributes:
        mm: The address space that it watches.
        features: The ``UFFD_FEATURE_`` bits that it was given.
        fault_pending_wqh: Faults that nobody has read yet, oldest first.
        fault_wqh: Faults that were read, and whose threads still sleep.
        event_wqh: Changes of the address space that nobody has read yet.
        mmap_changing: How many changes are being told of at this moment.
        map_changing_lock: Held for reading by requests, for writing to begin a change.
        released: Whether it was closed.
        handler: The thread that serves it, as a function of the message; ``None`` if
            somebody reads it instead.
        serving: Whether that function is at work.
        in_vain: How often running it woke a thread whose page was still not there.
    """

    __slots__ = (
        "event_wqh",
        "fault_pending_wqh",
        "fault_wqh",
        "features",
        "handler",
        "in_vain",
        "map_changing_lock",
        "mm",
        "mmap_changing",
        "released",
        "serving",
    )

    def __init__(self, mm: MmStruct, features: int, lock: RwSemaphore) -> None:
        self.mm = mm
        self.features = features
        self.fault_pending_wqh: list[UserfaultfdWait] = []
        self.fault_wqh: list[UserfaultfdWait] = []
        self.event_wqh: list[UserfaultfdWait] = []
        self.mmap_changing = 0
        self.map_changing_lock = lock
        self.released = False
        self.handler: Callable[[UffdMsg], None] | None = None
        self.serving = False
        self.in_vain = 0


class Unmapping(NamedTuple):
    """A range of a context that goes away: struct userfaultfd_unmap_ctx."""

    ctx: UserfaultfdCtx
    start: int
    end: int


class Answer(NamedTuple):
    """How a request that may stop half-way ended.

    Attributes:
        ret: 0 or a negative error number.
        done: The output field: bytes that were done, or the error if there were none;
            ``None`` if the kernel left it alone.
    """

    ret: int
    done: int | None


class FsUserfaultfd:
    """Contexts, faults handed to user space, and the requests of user space."""

    __slots__ = ("_kernel", "_machine", "_pgtable")

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._machine = kernel.machine
        self._pgtable = kernel.pgtable

    def new_userfaultfd(self, mm: MmStruct, features: int) -> UserfaultfdCtx:
        """Return a context for *mm*; what a feature builds on comes with it."""
        if features & UFFD_FEATURE_WP_ASYNC:
            features |= UFFD_FEATURE_WP_UNPOPULATED
        lock = RwSemaphore(self._machine, "map_changing_lock")
        return UserfaultfdCtx(mm, features, lock)

    # -- a fault ---------------------------------------------------------------------

    def handle_userfault(self, vmf: VmFault, reason: int) -> int:
        """Hand a fault to user space and sleep until it says that it has answered.

        The mmap lock is held for reading, page-table locks are not. It is released
        where the answer is ``VM_FAULT_RETRY``.

        Args:
            vmf: The fault.
            reason: ``VM_UFFD_MISSING``, ``VM_UFFD_MINOR`` or ``VM_UFFD_WP``.

        Errors:
            UserfaultError: Nobody is there to answer; the thread holds nothing.
        """
        ctx = vmf.vma.uffd
        if ctx is None or ctx.features & UFFD_FEATURE_SIGBUS:
            return VM_FAULT_SIGBUS
        if not vmf.flags & FAULT_FLAG_ALLOW_RETRY:
            return VM_FAULT_SIGBUS
        if vmf.flags & FAULT_FLAG_RETRY_NOWAIT:
            return VM_FAULT_RETRY
        if ctx.released:
            vmf.vma.mm.mmap_lock.up_read()
            return VM_FAULT_RETRY
        waiting = UserfaultfdWait(self.userfault_msg(ctx, vmf, reason))
        ctx.fault_pending_wqh.append(waiting)
        # Only now look again: an answer given from here on finds the sleeper.
        must_wait = self.userfaultfd_must_wait(vmf, reason)
        vmf.vma.mm.mmap_lock.up_read()
        if must_wait:
            self._sleep(ctx, waiting, ctx.fault_pending_wqh, ctx.fault_wqh)
            self._check_answer(ctx, vmf, reason, waiting)
        else:
            self._leave(waiting, ctx.fault_pending_wqh)
        return VM_FAULT_RETRY

    @staticmethod
    def userfault_msg(ctx: UserfaultfdCtx, vmf: VmFault, reason: int) -> UffdMsg:
        """Return the message for a fault."""
        exact = ctx.features & UFFD_FEATURE_EXACT_ADDRESS
        return UffdMsg(
            "pagefault",
            vmf.real_address if exact else vmf.address,
            write=bool(vmf.flags & FAULT_FLAG_WRITE),
            wp=reason == VM_UFFD_WP,
            minor=reason == VM_UFFD_MINOR,
        )

    def userfaultfd_must_wait(self, vmf: VmFault, reason: int) -> bool:
        """Tell whether the tables still do not allow the access; no lock is needed."""
        pgtable = self._pgtable
        pmdp = pgtable.find_pmd(vmf.vma.mm, vmf.address)
        if pmdp is None:
            return True
        pmd = pgtable.read(pmdp)
        if pte_none(pmd):
            return True
        if not pmd_table(pmd):
            blocked = pte_present(pmd) and not pte_write(pmd)
            return blocked and reason == VM_UFFD_WP
        pte = pgtable.read(pgtable.pte_offset(pmdp, vmf.address))
        if pte_none_mostly(pte):
            return True
        return pte_present(pte) and not pte_write(pte) and reason == VM_UFFD_WP

    def _sleep(
        self,
        ctx: UserfaultfdCtx,
        waiting: UserfaultfdWait,
        *queues: list[UserfaultfdWait],
    ) -> None:
        """Sleep until *waiting* is waken, which lies in the first of *queues*.

        The thread that serves the context runs meanwhile: here and now if it is a
        function, otherwise when the scheduler of an exploration lets it.
        """
        cpu = self._machine.running
        mm = ctx.mm
        try:
            if ctx.handler is not None and not ctx.serving:
                self._serve(ctx, waiting)
            elif self._machine.waiter is not None:
                self._machine.wait(
                    lambda: waiting.waken or ctx.released,
                    f"an answer to {waiting.msg.event} at {waiting.msg.address:#x}",
                )
        finally:
            self._leave(waiting, *queues)
        self._kernel.sched.run_on(mm, cpu)
        if waiting.waken or ctx.released:
            return
        problem = "nobody serves this userfaultfd"
        if ctx.serving:
            problem = "it is the one that serves this userfaultfd"
        elif ctx.handler is not None:
            problem = "the function that serves it returned without waking it"
        raise UserfaultError(cpu.number, waiting.msg, problem)

    def _check_answer(
        self, ctx: UserfaultfdCtx, vmf: VmFault, reason: int, waiting: UserfaultfdWait
    ) -> None:
        """Complain if a function keeps waking a thread and never answers.

        The kernel would tell of the fault again, and again.
        """
        if ctx.handler is None or not self.userfaultfd_must_wait(vmf, reason):
            ctx.in_vain = 0
            return
        ctx.in_vain += 1
        if ctx.in_vain >= _TIMES_WOKEN_IN_VAIN:
            ctx.in_vain = 0
            problem = "the function that serves it wakes it and does not answer"
            raise UserfaultError(self._machine.running.number, waiting.msg, problem)

    def _serve(self, ctx: UserfaultfdCtx, waiting: UserfaultfdWait) -> None:
        """Let the serving function read the message, and do what it does about it."""
        assert ctx.handler is not None
        ctx.serving = True
        try:
            if waiting in ctx.event_wqh:
                waiting.waken = True  # to have read it is all that is asked
            else:
                ctx.fault_pending_wqh.remove(waiting)
                ctx.fault_wqh.append(waiting)
            ctx.handler(waiting.msg)
        finally:
            ctx.serving = False

    @staticmethod
    def _leave(waiting: UserfaultfdWait, *queues: list[UserfaultfdWait]) -> None:
        for queue in queues:
            if waiting in queue:
                queue.remove(waiting)

    def wake_userfault(
        self, ctx: UserfaultfdCtx, start: int = 0, length: int | None = None
    ) -> None:
        """Let go on who sleeps for a page of a range, or without one all who sleep."""
        for queue in (ctx.fault_pending_wqh, ctx.fault_wqh):
            for waiting in tuple(queue):
                address = waiting.msg.address
                if length is None or start <= address < start + length:
                    waiting.waken = True
                    queue.remove(waiting)

    def userfaultfd_ctx_read(self, ctx: UserfaultfdCtx) -> UffdMsg | int:
        """Take the oldest message, faults before changes; ``-EAGAIN`` without one."""
        if ctx.fault_pending_wqh:
            waiting = ctx.fault_pending_wqh.pop(0)
            ctx.fault_wqh.append(waiting)
            return waiting.msg
        if ctx.event_wqh:
            waiting = ctx.event_wqh.pop(0)
            waiting.waken = True
            return waiting.msg
        return -EAGAIN

    # -- changes of the address space ------------------------------------------------

    def userfaultfd_event_wait_completion(
        self, ctx: UserfaultfdCtx, msg: UffdMsg
    ) -> None:
        """Sleep until a change is read; requests are refused until then."""
        waiting = UserfaultfdWait(msg)
        ctx.event_wqh.append(waiting)
        try:
            if not ctx.released:
                self._sleep(ctx, waiting, ctx.event_wqh)
        finally:
            ctx.mmap_changing -= 1

    def _begin_change(self, ctx: UserfaultfdCtx) -> None:
        ctx.map_changing_lock.down_write()
        ctx.mmap_changing += 1
        ctx.map_changing_lock.up_write()

    def userfaultfd_unmap_prep(
        self, vma: VmArea, start: int, end: int, unmaps: list[Unmapping]
    ) -> None:
        """Note that munmap of [start, end) takes pages of *vma*, if that is wanted.

        The mmap lock is held for writing. `userfaultfd_unmap_complete` follows once it
        is released.
        """
        ctx = vma.uffd
        if ctx is None or not ctx.features & UFFD_FEATURE_EVENT_UNMAP:
            return
        change = Unmapping(ctx, start, end)
        if change not in unmaps:
            self._begin_change(ctx)
            unmaps.append(change)

    def userfaultfd_unmap_complete(self, unmaps: list[Unmapping]) -> None:
        """Tell of what was unmapped; no lock is held."""
        for ctx, start, end in unmaps:
            self.userfaultfd_event_wait_completion(
                ctx, UffdMsg("unmap", start, end=end)
            )

    def userfaultfd_remove(self, vma: VmArea, start: int, end: int) -> bool:
        """Tell that madvise is about to drop the pages of a range, if that is wanted.

        The mmap lock is held for reading.

        Returns:
            False if it was told: then the lock was released, and *vma* may be gone.
        """
        ctx = vma.uffd
        if ctx is None or not ctx.features & UFFD_FEATURE_EVENT_REMOVE:
            return True
        self._begin_change(ctx)
        vma.mm.mmap_lock.up_read()
        self.userfaultfd_event_wait_completion(ctx, UffdMsg("remove", start, end=end))
        return False

    def mremap_userfaultfd_prep(self, vma: VmArea) -> UserfaultfdCtx | None:
        """Return whom to tell that *vma* moves; without such a one it is let go of.

        The mmap lock is held for writing. `mremap_userfaultfd_complete` follows once it
        is released.
        """
        ctx = vma.uffd
        if ctx is None:
            return None
        if not ctx.features & UFFD_FEATURE_EVENT_REMAP:
            self._kernel.userfaultfd.userfaultfd_set_ctx(vma, None, 0)
            return None
        self._begin_change(ctx)
        return ctx

    def mremap_userfaultfd_complete(
        self, ctx: UserfaultfdCtx | None, start: int, to: int, length: int
    ) -> None:
        """Tell that [start, start + length) is at *to* now; no lock is held.

        Args:
            ctx: As `mremap_userfaultfd_prep` gave it.
            start: Where the range was.
            to: Where it is, or a negative error number if it did not move.
            length: In bytes.
        """
        if ctx is None:
            return
        if to < 0:
            ctx.mmap_changing -= 1
            return
        self.userfaultfd_event_wait_completion(
            ctx, UffdMsg("remap", start, end=start + length, to=to)
        )

    # -- requests --------------------------------------------------------------------

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
