"""Error numbers, and the errors that user space meets.

Kernel functions return ``-EINVAL`` and the like, as the kernel's do; a system call
turns a negative result into a `SystemCallError`, which carries the name. The numbers
are Linux's on every host, also where Python's own `errno` module has others.

Source: include/uapi/asm-generic/errno-base.h and errno.h.
"""

from __future__ import annotations

from typing import Final

from tlbkit.errors import TlbkitError

EPERM: Final = 1
ENOENT: Final = 2
ESRCH: Final = 3
EINTR: Final = 4
EIO: Final = 5
EBADF: Final = 9
EAGAIN: Final = 11
ENOMEM: Final = 12
EACCES: Final = 13
EFAULT: Final = 14
EBUSY: Final = 16
EEXIST: Final = 17
ENODEV: Final = 19
EINVAL: Final = 22
EFBIG: Final = 27
ENOSPC: Final = 28
EMLINK: Final = 31
EOVERFLOW: Final = 75
EOPNOTSUPP: Final = 95

NAMES: Final = {
    value: name
    for name, value in list(globals().items())
    if name.startswith("E") and isinstance(value, int)
}


class SystemCallError(TlbkitError):
    """A system call failed, as Linux would fail it.

    Attributes:
        call: Name of the system call.
        errno: Name of the error, for example ``"EINVAL"``.
        number: Its number, positive.
        detail: What the call says of the failure besides, or ``None``.
    """

    def __init__(self, call: str, number: int, detail: object = None) -> None:
        self.call = call
        self.errno = NAMES.get(number, str(number))
        self.number = number
        self.detail = detail
        said = "" if detail is None else f" ({detail})"
        super().__init__(f"{call}: {self.errno}{said}")


class Signal(TlbkitError):  # noqa: N818 - what is sent is called a signal
    """A thread was sent a signal that it cannot survive.

    Attributes:
        signal: ``"SIGSEGV"`` or ``"SIGBUS"``.
        code: As in ``si_code``, for example ``"SEGV_ACCERR"``.
        address: The address that faulted.
    """

    def __init__(self, signal: str, code: str, address: int) -> None:
        super().__init__(f"{signal} ({code}) at {address:#x}")
        self.signal = signal
        self.code = code
        self.address = address
