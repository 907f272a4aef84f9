"""Locks that know their owner.

A lock that is taken twice by its holder or released by somebody else, and a place that
needs a lock that is not held, are errors with a message: what lockdep reports.

`Machine.taken_out` can take a lock out of a function, as in ``"lock PTE table in
wp_page_copy"``: who would take it there believes to have it, and keeps nobody out.

Events: ``lock``; ``what`` is the lock, ``new`` is "acquired", "read" or "write" (for
reading or writing), or "released"; ``why`` is "trylock" where the taker would not have
waited. ``no lock`` tells the same of a lock that was taken out: of who believes to have
it.

Source: kernel/locking/.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.errors import TlbkitError

if TYPE_CHECKING:
    from types import TracebackType

    from tlbkit.arm64.cpu import Cpu
    from tlbkit.arm64.machine import Machine


class LockError(TlbkitError):
    """A lock was used against its rules; lockdep would have reported it."""

    def __init__(self, cpu: int, lock: str, problem: str) -> None:
        super().__init__(f"CPU {cpu}: {lock}: {problem}")
        self.cpu = cpu
        self.lock = lock
        self.problem = problem


def kind_of(name: str) -> str:
    """Return the kind of a lock: its name without the address, or whose it is.

    >>> kind_of("PTE table 0x80005"), kind_of("i_mmap_rwsem of f")
    ('PTE table', 'i_mmap_rwsem')

    Source: none; messages and verdicts name locks by it.
    """
    return name.partition(" 0x")[0].partition(" of ")[0]


def _less(cpus: tuple[Cpu, ...], cpu: Cpu) -> tuple[Cpu, ...]:
    """Return *cpus* with *cpu* once less."""
    at = cpus.index(cpu)
    return cpus[:at] + cpus[at + 1 :]


def _say_omitted(lock: SpinLock | RwSemaphore, how: str) -> None:
    machine = lock.machine
    if "no lock" in machine.events.heard:
        machine.events.emit(machine.running.number, "no lock", lock, new=how)


class SpinLock:
    """A lock with one holder, the CPU that took it.

    Args:
        machine: Whose CPUs take it.
        name: For messages and events.
        address: Where it lies; who takes two takes the lower one first.
    """

    __slots__ = ("address", "believers", "holder", "machine", "name")

    def __init__(self, machine: Machine, name: str, address: int = 0) -> None:
        self.machine = machine
        self.name = name
        self.address = address
        self.holder: Cpu | None = None
        self.believers: tuple[Cpu, ...] = ()

    def acquire(self) -> None:
        """Take the lock, waiting while another CPU has it.

        Source: include/linux/spinlock.h, spin_lock()
        """
        machine = self.machine
        cpu = machine.running
        if machine.taken_out and machine.omits(f"lock {kind_of(self.name)}"):
            self.believers += (cpu,)
            _say_omitted(self, "acquired")
            return
        if self.holder is not None:
            if self.holder is cpu:
                raise LockError(cpu.number, self.name, "taken twice by its holder")
            machine.wait(lambda: self.holder is None, self.name)
        self.holder = cpu
        if machine.taken_out:
            cpu.enter_section()
        if "lock" in machine.events.heard:
            machine.events.emit(cpu.number, "lock", self, new="acquired")

    def release(self) -> None:
        """Give the lock back.

        Source: include/linux/spinlock.h, spin_unlock()
        """
        cpu = self.machine.running
        if self.holder is not cpu:
            if cpu in self.believers:
                self.believers = _less(self.believers, cpu)
                _say_omitted(self, "released")
                return
            raise LockError(cpu.number, self.name, "released by one who has it not")
        if self.machine.taken_out:
            cpu.leave_section()
        self.holder = None
        if "lock" in self.machine.events.heard:
            self.machine.events.emit(cpu.number, "lock", self, new="released")
        if self.machine.taken_out:
            cpu.catch_up()

    @property
    def held(self) -> bool:
        """Whether the running CPU has it.

        Source: none; the rules ask for it.
        """
        return self.held_by(self.machine.running)

    def held_by(self, cpu: Cpu) -> bool:
        """Tell whether *cpu* has it, or believes so.

        Source: none; the rules ask for it.
        """
        return self.holder is cpu or cpu in self.believers

    def assert_held(self) -> None:
        """Complain unless the running CPU has it: lockdep_assert_held().

        Source: include/linux/lockdep.h, lockdep_assert_held()
        """
        if not self.held:
            cpu = self.machine.running.number
            raise LockError(cpu, self.name, "must be held here and is not")

    def __enter__(self) -> None:
        """Take the lock."""
        self.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the lock back."""
        self.release()


class RwSemaphore:
    """A lock with one writer or many readers.

    Args:
        machine: Whose CPUs take it.
        name: For messages and events.

    Attributes:
        sequence: How often it was taken for writing.
    """

    __slots__ = ("believers", "machine", "name", "readers", "sequence", "writer")

    def __init__(self, machine: Machine, name: str) -> None:
        self.machine = machine
        self.name = name
        self.readers: list[Cpu] = []
        self.writer: Cpu | None = None
        self.believers: tuple[Cpu, ...] = ()
        self.sequence = 0

    def down_read(self) -> None:
        """Take it for reading, waiting for a writer.

        Source: kernel/locking/rwsem.c, down_read()
        """
        machine = self.machine
        cpu = machine.running
        if machine.taken_out and self._omitted(cpu, "read"):
            return
        if self.writer is not None:
            if self.writer is cpu:
                raise LockError(
                    cpu.number, self.name, "its writer reads: self-deadlock"
                )
            machine.wait(lambda: self.writer is None, self.name)
        self.readers.append(cpu)
        if "lock" in machine.events.heard:
            self._say("read")

    def down_read_trylock(self) -> bool:
        """Take it for reading unless it is being written; tell whether it was taken.

        Source: kernel/locking/rwsem.c, down_read_trylock()
        """
        if self.writer is not None:
            return False
        self.down_read()
        return True

    def down_write(self) -> None:
        """Take it for writing, waiting for everybody else.

        Source: kernel/locking/rwsem.c, down_write()
        """
        machine = self.machine
        cpu = machine.running
        if self._omitted(cpu, "write"):
            return
        if self.writer is cpu or cpu in self.readers:
            raise LockError(cpu.number, self.name, "taken twice by its holder")
        if self.writer is not None or self.readers:
            machine.wait(lambda: self.writer is None and not self.readers, self.name)
        self._written_by(cpu)

    def down_write_trylock(self) -> bool:
        """Take it for writing if nobody has it; tell whether it was taken.

        Source: kernel/locking/rwsem.c, down_write_trylock()
        """
        cpu = self.machine.running
        if self.writer is not None or self.readers:
            return False
        if not self._omitted(cpu, "write"):
            self._written_by(cpu, "trylock")
        return True

    def _written_by(self, cpu: Cpu, why: str = "") -> None:
        self.writer = cpu
        self.sequence += 1
        self._say("write", why)

    def up_read(self) -> None:
        """Give it back after reading.

        Source: kernel/locking/rwsem.c, up_read()
        """
        cpu = self.machine.running
        if cpu not in self.readers:
            if cpu in self.believers:
                self.believers = _less(self.believers, cpu)
                _say_omitted(self, "released")
                return
            raise LockError(cpu.number, self.name, "released by one who has it not")
        self.readers.remove(cpu)
        if "lock" in self.machine.events.heard:
            self._say("released")

    def up_write(self) -> None:
        """Give it back after writing.

        Source: kernel/locking/rwsem.c, up_write()
        """
        cpu = self.machine.running
        if self.writer is not cpu:
            if cpu in self.believers:
                self.believers = _less(self.believers, cpu)
                _say_omitted(self, "released")
                return
            raise LockError(cpu.number, self.name, "released by one who has it not")
        self.writer = None
        self._say("released")

    @property
    def held(self) -> bool:
        """Whether the running CPU has it in any way, or believes so.

        Source: none; the rules ask for it.
        """
        cpu = self.machine.running
        return self.writer is cpu or cpu in (*self.readers, *self.believers)

    def assert_held(self) -> None:
        """Complain unless the running CPU has it, for reading or writing.

        Source: include/linux/rwsem.h, rwsem_assert_held()
        """
        if not self.held:
            cpu = self.machine.running.number
            raise LockError(cpu, self.name, "must be held here and is not")

    @property
    def write_held(self) -> bool:
        """Whether the running CPU has it for writing.

        Source: none; the rules ask for it.
        """
        return self.writer is self.machine.running

    def assert_write_held(self) -> None:
        """Complain unless the running CPU has it for writing.

        Source: include/linux/rwsem.h, rwsem_assert_held_write()
        """
        cpu = self.machine.running
        if not self.written_by(cpu):
            raise LockError(
                cpu.number, self.name, "must be held for writing and is not"
            )

    def written_by(self, cpu: Cpu) -> bool:
        """Tell whether *cpu* has it for writing, or believes so.

        Source: none; the rules ask for it.
        """
        return self.writer is cpu or cpu in self.believers

    def _omitted(self, cpu: Cpu, how: str) -> bool:
        """Tell whether the lock was taken out here; *cpu* believes to have it then."""
        machine = self.machine
        if not machine.taken_out or not machine.omits(f"lock {kind_of(self.name)}"):
            return False
        self.believers += (cpu,)
        _say_omitted(self, how)
        return True

    def _say(self, how: str, why: str = "") -> None:
        machine = self.machine
        if "lock" in machine.events.heard:
            machine.events.emit(machine.running.number, "lock", self, new=how, why=why)
