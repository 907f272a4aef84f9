"""The clock by which the kernel limits its reports: kernel/time/timer.c."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tlbkit.linux.kernel.kernel import Kernel

HZ: Final = 250
"""Ticks a second, as arm64's default configuration has it."""


class Timer:
    """The ticks since boot. Nothing here takes time by itself: callers let it pass.

    Attributes:
        jiffies: Ticks since boot.
    """

    __slots__ = ("jiffies",)

    def __init__(self, kernel: Kernel) -> None:
        del kernel
        self.jiffies = 0

    def pass_time(self, seconds: float) -> None:
        """Let time pass, in whole ticks.

        Source: none; time passes when somebody says so.
        """
        self.jiffies += round(seconds * HZ)
