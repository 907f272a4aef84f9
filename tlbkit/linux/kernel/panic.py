"""What the kernel remembers of things that should not happen: kernel/panic.c."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tlbkit.errors import TlbkitError

if TYPE_CHECKING:
    from tlbkit.linux.kernel.kernel import Kernel

TAINT_BAD_PAGE: Final = "B"
TAINT_WARN: Final = "W"


class BugError(TlbkitError):
    """The kernel would stop here, because a caller broke a rule: BUG_ON()."""

    def __init__(self, rule: str) -> None:
        super().__init__(f"kernel BUG: {rule}")
        self.rule = rule


class Panic:
    """Warnings and taint.

    Events: ``warning``; ``what`` names the function, ``why`` says what was found there.

    Attributes:
        taints: The letters of all that has made the kernel suspect.
        lock_debugging: What is reported about locks can still be believed.
        warnings: Each warning that was given, one line, oldest first.
    """

    __slots__ = ("_machine", "_warned", "lock_debugging", "taints", "warnings")

    def __init__(self, kernel: Kernel) -> None:
        self._machine = kernel.machine
        self._warned: set[str] = set()
        self.taints: set[str] = set()
        self.lock_debugging = True
        self.warnings: list[str] = []

    def add_taint(self, flag: str, *, lockdep_ok: bool = True) -> None:
        """Remember that the kernel is not to be trusted any more, and why.

        With *lockdep_ok* false, neither is what it reports about locks from here on.

        Source: kernel/panic.c, add_taint()
        """
        self.taints.add(flag)
        self.lock_debugging = self.lock_debugging and lockdep_ok

    def print_tainted(self) -> str:
        """Return the letters as a stack dump shows them.

        Source: kernel/panic.c, print_tainted()
        """
        letters = " ".join(sorted(self.taints))
        return f"Tainted: {letters}" if letters else "Not tainted"

    def warn_on_once(self, function: str, problem: str) -> None:
        """Warn of *problem*, unless *function* has done so before: WARN_ON_ONCE().

        Source: include/asm-generic/bug.h, WARN_ON_ONCE()
        """
        if function in self._warned:
            return
        self._warned.add(function)
        self.warnings.append(f"{function}: {problem}")
        self.add_taint(TAINT_WARN)
        if "warning" in self._machine.events.heard:
            cpu = self._machine.running.number
            self._machine.events.emit(cpu, "warning", function, why=problem)
