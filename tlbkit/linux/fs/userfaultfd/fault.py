"""Telling user space of faults and of changes, and sleeping until it answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pmd_trans_huge,
    pte_none,
    pte_present,
    pte_write,
)
from tlbkit.linux.fs.userfaultfd.context import (
    Forked,
    Unmapping,
    UserfaultError,
    UserfaultfdCtx,
    UserfaultfdWait,
)
from tlbkit.linux.include.linux.hugetlb import is_vm_hugetlb_page
from tlbkit.linux.include.linux.mm import (
    FAULT_FLAG_ALLOW_RETRY,
    FAULT_FLAG_RETRY_NOWAIT,
    FAULT_FLAG_USER,
    FAULT_FLAG_WRITE,
    VM_FAULT_RETRY,
    VM_FAULT_SIGBUS,
    VM_UFFD_MINOR,
    VM_UFFD_WP,
)
from tlbkit.linux.include.linux.swapops import pte_none_mostly
from tlbkit.linux.include.uapi.asm_generic.errno import EAGAIN
from tlbkit.linux.include.uapi.linux.userfaultfd import (
    UFFD_FEATURE_EVENT_FORK,
    UFFD_FEATURE_EVENT_REMAP,
    UFFD_FEATURE_EVENT_REMOVE,
    UFFD_FEATURE_EVENT_UNMAP,
    UFFD_FEATURE_EXACT_ADDRESS,
    UFFD_FEATURE_SIGBUS,
    UFFD_USER_MODE_ONLY,
    UffdMsg,
)
from tlbkit.linux.kernel.locking import RwSemaphore

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import VmArea, VmFault
    from tlbkit.linux.kernel.kernel import Kernel

_TIMES_WOKEN_IN_VAIN: Final = 64


class UffdMessages:
    """What user space is told, and what it reads."""

    __slots__ = ("_kernel", "_machine", "_pgtable")

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._machine = kernel.machine
        self._pgtable = kernel.pgtable

    # -- a fault ---------------------------------------------------------------------

    @staticmethod
    def userfault_msg(
        address: int, real_address: int, flags: int, reason: int, features: int
    ) -> UffdMsg:
        """Return the message for a fault.

        Source: fs/userfaultfd.c, userfault_msg()
        Deviates: threads have no numbers.
        """
        exact = features & UFFD_FEATURE_EXACT_ADDRESS
        return UffdMsg(
            "pagefault",
            real_address if exact else address,
            write=bool(flags & FAULT_FLAG_WRITE),
            wp=bool(reason & VM_UFFD_WP),
            minor=bool(reason & VM_UFFD_MINOR),
        )

    def userfaultfd_huge_must_wait(self, vmf: VmFault, reason: int) -> bool:
        """Tell whether the entry of a huge page still does not allow the access.

        Source: fs/userfaultfd.c, userfaultfd_huge_must_wait()
        """
        hugetlb = self._kernel.hugetlb
        size = hugetlb.hstate_vma(vmf.vma).size
        ptep = hugetlb.hugetlb_walk(vmf.vma, vmf.address, size)
        if ptep is None:
            return True
        pte = self._kernel.hugetlbpage.huge_ptep_get(ptep, size)
        if pte_none_mostly(pte):
            return True
        return not pte_write(pte) and bool(reason & VM_UFFD_WP)

    def userfaultfd_must_wait(self, vmf: VmFault, reason: int) -> bool:
        """Tell whether the tables still do not allow the access; no PTL is needed.

        Source: fs/userfaultfd.c, userfaultfd_must_wait()
        """
        pgtable = self._pgtable
        pmdp = pgtable.find_pmd(vmf.vma.mm, vmf.address)
        if pmdp is None:
            return True
        while True:
            pmd = pgtable.read(pmdp)
            if pte_none(pmd):
                return True
            if not pte_present(pmd):
                return False
            if pmd_trans_huge(pmd):
                return not pte_write(pmd) and bool(reason & VM_UFFD_WP)
            ptep = self._kernel.pgtable_generic.pte_offset_map(pmdp, vmf.address)
            if ptep is not None:
                break
        pte = pgtable.read(ptep)
        if pte_none_mostly(pte):
            return True
        return not pte_write(pte) and bool(reason & VM_UFFD_WP)

    def handle_userfault(self, vmf: VmFault, reason: int) -> int:
        """Hand a fault to user space and sleep until it says that it has answered.

        The mmap lock is held for reading, PTLs are not. It is released where the answer
        is ``VM_FAULT_RETRY``.

        Args:
            vmf: The fault.
            reason: ``VM_UFFD_MISSING``, ``VM_UFFD_MINOR`` or ``VM_UFFD_WP``.

        Errors:
            UserfaultError: Nobody is there to answer; the thread holds nothing.

        Source: fs/userfaultfd.c, handle_userfault()
        Deviates: no thread is exiting or dumping core, and a signal wakes nobody.
        """
        vma = vmf.vma
        ctx = vma.uffd
        if ctx is None:
            return VM_FAULT_SIGBUS
        if ctx.features & UFFD_FEATURE_SIGBUS:
            return VM_FAULT_SIGBUS
        if not vmf.flags & FAULT_FLAG_USER and ctx.flags & UFFD_USER_MODE_ONLY:
            return VM_FAULT_SIGBUS
        if not vmf.flags & FAULT_FLAG_ALLOW_RETRY:
            return VM_FAULT_SIGBUS
        if vmf.flags & FAULT_FLAG_RETRY_NOWAIT:
            return VM_FAULT_RETRY
        if ctx.released:
            vma.mm.mmap_lock.up_read()
            return VM_FAULT_RETRY
        msg = self.userfault_msg(
            vmf.address, vmf.real_address, vmf.flags, reason, ctx.features
        )
        waiting = UserfaultfdWait(msg)
        # Only once it is queued look again: an answer from then on finds the sleeper.
        must_wait = self._must_wait(vmf, reason, ctx.fault_pending_wqh, waiting)
        vma.mm.mmap_lock.up_read()
        if must_wait and not ctx.released:
            self._sleep(ctx, waiting, ctx.fault_pending_wqh, ctx.fault_wqh)
            self._check_answer(ctx, vmf, reason, waiting)
        else:
            self._leave(waiting, ctx.fault_pending_wqh)
        return VM_FAULT_RETRY

    def _must_wait(
        self,
        vmf: VmFault,
        reason: int,
        queue: list[UserfaultfdWait],
        waiting: UserfaultfdWait,
    ) -> bool:
        """Queue a sleeper, and tell whether its access is still not allowed.

        For hugetlb under the VMA lock, which may sleep and so is taken first.
        """
        if is_vm_hugetlb_page(vmf.vma):
            self._kernel.hugetlb.hugetlb_vma_lock_read(vmf.vma)
            queue.append(waiting)
            must_wait = self.userfaultfd_huge_must_wait(vmf, reason)
            self._kernel.hugetlb.hugetlb_vma_unlock_read(vmf.vma)
            return must_wait
        queue.append(waiting)
        return self.userfaultfd_must_wait(vmf, reason)

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
        if ctx.handler is None or not self._must_wait(vmf, reason, [], waiting):
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

    # -- changes of the address space ------------------------------------------------

    def userfaultfd_event_wait_completion(
        self, ctx: UserfaultfdCtx, msg: UffdMsg
    ) -> None:
        """Sleep until a change is read; requests are refused until then.

        If the context is closed instead, nobody will ever read of a child: then the
        child's context watches nothing.

        Source: fs/userfaultfd.c, userfaultfd_event_wait_completion()
        Deviates: a signal wakes nobody.
        """
        waiting = UserfaultfdWait(msg)
        ctx.event_wqh.append(waiting)
        try:
            if not ctx.released:
                self._sleep(ctx, waiting, ctx.event_wqh)
            if ctx.released and not waiting.waken:
                self._leave(waiting, ctx.event_wqh)
                if msg.ctx is not None:
                    self._kernel.userfaultfd.userfaultfd_release_new(msg.ctx)
        finally:
            ctx.mmap_changing -= 1

    def _begin_change(self, ctx: UserfaultfdCtx) -> None:
        ctx.map_changing_lock.down_write()
        ctx.mmap_changing += 1
        ctx.map_changing_lock.up_write()

    def dup_userfaultfd(self, vma: VmArea, fcs: list[Forked]) -> int:
        """Let a child's copy of a VMA be watched by a context of the child, or nobody.

        Args:
            vma: The copy; its address space is locked for writing.
            fcs: Gets the contexts that this fork makes, one for each of the parent's.

        Returns:
            0 or a negative error number.

        Source: fs/userfaultfd.c, dup_userfaultfd()
        Deviates: it never fails for want of memory.
        """
        octx = vma.uffd
        if octx is None:
            return 0
        if not octx.features & UFFD_FEATURE_EVENT_FORK:
            self._kernel.userfaultfd.userfaultfd_reset_ctx(vma)
            return 0
        for fctx in fcs:
            if fctx.orig is octx:
                vma.uffd = fctx.new
                return 0
        lock = RwSemaphore(self._machine, "map_changing_lock")
        ctx = UserfaultfdCtx(vma.mm, octx.flags, lock)
        ctx.features = octx.features
        self._begin_change(octx)
        fcs.append(Forked(octx, ctx))
        vma.uffd = ctx
        return 0

    def dup_userfaultfd_complete(self, fcs: list[Forked]) -> None:
        """Tell of the contexts that a fork has made; no lock is held.

        Source: fs/userfaultfd.c, dup_userfaultfd_complete()
        """
        for fctx in fcs:  # dup_fctx()
            self.userfaultfd_event_wait_completion(
                fctx.orig, UffdMsg("fork", ctx=fctx.new)
            )

    @staticmethod
    def dup_userfaultfd_fail(fcs: list[Forked]) -> None:
        """Forget the contexts that a fork has made, which failed.

        Source: fs/userfaultfd.c, dup_userfaultfd_fail()
        """
        for fctx in fcs:
            fctx.orig.mmap_changing -= 1

    def mremap_userfaultfd_prep(self, vma: VmArea) -> UserfaultfdCtx | None:
        """Return whom to tell that *vma* moves; without such a one it is let go of.

        The mmap lock is held for writing. `mremap_userfaultfd_complete` follows once it
        is released.

        Source: fs/userfaultfd.c, mremap_userfaultfd_prep()
        """
        ctx = vma.uffd
        if ctx is None:
            return None
        if not ctx.features & UFFD_FEATURE_EVENT_REMAP:
            self._kernel.userfaultfd.userfaultfd_reset_ctx(vma)
            return None
        self._begin_change(ctx)
        return ctx

    def mremap_userfaultfd_complete(
        self, ctx: UserfaultfdCtx | None, start: int, to: int, length: int
    ) -> None:
        """Tell that [start, start + length) is at *to* now; no lock is held.

        Args:
            ctx: As `mremap_userfaultfd_prep` gave it: an mremap that fails has none.
            start: Where the range was.
            to: Where it is.
            length: In bytes.

        Source: fs/userfaultfd.c, mremap_userfaultfd_complete()
        """
        if ctx is None:
            return
        self.userfaultfd_event_wait_completion(
            ctx, UffdMsg("remap", start, end=start + length, to=to)
        )

    def userfaultfd_remove(self, vma: VmArea, start: int, end: int) -> bool:
        """Tell that madvise is about to drop the pages of a range, if that is wanted.

        The mmap lock is held for reading.

        Returns:
            False if it was told: then the lock was released, and *vma* may be gone.

        Source: fs/userfaultfd.c, userfaultfd_remove()
        """
        ctx = vma.uffd
        if ctx is None or not ctx.features & UFFD_FEATURE_EVENT_REMOVE:
            return True
        self._begin_change(ctx)
        vma.mm.mmap_lock.up_read()
        self.userfaultfd_event_wait_completion(ctx, UffdMsg("remove", start, end=end))
        return False

    def userfaultfd_unmap_prep(
        self, vma: VmArea, start: int, end: int, unmaps: list[Unmapping]
    ) -> None:
        """Note that munmap of [start, end) takes pages of *vma*, if that is wanted.

        The mmap lock is held for writing. `userfaultfd_unmap_complete` follows once it
        is released.

        Source: fs/userfaultfd.c, userfaultfd_unmap_prep()
        Deviates: it never fails for want of memory.
        """
        ctx = vma.uffd
        if ctx is None or not ctx.features & UFFD_FEATURE_EVENT_UNMAP:
            return
        change = Unmapping(ctx, start, end)
        if change not in unmaps:
            self._begin_change(ctx)
            unmaps.append(change)

    def userfaultfd_unmap_complete(self, unmaps: list[Unmapping]) -> None:
        """Tell of what was unmapped; no lock is held.

        Source: fs/userfaultfd.c, userfaultfd_unmap_complete()
        """
        for ctx, start, end in unmaps:
            self.userfaultfd_event_wait_completion(
                ctx, UffdMsg("unmap", start, end=end)
            )

    # -- reading and waking ----------------------------------------------------------

    def userfaultfd_release(self, ctx: UserfaultfdCtx) -> None:
        """Close a context: nothing is watched any more, and all sleepers go on.

        Source: fs/userfaultfd.c, userfaultfd_release()
        """
        ctx.released = True
        self._kernel.userfaultfd.userfaultfd_release_all(ctx)
        self.wake_userfault(ctx)

    def userfaultfd_ctx_read(self, ctx: UserfaultfdCtx) -> UffdMsg | int:
        """Take the oldest message, faults before changes; ``-EAGAIN`` without one.

        Source: fs/userfaultfd.c, userfaultfd_ctx_read()
        Deviates: it does not wait, and of a fork it gives the context, not a number.
        """
        if ctx.fault_pending_wqh:
            waiting = ctx.fault_pending_wqh.pop(0)
            ctx.fault_wqh.append(waiting)
            return waiting.msg
        if ctx.event_wqh:
            waiting = ctx.event_wqh.pop(0)
            waiting.waken = True
            return waiting.msg
        return -EAGAIN

    def wake_userfault(
        self, ctx: UserfaultfdCtx, start: int = 0, length: int = 0
    ) -> None:
        """Let go on who sleeps for a page of a range; length 0 wakes all.

        Source: fs/userfaultfd.c, wake_userfault()
        """
        for queue in (ctx.fault_pending_wqh, ctx.fault_wqh):
            for waiting in tuple(queue):
                address = waiting.msg.address
                if not length or start <= address < start + length:
                    waiting.waken = True
                    queue.remove(waiting)
