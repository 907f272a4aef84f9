"""Putting work off until no walker can see what it frees: kernel/rcu."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from tlbkit.linux.kernel.kernel import Kernel


class Rcu:
    """Runs callbacks once every CPU has had interrupts on.

    A CPU with interrupts off is in a read section, so it holds callbacks back.

    `Machine.taken_out` can take the waiting out, as in ``"call_rcu in munmap"``: the
    callback is run at once.

    Events: ``call_rcu``; ``what`` are the numbers of the CPUs that are waited for.
    """

    __slots__ = ("_machine", "_waiting")

    def __init__(self, kernel: Kernel) -> None:
        self._machine = kernel.machine
        self._waiting: list[tuple[set[int], Callable[[], None]]] = []

    def call(self, callback: Callable[[], None]) -> None:
        """Run *callback* after a grace period: call_rcu().

        Source: kernel/rcu/tree.c, call_rcu()
        """
        machine = self._machine
        if machine.omits("call_rcu"):
            callback()
            return
        readers = {cpu.number for cpu in machine.cpus if not cpu.irqs_on}
        if "call_rcu" in machine.events.heard:
            cpu = machine.running.number
            machine.events.emit(cpu, "call_rcu", tuple(sorted(readers)))
        self._waiting.append((readers, callback))
        self.quiesce()

    def quiesce(self) -> None:
        """Run what no reader of its time still holds back.

        Source: none; it stands for the grace periods that end by themselves.
        """
        on = {cpu.number for cpu in self._machine.cpus if cpu.irqs_on}
        waiting, self._waiting = self._waiting, []
        for readers, callback in waiting:
            left = readers - on
            if left:
                self._waiting.append((left, callback))
            else:
                callback()
