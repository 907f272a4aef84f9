"""Faults that user space handles: fs/userfaultfd.c.

A thread that meets a missing or protected page of a watched VMA sleeps, and a message
goes to whoever reads the userfaultfd. That thread repairs the page with one of the
requests below, which also wakes the sleeper; the access is then repeated.

Requests return 0 or a negative error number, and those that may come to an end half-way
an `Answer`, which also holds the output field that the kernel writes.
"""

from __future__ import annotations

from tlbkit.linux.fs.userfaultfd.context import (
    Forked,
    Unmapping,
    UserfaultError,
    UserfaultfdCtx,
)
from tlbkit.linux.fs.userfaultfd.requests import Answer, UffdRequests

__all__ = [
    "Answer",
    "Forked",
    "FsUserfaultfd",
    "Unmapping",
    "UserfaultError",
    "UserfaultfdCtx",
]


class FsUserfaultfd(UffdRequests):
    """Contexts, faults handed to user space, and the requests of user space."""

    __slots__ = ()
