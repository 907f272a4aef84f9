"""Laws of locks, and of locks that were taken out."""

import pytest

from tlbkit.arm64.machine import Machine, StuckError
from tlbkit.linux.kernel.locking import LockError, RwSemaphore, SpinLock, kind_of


def take(lock):
    """Take a spinlock where it can be taken out."""
    lock.acquire()


def write(semaphore):
    """Take a semaphore for writing where it can be taken out."""
    semaphore.down_write()


def read(semaphore):
    """Take a semaphore for reading where it can be taken out."""
    semaphore.down_read()


def test_a_lock_keeps_others_out():
    """A second CPU waits; where nothing else runs, it is stuck."""
    machine = Machine(2)
    lock = SpinLock(machine, "table 0x1")
    take(lock)
    machine.running = machine.cpu(1)
    with pytest.raises(StuckError):
        take(lock)


def test_a_lock_that_was_taken_out_keeps_nobody_out():
    """Two CPUs believe to have it, may do what it protects, and give it back."""
    machine = Machine(2)
    lock = SpinLock(machine, "table 0x1")
    machine.taken_out = frozenset({"lock table in take"})
    for cpu in machine.cpus:
        machine.running = cpu
        take(lock)
        lock.assert_held()
    for cpu in machine.cpus:
        machine.running = cpu
        lock.release()
        assert not lock.held
    with pytest.raises(LockError, match="has it not"):
        lock.release()


def test_a_semaphore_that_was_taken_out_keeps_nobody_out():
    """A writer and a reader believe to have it at once."""
    machine = Machine(2)
    semaphore = RwSemaphore(machine, "mmap_lock")
    machine.taken_out = frozenset({"lock mmap_lock in write", "lock mmap_lock in read"})
    write(semaphore)
    semaphore.assert_write_held()
    machine.running = machine.cpu(1)
    read(semaphore)
    semaphore.assert_held()
    semaphore.up_read()
    machine.running = machine.cpu(0)
    semaphore.up_write()
    with pytest.raises(LockError, match="has it not"):
        semaphore.up_write()
    with pytest.raises(LockError, match="has it not"):
        semaphore.up_read()


def test_a_lock_that_was_taken_out_elsewhere_is_taken():
    """Only the named function goes without, and only without locks of that kind."""
    machine = Machine(1)
    lock = SpinLock(machine, "table 0x1")
    machine.taken_out = frozenset({"lock table in read", "lock other in take"})
    take(lock)
    assert lock.holder is machine.cpu(0)


def test_kinds_have_no_address():
    """Locks of one kind differ by where they lie."""
    assert kind_of("vma lock 0x7000") == "vma lock"
    assert kind_of("mmap_lock") == "mmap_lock"
