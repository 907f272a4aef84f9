"""Who is at work: the kernel functions on the stack, in the kernel's own terms."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from tlbkit.callers import caller

if TYPE_CHECKING:
    from types import FrameType

_LINUX = "tlbkit.linux."
_PATCHES = "tlbkit.patches."
_TESTS = ".tests."
_USER = ("process", "userfaultfd_fd")
_HYPHENS = ("asm_generic", "pgtable_generic", "pgtable_hwdef", "page_writeback")


class Call(NamedTuple):
    """One kernel function at work.

    Attributes:
        function: Its name.
        file: The kernel source file that has it, as ``"mm/mprotect.c"``; where it is an
            old body, the module of its commit; for what user space asks, nothing.
    """

    function: str
    file: str

    def __str__(self) -> str:
        """Name it as a stack trace does."""
        return f"{self.function}  [{self.file}]" if self.file else self.function


def is_kernel(module: str, function: str) -> bool:
    """Tell whether a function stands for one of the kernel, and is not help of ours."""
    return (
        module.startswith((_LINUX, _PATCHES))
        and _TESTS not in module
        and module != "tlbkit.linux.kernel.locking"
        and not function.startswith(("_", "<"))
    )


@cache
def kernel_file(module: str) -> str:
    """Return the kernel source file that a module stands for.

    >>> kernel_file("tlbkit.linux.mm.memory.wp")
    'mm/memory.c'
    >>> kernel_file("tlbkit.linux.arch.arm64.include.asm.tlbflush")
    'arch/arm64/include/asm/tlbflush.h'
    """
    if not module.startswith(_LINUX):
        return f"before {module.rpartition('.')[2]}"
    place = module.removeprefix(_LINUX)
    if place in _USER:
        return ""
    parts = place.split(".")
    if parts[0] == "mm":
        parts = parts[:2]  # what is a file there may be a package here
    parts = [part.replace("_", "-") if part in _HYPHENS else part for part in parts]
    return "/".join(parts) + (".h" if "include" in parts else ".c")


@cache
def _call(module: str, function: str) -> Call | None:
    if not is_kernel(module, function):
        return None
    return Call(function, kernel_file(module))


def path(depth: int = 1, limit: int = 24) -> tuple[Call, ...]:
    """Return the kernel functions at work, the innermost first.

    Args:
        depth: Frames to leave out; 1 begins with the caller.
        limit: How many frames of the stack to look at.
    """
    frame: FrameType | None = caller()
    for _ in range(depth - 1):
        frame = frame.f_back if frame else None
    found = []
    while frame is not None and limit:
        call = _call(frame.f_globals.get("__name__", ""), frame.f_code.co_name)
        if call is not None:
            found.append(call)
        frame = frame.f_back
        limit -= 1
    return tuple(found)
