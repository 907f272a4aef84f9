"""One CPU: the access path through its TLBs, barriers, TLBI, and its interrupt state."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from tlbkit.arm64 import tlbi
from tlbkit.arm64.descriptor import AF, AP_READ_ONLY
from tlbkit.arm64.fault import Fault, FaultKind
from tlbkit.arm64.permission import EL0_EXECUTE, EL0_READ, EL0_WRITE, EL1_EXECUTE
from tlbkit.arm64.tlb import GLOBAL, Entry, Tlb
from tlbkit.arm64.walk import walk
from tlbkit.errors import InputError, TlbkitError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tlbkit.arm64.machine import Machine
    from tlbkit.arm64.regime import Regime
    from tlbkit.arm64.tlb import TlbArray
    from tlbkit.arm64.tlbi import Operation
    from tlbkit.arm64.walk import Table, Translation

_BARRIERS = frozenset(
    domain + kind for domain in ("ish", "nsh", "osh") for kind in ("", "st", "ld")
) | {"sy", "st", "ld"}
_FETCH = EL0_EXECUTE | EL1_EXECUTE


class NoRegimeError(TlbkitError):
    """A CPU was asked to translate before any table was given to it."""

    def __init__(self, cpu: int) -> None:
        super().__init__(
            f"CPU {cpu} has no translation regime yet; call switch(regime) first"
        )
        self.cpu = cpu


class Place(NamedTuple):
    """Where an access went.

    Attributes:
        va: As the program gave it.
        pa: Where it led.
    """

    va: int
    pa: int


class Cpu:
    """One core of a machine.

    Args:
        number: From 0.
        machine: Whose memory and whose events it shares.

    Events, by kind, and what they carry:

    - ``read``, ``write``, ``execute``: the `Place`; the word that is there before and
      after, as far as the access sees it.
    - ``fault``: the address; ``new`` is the `Fault`.
    - ``walk``: the address; ``old`` is the `Table` that it went on from, or ``None``,
      and ``new`` is the translation or the fault.
    - ``store``, ``hardware``: physical address of a descriptor that software, or the
      walker itself, changed; the descriptor before and after.
    - ``tlbi``: the `Operation`; ``new`` is its operand.
    - ``dsb``, ``isb``: the kind of DSB. What it completes is told after it, as ``drop``.
    - ``switch``: ``"ttbr"``; the regime before and after.
    - ``irq``: ``"on"`` or ``"off"``.
    """

    __slots__ = (
        "_asid",
        "_events",
        "_held",
        "_irqs_off",
        "_memory",
        "_regime",
        "in_flight",
        "machine",
        "model",
        "number",
        "tlb",
    )

    def __init__(self, number: int, machine: Machine) -> None:
        self.number = number
        self.machine = machine
        self.model = machine.model
        self._memory = machine.memory
        self._events = machine.events
        self.tlb = Tlb(number, machine.model, machine.events)
        self.in_flight: list[tuple[Operation, int]] = []
        self._regime: Regime | None = None
        self._asid = 0
        self._irqs_off = 0
        self._held: list[Callable[[Cpu], None]] = []

    # -- translation -----------------------------------------------------------------

    @property
    def regime(self) -> Regime:
        """The translation registers in force; `NoRegimeError` before the first switch."""
        if self._regime is None:
            raise NoRegimeError(self.number)
        return self._regime

    def switch(self, regime: Regime) -> None:
        """Write the translation registers; what the TLBs hold stays as it is."""
        if regime is self._regime:
            return
        old, self._regime = self._regime, regime
        self._asid = regime.asid
        if "switch" in self._events.heard:
            self._events.emit(self.number, "switch", "ttbr", old, regime)

    def translate(self, va: int, need: int) -> int | Fault:
        """Return where *va* lies in physical memory for an access that needs *need*.

        Args:
            va: 64-bit virtual address.
            need: One of the access bits of `tlbkit.arm64.permission`.

        The order is the hardware's: TLB, walk cache, walk, permission, then the access
        flag and the dirty state that hardware may set. A fault is emitted as ``fault``.
        """
        tlb = self.tlb
        micro = tlb.l1i if need & _FETCH else tlb.l1d
        entry = tlb.lookup(va, self._asid, micro)
        if entry is None:
            return self._miss(va, need, micro)
        leaf = entry.leaf
        if leaf.permissions & need:
            return entry.pa + (va & ((1 << entry.shift) - 1))
        if leaf.permissions_dirty & need:
            # Hardware sets the dirty state in memory, so it must look there again.
            tlb.drop(entry, "hardware dirty update")
            return self._miss(va, need, micro)
        return self._fault(va, Fault(FaultKind.PERMISSION, leaf.level))

    def _miss(self, va: int, need: int, micro: TlbArray) -> int | Fault:
        """Walk the tables for *va*, keep what was found, and translate by it."""
        regime = self.regime
        while True:
            found = self._walk(regime, va)
            if isinstance(found, Fault):
                return self._fault(va, found)
            leaf = found.leaf
            allowed = leaf.permissions_dirty & need
            update = 0
            if allowed and not leaf.young:
                update = AF
            clean = allowed and not leaf.permissions & need
            if not update and not clean:
                break
            new = (found.descriptor | update) & ~(AP_READ_ONLY if clean else 0)
            self._hardware_update(found, new)
        if leaf.young:
            self.tlb.fill(self._entry(found, micro), micro)
        if not allowed:
            return self._fault(va, Fault(FaultKind.PERMISSION, leaf.level))
        return found.pa + (va & ((1 << leaf.shift) - 1))

    def _walk(self, regime: Regime, va: int) -> Translation | Fault:
        """Walk from the deepest table that the walk cache knows."""
        tables: list[Table] = []
        asid = self._asid
        resume = self.tlb.walk.lookup(va, asid)
        found = walk(regime, self._memory, va, resume, tables)
        for table in tables:
            self.tlb.fill_table(table, asid)
        if "walk" in self._events.heard:
            self._events.emit(self.number, "walk", va, resume, found)
        return found

    def _entry(self, found: Translation, micro: TlbArray) -> Entry:
        """Return what a TLB keeps of *found*: a contiguous group as one, if it can."""
        leaf = found.leaf
        shift = leaf.group_shift
        if shift not in micro.geometry.shifts:
            shift = leaf.shift
        mask = (1 << shift) - 1
        asid = self._asid if leaf.not_global else GLOBAL
        return Entry(
            found.va & ~mask,
            found.pa & ~mask,
            shift,
            leaf,
            asid,
            found.descriptor_pa,
        )

    def _hardware_update(self, found: Translation, new: int) -> None:
        """Write access flag or dirty state unless the descriptor changed meanwhile."""
        pa = found.descriptor_pa
        old = self._memory.compare_exchange(pa, found.descriptor, new)
        if old == found.descriptor and "hardware" in self._events.heard:
            self._events.emit(self.number, "hardware", pa, old, new, "access or dirty")

    def _fault(self, va: int, fault: Fault) -> Fault:
        if "fault" in self._events.heard:
            self._events.emit(self.number, "fault", va, new=fault)
        return fault

    def prefetch(self, va: int) -> None:
        """Fill the TLB for *va* as speculation may, if no fault would come of it."""
        regime = self.regime
        if self.tlb.lookup(va, self._asid, self.tlb.l1d) is not None:
            return
        found = self._walk(regime, va)
        if not isinstance(found, Fault) and found.leaf.young:
            self.tlb.fill(self._entry(found, self.tlb.l1d), self.tlb.l1d)

    # -- accesses --------------------------------------------------------------------

    def read(self, va: int, need: int = EL0_READ) -> int | Fault:
        """Load the 64-bit word at *va*; the kernel meets the fault if there is one."""
        pa = self.translate(va, need)
        if isinstance(pa, Fault):
            return pa
        value = self._memory.read(pa)
        if "read" in self._events.heard:
            self._events.emit(self.number, "read", Place(va, pa), new=value)
        return value

    def write(self, va: int, value: int, need: int = EL0_WRITE) -> Fault | None:
        """Store the 64-bit word *value* at *va*, or return the fault."""
        pa = self.translate(va, need)
        if isinstance(pa, Fault):
            return pa
        if "write" in self._events.heard:
            old = self._memory.read(pa)
            self._memory.write(pa, value)
            self._events.emit(self.number, "write", Place(va, pa), old, value)
        else:
            self._memory.write(pa, value)
        return None

    def execute(self, va: int, need: int = EL0_EXECUTE) -> Fault | None:
        """Fetch from *va*, or return the fault."""
        pa = self.translate(va, need)
        if isinstance(pa, Fault):
            return pa
        if "execute" in self._events.heard:
            self._events.emit(self.number, "execute", Place(va, pa))
        return None

    # -- descriptors -----------------------------------------------------------------

    def store(self, pa: int, value: int, why: str = "") -> None:
        """Store a descriptor at physical address *pa*."""
        if "store" in self._events.heard:
            old = self._memory.read(pa)
            self._memory.write(pa, value)
            self._events.emit(self.number, "store", pa, old, value, why)
        else:
            self._memory.write(pa, value)

    def swap(self, pa: int, value: int, why: str = "") -> int:
        """Exchange a descriptor in one atomic step, and return the old one."""
        old = self._memory.swap(pa, value)
        if "store" in self._events.heard:
            self._events.emit(self.number, "store", pa, old, value, why)
        return old

    def compare_exchange(self, pa: int, old: int, new: int, why: str = "") -> int:
        """Replace a descriptor if it is *old*, in one atomic step; return what it was."""
        was = self._memory.compare_exchange(pa, old, new)
        if was == old and "store" in self._events.heard:
            self._events.emit(self.number, "store", pa, old, new, why)
        return was

    # -- maintenance -----------------------------------------------------------------

    def tlbi(self, name: str, operand: int = 0) -> None:
        """Issue TLBI *name*; it is in flight until a DSB of this CPU completes it."""
        operation = tlbi.OPERATIONS.get(name) or tlbi.find_operation(name)
        if operation.by is tlbi.By.RANGE and not self.model.range_tlbi:
            raise InputError(
                f"TLBI {name} is undefined on {self.model.name}: no FEAT_TLBIRANGE"
            )
        if self.machine.omits(f"tlbi {name}"):
            return
        self.in_flight.append((operation, operand))
        if "tlbi" in self._events.heard:
            self._events.emit(self.number, "tlbi", operation, new=operand)

    def dsb(self, kind: str) -> None:
        """Wait: ``"ish"`` completes every TLBI in flight here, ``"nsh"`` the local ones.

        The ``st`` forms order descriptor stores before what follows; they complete no
        TLBI. Source: Arm ARM (DDI 0487), D8.14 "TLB maintenance".
        """
        if kind not in _BARRIERS:
            raise InputError(f"dsb {kind!r}: known are {', '.join(sorted(_BARRIERS))}")
        if self.machine.omits(f"dsb {kind}"):
            return
        if "dsb" in self._events.heard:
            self._events.emit(self.number, "dsb", kind)
        if kind == "nsh":
            local = [one for one in self.in_flight if not one[0].broadcast]
            self.in_flight = [one for one in self.in_flight if one[0].broadcast]
            self.machine.complete(self, local)
        elif not kind.endswith(("st", "ld")):
            done, self.in_flight = self.in_flight, []
            self.machine.complete(self, done)

    def isb(self) -> None:
        """Make what follows use what was completed before it."""
        if self.machine.omits("isb"):
            return
        if "isb" in self._events.heard:
            self._events.emit(self.number, "isb")

    # -- interrupts ------------------------------------------------------------------

    @property
    def irqs_on(self) -> bool:
        """Whether an interrupt would be taken now."""
        return not self._irqs_off

    def irq_disable(self) -> None:
        """Hold interrupts off; calls nest."""
        self._irqs_off += 1
        if "irq" in self._events.heard:
            self._events.emit(self.number, "irq", "off")

    def irq_enable(self) -> None:
        """Undo one `irq_disable`; at the last, take the interrupts that were held."""
        self._irqs_off -= 1
        if "irq" in self._events.heard:
            self._events.emit(self.number, "irq", "on" if self.irqs_on else "off")
        while self._held and self.irqs_on:
            self._held.pop(0)(self)

    def interrupt(self, handler: Callable[[Cpu], None]) -> None:
        """Deliver an interrupt: *handler* runs here, now or once interrupts are on."""
        if self.irqs_on:
            handler(self)
        else:
            self._held.append(handler)
