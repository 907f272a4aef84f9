"""One userfaultfd, who waits on it, and the error of a thread nobody answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from tlbkit.errors import TlbkitError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tlbkit.linux.include.linux.mm_types import MmStruct
    from tlbkit.linux.include.uapi.linux.userfaultfd import (
        UffdMsg,
    )
    from tlbkit.linux.kernel.locking import RwSemaphore


class UserfaultError(TlbkitError):
    """A thread waits for user space to answer a message, and nobody is there to do it.

    Attributes:
        cpu: The CPU whose thread waits.
        message: What user space was told.
    """

    def __init__(self, cpu: int, message: UffdMsg, problem: str) -> None:
        if message.event == "fork":
            what = "has forked"
            repair = "read() the message from another thread"
        elif message.event != "pagefault":
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
        flags: What `userfaultfd` was given: ``UFFD_USER_MODE_ONLY``, ``O_NONBLOCK``.
        features: The ``UFFD_FEATURE_`` bits that it was given; 0 until then.
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
        "flags",
        "handler",
        "in_vain",
        "map_changing_lock",
        "mm",
        "mmap_changing",
        "released",
        "serving",
    )

    def __init__(self, mm: MmStruct, flags: int, lock: RwSemaphore) -> None:
        self.mm = mm
        self.flags = flags
        self.features = 0
        self.fault_pending_wqh: list[UserfaultfdWait] = []
        self.fault_wqh: list[UserfaultfdWait] = []
        self.event_wqh: list[UserfaultfdWait] = []
        self.mmap_changing = 0
        self.map_changing_lock = lock
        self.released = False
        self.handler: Callable[[UffdMsg], None] | None = None
        self.serving = False
        self.in_vain = 0


class Forked(NamedTuple):
    """A context, and the one that a fork made of it: struct userfaultfd_fork_ctx."""

    orig: UserfaultfdCtx
    new: UserfaultfdCtx


class Unmapping(NamedTuple):
    """A range of a context that goes away: struct userfaultfd_unmap_ctx."""

    ctx: UserfaultfdCtx
    start: int
    end: int
