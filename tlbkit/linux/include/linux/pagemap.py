"""The lock of a page: include/linux/pagemap.h and mm/filemap.c.

It is a flag of the folio and has no owner, as in the kernel: who starts to read a page
in may leave it to an interrupt to unlock it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.linux.include.linux.mm_types import PG_locked
from tlbkit.linux.kernel.locking import LockError

if TYPE_CHECKING:
    from tlbkit.arm64.machine import Machine
    from tlbkit.linux.include.linux.mm_types import Folio


def folio_trylock(folio: Folio) -> bool:
    """Lock *folio* unless somebody has; tell whether it was locked.

    Source: include/linux/pagemap.h, folio_trylock()
    """
    if folio.flags & PG_locked:
        return False
    folio.flags |= PG_locked
    return True


def folio_lock(machine: Machine, folio: Folio) -> None:
    """Lock *folio*, asleep while somebody else has it locked.

    Source: include/linux/pagemap.h, folio_lock()
    """
    while not folio_trylock(folio):
        machine.wait(lambda: not folio.flags & PG_locked, _name(folio))


def folio_unlock(machine: Machine, folio: Folio) -> None:
    """Unlock *folio*.

    Source: mm/filemap.c, folio_unlock()
    """
    if not folio.flags & PG_locked:
        raise LockError(machine.running.number, _name(folio), "is not locked")
    folio.flags &= ~PG_locked


def _name(folio: Folio) -> str:
    return f"the lock of folio {folio.pfn:#x}"
