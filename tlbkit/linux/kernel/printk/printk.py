"""What the kernel tells its log: kernel/printk/printk.c."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tlbkit.linux.kernel.kernel import Kernel

_FIRST_OBJECT = 0xFFFF_0000_4000_0000
_OBJECT_SIZE = 0x100


class Printk:
    """The log of one kernel.

    Events: ``printk``; ``what`` is the line.

    Attributes:
        log: Its lines, the oldest first, without level and time.
    """

    __slots__ = ("_machine", "_objects", "log")

    def __init__(self, kernel: Kernel) -> None:
        self._machine = kernel.machine
        self._objects: list[object] = []
        self.log: list[str] = []

    def pr_alert(self, line: str) -> None:
        """Add a line to the log.

        Source: include/linux/printk.h, pr_alert()
        """
        self.log.append(line)
        if "printk" in self._machine.events.heard:
            self._machine.events.emit(self._machine.running.number, "printk", line)

    def address(self, thing: object) -> int:
        """Return the address that ``%px`` prints for an object, 0 for ``None``.

        Objects have no address here; each that is printed gets the next one.

        Source: none; objects have no address in the machine's memory.
        """
        if thing is None:
            return 0
        for number, known in enumerate(self._objects):
            if known is thing:
                return _FIRST_OBJECT + number * _OBJECT_SIZE
        self._objects.append(thing)
        return _FIRST_OBJECT + (len(self._objects) - 1) * _OBJECT_SIZE
