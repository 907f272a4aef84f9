"""A userfaultfd as user space holds it: a descriptor whose requests are methods.

Source: none; these are the doors to the kernel, each named after its request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.errors import InputError
from tlbkit.linux.include.uapi.asm_generic.errno import (
    EAGAIN,
    EINVAL,
    SystemCallError,
)
from tlbkit.linux.include.uapi.linux.userfaultfd import (
    FEATURES,
    O_NONBLOCK,
    UFFD_API,
    UFFDIO_CONTINUE_MODE_DONTWAKE,
    UFFDIO_CONTINUE_MODE_WP,
    UFFDIO_COPY_MODE_DONTWAKE,
    UFFDIO_COPY_MODE_WP,
    UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES,
    UFFDIO_MOVE_MODE_DONTWAKE,
    UFFDIO_REGISTER_MODE_MINOR,
    UFFDIO_REGISTER_MODE_MISSING,
    UFFDIO_REGISTER_MODE_WP,
    UFFDIO_WRITEPROTECT_MODE_DONTWAKE,
    UFFDIO_WRITEPROTECT_MODE_WP,
    UFFDIO_ZEROPAGE_MODE_DONTWAKE,
    UffdMsg,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tlbkit.linux.fs.userfaultfd import Answer, UserfaultfdCtx
    from tlbkit.linux.kernel.kernel import Kernel
    from tlbkit.linux.process import Thread


def feature_bits(names: tuple[str, ...]) -> int:
    """Return the bits of features by name; `InputError` says which there are."""
    bits = 0
    for name in names:
        if name not in FEATURES:
            known = ", ".join(FEATURES)
            raise InputError(f"userfaultfd feature {name!r}: known are {known}")
        bits |= FEATURES[name]
    return bits


class UserfaultFd:
    """A descriptor of a userfaultfd, in the hands of one thread.

    Its requests run on that thread's CPU, and raise `SystemCallError` with the errno of
    Linux. The error of a request that fills or moves pages has as ``detail`` what the
    kernel left in its output field: the bytes done if there were any (then the errno is
    EAGAIN), the error as a negative number if not, and ``None`` if it left it alone.

    Args:
        kernel: The kernel.
        thread: Who makes the requests.
        ctx: What the descriptor stands for.
    """

    __slots__ = ("_kernel", "_thread", "ctx")

    def __init__(self, kernel: Kernel, thread: Thread, ctx: UserfaultfdCtx) -> None:
        self._kernel = kernel
        self._thread = thread
        self.ctx = ctx

    def used_by(self, thread: Thread) -> UserfaultFd:
        """Return the same descriptor in the hands of *thread*, of any process."""
        return UserfaultFd(self._kernel, thread, self.ctx)

    def child(self, message: UffdMsg) -> UserfaultFd:
        """Return the descriptor that a message of a fork brings: it watches the child.

        Raises:
            InputError: The message is of something else.
        """
        if message.ctx is None:
            raise InputError(f"a message of {message.event!r} brings no descriptor")
        return UserfaultFd(self._kernel, self._thread, message.ctx)

    # -- messages --------------------------------------------------------------------

    def serve(self, handler: Callable[[UffdMsg], None] | None) -> None:
        """Let *handler* answer each message, as a thread does that reads and reads.

        It runs while the thread that met the fault sleeps, and has to make a request
        that wakes it. To be called again with ``None`` lets nobody answer.
        """
        self.ctx.handler = handler

    def read(self, *, nonblock: bool = False) -> UffdMsg:
        """Return the oldest message, and wait for one unless *nonblock*.

        With ``O_NONBLOCK`` among the flags of the descriptor it never waits.
        """
        self._call("read")
        if not nonblock and not self.ctx.flags & O_NONBLOCK:
            ctx = self.ctx
            self._kernel.machine.wait(
                lambda: bool(ctx.fault_pending_wqh or ctx.event_wqh),
                "a message of a userfaultfd",
            )
        message = self._kernel.fs_userfaultfd.userfaultfd_ctx_read(self.ctx)
        if isinstance(message, int):
            raise SystemCallError("read", -message)
        return message

    # -- requests --------------------------------------------------------------------

    def api(self, *features: str, version: int = UFFD_API) -> None:
        """Give the descriptor features; that can be done once, before all else."""
        self._thread.enter_kernel("UFFDIO_API", *features)
        self._check(
            "UFFDIO_API",
            self._kernel.fs_userfaultfd.userfaultfd_api(
                self.ctx, version, feature_bits(features)
            ),
        )

    def register(
        self,
        start: int,
        length: int,
        *,
        missing: bool | None = None,
        wp: bool = False,
        minor: bool = False,
    ) -> None:
        """Watch a range for missing pages, writes to protected ones, minor faults.

        A minor fault is one on a page that the file has, and that is not mapped.

        Args:
            start: Page-aligned.
            length: In bytes, of pages.
            missing: UFFDIO_REGISTER_MODE_MISSING; by default if no other mode is given.
            wp: UFFDIO_REGISTER_MODE_WP.
            minor: UFFDIO_REGISTER_MODE_MINOR.
        """
        self._call("UFFDIO_REGISTER", start, length)
        if missing is None:
            missing = not wp and not minor
        mode = UFFDIO_REGISTER_MODE_MISSING * missing | UFFDIO_REGISTER_MODE_WP * wp
        mode |= UFFDIO_REGISTER_MODE_MINOR * minor
        self._check(
            "UFFDIO_REGISTER",
            self._kernel.fs_userfaultfd.userfaultfd_register(
                self.ctx, start, length, mode
            ),
        )

    def unregister(self, start: int, length: int) -> None:
        """Watch a range no more; pages that were protected are so no more."""
        self._call("UFFDIO_UNREGISTER", start, length)
        self._check(
            "UFFDIO_UNREGISTER",
            self._kernel.fs_userfaultfd.userfaultfd_unregister(self.ctx, start, length),
        )

    def wake(self, start: int, length: int) -> None:
        """Let the threads go on that wait for a page of a range."""
        self._call("UFFDIO_WAKE", start, length)
        self._check(
            "UFFDIO_WAKE",
            self._kernel.fs_userfaultfd.userfaultfd_wake(self.ctx, start, length),
        )

    def copy(
        self,
        dst: int,
        src: int,
        length: int,
        *,
        wp: bool = False,
        dontwake: bool = False,
    ) -> int:
        """Fill missing pages with what the caller has at *src*; return the bytes.

        Args:
            dst: Page-aligned, in the watched address space.
            src: In the caller's; a multiple of 8, as memory has words of that size.
            length: In bytes, of pages.
            wp: The new pages are write-protected.
            dontwake: Threads that wait for them go on waiting.
        """
        if src % 8:
            raise InputError(f"src={src:#x}: give a multiple of 8")
        self._call("UFFDIO_COPY", dst, src, length)
        mode = UFFDIO_COPY_MODE_WP * wp | UFFDIO_COPY_MODE_DONTWAKE * dontwake
        return self._done(
            "UFFDIO_COPY",
            self._kernel.fs_userfaultfd.userfaultfd_copy(
                self.ctx, dst, src, length, mode
            ),
        )

    def zeropage(self, start: int, length: int, *, dontwake: bool = False) -> int:
        """Map the zero page at missing pages; return the bytes."""
        self._call("UFFDIO_ZEROPAGE", start, length)
        mode = UFFDIO_ZEROPAGE_MODE_DONTWAKE * dontwake
        return self._done(
            "UFFDIO_ZEROPAGE",
            self._kernel.fs_userfaultfd.userfaultfd_zeropage(
                self.ctx, start, length, mode
            ),
        )

    def continue_(
        self, start: int, length: int, *, wp: bool = False, dontwake: bool = False
    ) -> int:
        """Map pages that the file has already, as they are; return the bytes."""
        self._call("UFFDIO_CONTINUE", start, length)
        mode = UFFDIO_CONTINUE_MODE_WP * wp | UFFDIO_CONTINUE_MODE_DONTWAKE * dontwake
        return self._done(
            "UFFDIO_CONTINUE",
            self._kernel.fs_userfaultfd.userfaultfd_continue(
                self.ctx, start, length, mode
            ),
        )

    def writeprotect(
        self, start: int, length: int, *, protect: bool = True, dontwake: bool = False
    ) -> None:
        """Protect pages against writes, or give writes free and wake who waits."""
        self._call("UFFDIO_WRITEPROTECT", start, length)
        mode = UFFDIO_WRITEPROTECT_MODE_WP * protect
        mode |= UFFDIO_WRITEPROTECT_MODE_DONTWAKE * dontwake
        self._check(
            "UFFDIO_WRITEPROTECT",
            self._kernel.fs_userfaultfd.userfaultfd_writeprotect(
                self.ctx, start, length, mode
            ),
        )

    def move(
        self,
        dst: int,
        src: int,
        length: int,
        *,
        allow_src_holes: bool = False,
        dontwake: bool = False,
    ) -> int:
        """Move pages from *src* to missing pages at *dst*; return the bytes.

        Args:
            dst: Page-aligned, in a watched area.
            src: Page-aligned, in the same address space.
            length: In bytes, of pages.
            allow_src_holes: Pages that are not there count as moved.
            dontwake: Threads that wait for the pages go on waiting.
        """
        self._call("UFFDIO_MOVE", dst, src, length)
        mode = UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES * allow_src_holes
        mode |= UFFDIO_MOVE_MODE_DONTWAKE * dontwake
        return self._done(
            "UFFDIO_MOVE",
            self._kernel.fs_userfaultfd.userfaultfd_move(
                self.ctx, self._thread.mm, dst, src, length, mode
            ),
        )

    def close(self) -> None:
        """Give the descriptor back: nothing is watched, and all who wait go on."""
        self._call("close")
        self._kernel.fs_userfaultfd.userfaultfd_release(self.ctx)

    # -- enter and leave -------------------------------------------------------------

    def _call(self, name: str, *arguments: int | str) -> None:
        if self.ctx.released:
            raise InputError(f"{name}: this userfaultfd was closed; make another one")
        self._thread.enter_kernel(name, *arguments)
        uffd = self._kernel.fs_userfaultfd
        if name != "close" and not uffd.userfaultfd_is_initialized(self.ctx):
            raise SystemCallError(name, EINVAL)

    @staticmethod
    def _check(request: str, error: int) -> None:
        if error:
            raise SystemCallError(request, -error)

    @staticmethod
    def _done(request: str, answer: Answer) -> int:
        if answer.ret or answer.done is None:
            raise SystemCallError(request, -answer.ret or EAGAIN, answer.done)
        return answer.done
