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
    Unmapping,
    UserfaultError,
    UserfaultfdCtx,
    UserfaultfdWait,
)
from tlbkit.linux.include.linux.mm import (
    FAULT_FLAG_ALLOW_RETRY,
    FAULT_FLAG_RETRY_NOWAIT,
    FAULT_FLAG_WRITE,
    VM_FAULT_RETRY,
    VM_FAULT_SIGBUS,
    VM_UFFD_MINOR,
    VM_UFFD_WP,
)
from tlbkit.linux.include.linux.swapops import pte_none_mostly
from tlbkit.linux.include.uapi.asm_generic.errno import EAGAIN
from tlbkit.linux.include.uapi.linux.userfaultfd import (
    UFFD_FEATURE_EVENT_REMAP,
    UFFD_FEATURE_EVENT_REMOVE,
    UFFD_FEATURE_EVENT_UNMAP,
    UFFD_FEATURE_EXACT_ADDRESS,
    UFFD_FEATURE_SIGBUS,
    UFFD_FEATURE_WP_ASYNC,
    UFFD_FEATURE_WP_UNPOPULATED,
    UffdMsg,
)
from tlbkit.linux.kernel.locking import RwSemaphore

if TYPE_CHECKING:
    from tlbkit.linux.include.linux.mm_types import MmStruct, VmArea, VmFault
    from tlbkit.linux.kernel.kernel import Kernel

_TIMES_WOKEN_IN_VAIN: Final = 64


class UffdMessages:
    """Contexts, and what user space is told by them."""

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
        ptep = None
        while ptep is None:
            pmd = pgtable.read(pmdp)
            if pte_none(pmd):
                return True
            if not pte_present(pmd):
                return False
            if pmd_trans_huge(pmd):
                return not pte_write(pmd) and reason == VM_UFFD_WP
            ptep = self._kernel.pgtable_generic.pte_offset_map(pmdp, vmf.address)
        pte = pgtable.ptep_get(ptep)
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
