"""What user space and the kernel say to each other through a userfaultfd.

Source: include/uapi/linux/userfaultfd.h, v6.19.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from tlbkit.linux.fs.userfaultfd import UserfaultfdCtx

UFFD_API: Final = 0xAA
"""The only version of the interface that there is."""
O_NONBLOCK: Final = 0o4000
O_CLOEXEC: Final = 0o2000000
UFFD_USER_MODE_ONLY: Final = 1
"""Flag of `userfaultfd`: faults of the kernel itself are not handed to user space."""

UFFD_FEATURE_PAGEFAULT_FLAG_WP: Final = 1 << 0
UFFD_FEATURE_EVENT_FORK: Final = 1 << 1
UFFD_FEATURE_EVENT_REMAP: Final = 1 << 2
UFFD_FEATURE_EVENT_REMOVE: Final = 1 << 3
UFFD_FEATURE_MISSING_HUGETLBFS: Final = 1 << 4
UFFD_FEATURE_MISSING_SHMEM: Final = 1 << 5
UFFD_FEATURE_EVENT_UNMAP: Final = 1 << 6
UFFD_FEATURE_SIGBUS: Final = 1 << 7
UFFD_FEATURE_MINOR_HUGETLBFS: Final = 1 << 9
UFFD_FEATURE_MINOR_SHMEM: Final = 1 << 10
UFFD_FEATURE_EXACT_ADDRESS: Final = 1 << 11
UFFD_FEATURE_WP_HUGETLBFS_SHMEM: Final = 1 << 12
UFFD_FEATURE_WP_UNPOPULATED: Final = 1 << 13
UFFD_FEATURE_WP_ASYNC: Final = 1 << 15
UFFD_FEATURE_MOVE: Final = 1 << 16

FEATURES: Final = {
    name.removeprefix("UFFD_FEATURE_"): value
    for name, value in list(globals().items())
    if name.startswith("UFFD_FEATURE_")
}
"""What a context may ask for, by the kernel's names without their common beginning.

Not modelled: thread numbers and poison.
"""

UFFDIO_REGISTER_MODE_MISSING: Final = 1 << 0
UFFDIO_REGISTER_MODE_WP: Final = 1 << 1
UFFDIO_REGISTER_MODE_MINOR: Final = 1 << 2
UFFDIO_REGISTER_MODES: Final = (
    UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP | UFFDIO_REGISTER_MODE_MINOR
)

UFFDIO_COPY_MODE_DONTWAKE: Final = 1 << 0
UFFDIO_COPY_MODE_WP: Final = 1 << 1
UFFDIO_ZEROPAGE_MODE_DONTWAKE: Final = 1 << 0
UFFDIO_CONTINUE_MODE_DONTWAKE: Final = 1 << 0
UFFDIO_CONTINUE_MODE_WP: Final = 1 << 1
UFFDIO_WRITEPROTECT_MODE_WP: Final = 1 << 0
UFFDIO_WRITEPROTECT_MODE_DONTWAKE: Final = 1 << 1
UFFDIO_MOVE_MODE_DONTWAKE: Final = 1 << 0
UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES: Final = 1 << 1


@dataclass(frozen=True, slots=True)
class UffdMsg:
    """One message to user space: struct uffd_msg.

    Attributes:
        event: What happened.
        address: Of the page that faulted, or as accessed with EXACT_ADDRESS; of a range
            that changed, its beginning.
        write: The access that faulted was a write.
        wp: It hit a write-protected page.
        minor: The page is there, and only not mapped. If it is neither, it was missing.
        end: Of a range that changed.
        to: Where a range was moved to by mremap.
        ctx: Of a fork, what watches the child: the kernel gives a descriptor of it.
    """

    event: Literal["pagefault", "fork", "remap", "remove", "unmap"]
    address: int = 0
    write: bool = False
    wp: bool = False
    minor: bool = False
    end: int = 0
    to: int = 0
    ctx: UserfaultfdCtx | None = None
