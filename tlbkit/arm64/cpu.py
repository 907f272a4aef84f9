"""One CPU: the access path through its TLBs, barriers, TLBIs, and its interrupts."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, NamedTuple

from tlbkit.arm64.cached import GLOBAL, Entry
from tlbkit.arm64.conflicts import BreakBeforeMakeError, check_group, fixed_bits
from tlbkit.arm64.descriptor import VALID
from tlbkit.arm64.fault import REFUSED, Fault
from tlbkit.arm64.interconnect import Invalidation
from tlbkit.arm64.permission import ANY_EXECUTE, EL0_EXECUTE, EL0_READ, EL0_WRITE
from tlbkit.arm64.tlbi import OPERATIONS, Operation, find_operation
from tlbkit.arm64.walk import hardware_update, walk
from tlbkit.errors import InputError, TlbkitError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tlbkit.arm64.interconnect import Interconnect
    from tlbkit.arm64.regime import Regime
    from tlbkit.arm64.tlb import Tlb
    from tlbkit.arm64.tlb_array import Probe, TlbArray
    from tlbkit.arm64.walk import Table, Translation


class Barrier(NamedTuple):
    """What one kind of DSB waits for.

    Attributes:
        local: It speaks for this CPU only.
        stores: Descriptor stores are visible to what follows.
        invalidations: TLBIs are complete.
    """

    local: bool
    stores: bool
    invalidations: bool


BARRIERS = {
    (domain + kind) or "sy": Barrier(domain == "nsh", kind != "ld", not kind)
    for domain in ("", "ish", "osh", "nsh")
    for kind in ("", "st", "ld")
}


AFTER_UNLOCK = "tlbi moved after unlock"
"""Takes a flush and its DSB behind the release of all spin locks."""
BEFORE_STORE = "tlbi moved before store"
"""Takes a flush before the stores to the tables that it follows, under one lock."""


class NoRegimeError(TlbkitError):
    """A CPU was asked to translate before any table was given to it."""

    def __init__(self, cpu: int) -> None:
        super().__init__(
            f"CPU {cpu} has no translation regime yet; call switch(regime) first"
        )
        self.cpu = cpu


class AccessError(InputError):
    """No single access can be what the caller asked for.

    Attributes:
        va: The address that the caller gave.
    """

    def __init__(self, va: int, problem: str) -> None:
        super().__init__(f"the access at {va:#x}: {problem}")
        self.va = va


SIZES = (1, 2, 4, 8)
"""How many bytes one access may have."""


class Place(NamedTuple):
    """Where an access went.

    Attributes:
        va: As the program gave it.
        pa: Where it led.
    """

    va: int
    pa: int


_NOTHING: frozenset[int] = frozenset()

# Makes a named tuple of a plain one without the detour through its keyword-taking
# constructor.
_new = tuple.__new__


class Cpu:
    """One core of a machine.

    Args:
        number: From 0.
        machine: Whose memory and whose events it shares.
        tlb: Its translation caches.

    Attributes:
        asid_bits: How many bits of an ASID count, by the registers in force.

    An access is one step: what happens in it is told together when it is done.

    Events, by kind, and what they carry:

    - ``read``, ``write``, ``execute``: the `Place`; what is there before and after, as
      far as the access sees it: a word, or the bytes of a smaller access.
    - ``fault``: the address; ``new`` is the `Fault`.
    - ``walk``: the address; ``old`` is the `Table` that it went on from, or ``None``,
      and ``new`` is the translation or the fault.
    - ``store``, ``hardware``: physical address of a descriptor that software, or the
      walker itself, changed; the descriptor before and after.
    - ``tlbi``: the `Operation`; ``new`` is its operand.
    - ``dsb``, ``isb``: the kind of DSB; what it completes follows as ``drop``.
    - ``switch``: ``"ttbr"``; the regime before and after.
    - ``irq``: ``"on"`` or ``"off"``.
    """

    __deletable__ = ("_regime",)  # a compiler must know: a CPU can lose its registers
    __slots__ = (
        "_events",
        "_fixed",
        "_flushes",
        "_held",
        "_irqs_off",
        "_issued",
        "_late",
        "_memory",
        "_plain",
        "_probes",
        "_regime",
        "_sections",
        "_seen_here",
        "_stores",
        "_table_probes",
        "asid_bits",
        "machine",
        "model",
        "number",
        "tlb",
    )

    def __init__(self, number: int, machine: Interconnect, tlb: Tlb) -> None:
        self.number = number
        self.machine = machine
        self.model = machine.model
        self.tlb = tlb
        self.asid_bits = machine.model.asid_bits
        self._memory = machine.memory
        self._events = machine.events
        self._regime: Regime
        self._probes: list[Probe] = []
        self._table_probes: list[Probe] = []
        self._fixed = fixed_bits(resizes=self.model.bbml2_noabort)
        self._plain = -1  # addresses up to here need no second look
        self._issued: list[Invalidation] = []
        self._late = array("Q")  # where, since the last DSB for all; may be millions
        self._seen_here = 0
        self._irqs_off = 0
        self._held: list[Callable[[Cpu], None]] = []
        self._sections = 0  # spin locks that it has, counted while something is moved
        self._flushes: list[tuple[Operation, int]] = []
        self._stores: list[tuple[int, int, str]] = []

    # -- translation -----------------------------------------------------------------

    @property
    def regime(self) -> Regime:
        """The translation registers; `NoRegimeError` before the first `switch`."""
        if self.current is None:
            raise NoRegimeError(self.number)
        return self._regime

    @property
    def current(self) -> Regime | None:
        """The same, but ``None`` before the first `switch`."""
        return getattr(self, "_regime", None)

    def switch(self, regime: Regime) -> None:
        """Write the translation registers; what the TLBs hold stays as it is.

        Raises:
            InputError: the CPU shares its TLB, and a TTBR says that it must not.
        """
        old = self.current
        if regime is old:
            return
        if self.model.shared_tlb > 1 and not regime.ttbr0.CnP & regime.ttbr1.CnP:
            raise InputError(
                f"CPU {self.number} shares its TLB with others: set CnP in both TTBRs"
            )
        self._regime = regime
        self._probes = self.tlb.sizes.of(regime.asid)
        self._table_probes = self.tlb.walk.sizes.of(regime.asid)
        self.asid_bits = 16 if regime.controls.tcr.AS else 8
        lower = regime.halves[0]
        if self._fixed:
            self._fixed = fixed_bits(resizes=self.model.bbml2_noabort)
        self._plain = -1 if lower.forbidden else lower.offset_mask
        if "switch" in self._events.heard:
            self._events.emit(self.number, "switch", "ttbr", old, regime)

    def power_down(self) -> None:
        """Enter a low-power state that keeps neither registers nor TLB.

        What was issued here is completed first. The next `switch` ends the state; until
        then the CPU translates nothing, and no broadcast finds anything in its TLB. A
        TLB that is shared stays, as long as one of its CPUs has power.

        A state that keeps the TLB needs no call: broadcasts still take from it. What a
        reset leaves in a TLB the architecture does not say, so software invalidates it
        before it turns the MMU on (Linux: ``__cpu_setup``); here it is empty.

        Source: Arm ARM (DDI 0487), "TLB behavior at reset".
        """
        self.dsb("sy")
        if self.current is not None:
            del self._regime
        self._plain = -1
        self.machine.lost_power(self.tlb)

    def translate(self, va: int, need: int) -> int | Fault:
        """Return where *va* lies in physical memory for an access that needs *need*.

        Args:
            va: 64-bit virtual address.
            need: One of the access bits of `tlbkit.arm64.permission`.

        The order is the hardware's: TLB, walk cache, walk, permission, then the access
        flag and the dirty state that hardware may set.
        """
        outcome = self._translate(va, need)
        if self._events.held is not None:
            self._events.release()
        return outcome

    def _translate(self, va: int, need: int) -> int | Fault:
        """The same for an access, which then tells what happened up to its end."""
        if va > self._plain:
            fault = self.regime.refusal(va, need)
            if fault is not None:
                return self._fault(va, fault)
            va = self.regime.canonical(va)
        tlb = self.tlb
        micro = tlb.l1i if need & ANY_EXECUTE else tlb.l1d
        entry = micro.lookup(va, self._probes)
        if entry is None:
            if self._events.heard:
                self._events.hold()
            entry = tlb.l2.lookup(va, self._probes)
            if entry is None:
                return self._miss(va, need, micro)
            tlb.keep(micro, entry, va)
        leaf = entry.leaf
        if leaf.permissions & need:
            return va - entry.va + entry.pa
        if leaf.permissions_dirty & need:
            # Hardware sets the dirty state in memory, so it must look there again.
            if self._events.heard:
                self._events.hold()
            return self._miss(va, need, micro)
        return self._fault(va, REFUSED[leaf.level])

    def _miss(self, va: int, need: int, micro: TlbArray) -> int | Fault:
        """Walk the tables for *va*, keep what was found, and translate by it."""
        found = self._walk(va)
        if isinstance(found, Fault):
            return self._fault(va, found)
        page, pa, leaf, _, _ = found
        if not leaf.young or leaf.permissions_dirty & ~leaf.permissions & need:
            found = self._marked(found, va, need)
            if isinstance(found, Fault):
                return self._fault(va, found)
            page, pa, leaf, _, _ = found
        if leaf.young:
            self.tlb.fill(self.entry(found), va, micro)
        if leaf.permissions & need:
            return va - page + pa
        return self._fault(va, REFUSED[leaf.level])

    def resolve(self, va: int, need: int) -> Translation | Fault:
        """Walk for a canonical *va*, past its TLB entries, and mark what *need* uses.

        Hardware sets access flag and dirty state of what may be accessed, and walks
        again. Whether it may be is still to be judged by the leaf.
        """
        found = self._walk(va)
        return found if isinstance(found, Fault) else self._marked(found, va, need)

    def _marked(self, found: Translation, va: int, need: int) -> Translation | Fault:
        """Return *found* once hardware has marked in memory what *need* uses of it."""
        while True:
            leaf = found.leaf
            refused = not (leaf.permissions | leaf.permissions_dirty) & need
            if refused or (leaf.young and leaf.permissions & need):
                return found
            self._update(found, hardware_update(found, need))
            again = self._walk(va)
            if isinstance(again, Fault):
                return again
            found = again

    def _walk(self, va: int) -> Translation | Fault:
        """Walk from the deepest table that the walk cache knows."""
        tables: list[Table] = []
        tlb, regime = self.tlb, self._regime
        resume = tlb.walk.lookup(va, self._table_probes)
        found = walk(regime, self._memory, va, resume, tables)
        for table in tables:
            tlb.fill_table(table, regime.asid)
        if "walk" in self._events.heard:
            self._events.emit(self.number, "walk", va, resume, found)
        return found

    def entry(self, found: Translation) -> Entry:
        """Return what a TLB keeps of *found*: of a contiguous group all, if it can.

        Raises:
            ContiguousMisuseError: the group does not agree.
        """
        va, pa, leaf, descriptor, descriptor_pa = found
        asid = self._regime.asid if leaf.not_global else GLOBAL
        shift = leaf.group_shift
        if shift != leaf.shift:
            if shift in self.tlb.l2.shifts:
                check_group(self._memory.read, found)
                va, pa = va >> shift << shift, pa >> shift << shift
            else:
                shift = leaf.shift
        return _new(Entry, (va, pa, shift, leaf, asid, descriptor_pa, descriptor))

    def _update(self, found: Translation, new: int) -> None:
        """Write access flag or dirty state unless the descriptor changed meanwhile."""
        pa, old = found.descriptor_pa, found.descriptor
        was = self._memory.compare_exchange(pa, old, new)
        if was == old and "hardware" in self._events.heard:
            self._events.emit(self.number, "hardware", pa, old, new, "access or dirty")

    def _fault(self, va: int, fault: Fault) -> Fault:
        if "fault" in self._events.heard:
            self._events.emit(self.number, "fault", va, new=fault)
        return fault

    def prefetch(self, va: int) -> bool:
        """Fill the data TLB for *va* as speculation may; tell whether it now has it.

        There is no fault and no access; what would fault for translation or access flag
        is not filled. Nor is what hardware would first have to mark as accessed.
        """
        va = self.regime.canonical(va)
        if self._events.heard:
            self._events.hold()
        micro = self.tlb.l1d
        known = micro.lookup(va, self._probes) is not None
        if not known:
            entry = self.tlb.l2.lookup(va, self._probes)
            if entry is not None:
                self.tlb.keep(micro, entry, va)
                known = True
        if not known:
            found = self._walk(va)
            if not isinstance(found, Fault) and found.leaf.young:
                self.tlb.fill(self.entry(found), va, micro)
                known = True
        if self._events.held is not None:
            self._events.release()
        return known

    # -- accesses --------------------------------------------------------------------

    def read(self, va: int, need: int = EL0_READ, size: int = 8) -> int | Fault:
        """Load *size* bytes at *va*; the kernel meets the fault if there is one.

        Raises:
            AccessError: no access has that size, or they lie in two pages.
        """
        events = self._events
        part = size != 8 or va & 7
        if part:
            self._check_part(va, size)
        value = pa = self._translate(va, need)
        if not isinstance(pa, Fault):
            memory = self._memory
            value = memory.load(pa, size) if part else memory.read(pa)
            if "read" in events.heard:
                events.emit(self.number, "read", Place(va, pa), new=value)
        if events.held is not None:
            events.release()
        return value

    def write(
        self, va: int, value: int, need: int = EL0_WRITE, size: int = 8
    ) -> Fault | None:
        """Store the *size* bytes of *value* at *va*, or return the fault.

        Raises:
            AccessError: as `read`, or *value* does not fit.
        """
        events = self._events
        part = size != 8 or va & 7
        if part:
            self._check_part(va, size)
        if value >> 8 * size:
            raise AccessError(
                va, f"{value:#x} does not fit; {size} bytes hold 0 to 2**{8 * size} - 1"
            )
        fault = None
        pa = self._translate(va, need)
        if isinstance(pa, Fault):
            fault = pa
        else:
            memory = self._memory
            old = memory.replace(pa, value, size) if part else memory.swap(pa, value)
            if "write" in events.heard:
                events.emit(self.number, "write", Place(va, pa), old, value)
        if events.held is not None:
            events.release()
        return fault

    def _check_part(self, va: int, size: int) -> None:
        """Refuse what is no single access, before anything happens."""
        if size not in SIZES:
            known = ", ".join(map(str, SIZES))
            raise AccessError(va, f"size={size}: one access has {known} bytes")
        page = 1 << self.model.page_shift
        if va % page + size > page:
            raise AccessError(
                va,
                f"its {size} bytes lie in two pages, which a CPU translates one by "
                f"one; split it at {va // page * page + page:#x}",
            )

    def execute(self, va: int, need: int = EL0_EXECUTE) -> Fault | None:
        """Fetch from *va*, or return the fault."""
        events = self._events
        fault = None
        pa = self._translate(va, need)
        if isinstance(pa, Fault):
            fault = pa
        elif "execute" in events.heard:
            events.emit(self.number, "execute", Place(va, pa))
        if events.held is not None:
            events.release()
        return fault

    # -- descriptors -----------------------------------------------------------------

    def store(self, pa: int, value: int, why: str = "") -> None:
        """Store a descriptor at physical address *pa*.

        Raises:
            BreakBeforeMakeError: what is there is live, and must be made invalid first.
        """
        if self._sections and self._puts_off(pa, value, why):
            return
        old = self._memory.swap(pa, value)
        if old & VALID:
            self._replaced(pa, old, value)
        if "store" in self._events.heard:
            self._events.emit(self.number, "store", pa, old, value, why)

    def swap(self, pa: int, value: int, why: str = "") -> int:
        """Exchange a descriptor in one atomic step, and return the old one.

        Raises:
            BreakBeforeMakeError: as `store`.
        """
        if self._sections and self._puts_off(pa, value, why):
            return self._memory.read(pa)
        old = self._memory.swap(pa, value)
        if old & VALID:
            self._replaced(pa, old, value)
        if "store" in self._events.heard:
            self._events.emit(self.number, "store", pa, old, value, why)
        return old

    def compare_exchange(self, pa: int, old: int, new: int, why: str = "") -> int:
        """Replace a descriptor if it is *old*, in one atomic step; return what it was.

        Raises:
            BreakBeforeMakeError: as `store`.
        """
        was = self._memory.compare_exchange(pa, old, new)
        if was == old:
            if old & VALID:
                self._replaced(pa, old, new)
            if "store" in self._events.heard:
                self._events.emit(self.number, "store", pa, old, new, why)
        return was

    def tolerate(self) -> None:
        """Take from now on what breaks break-before-make, as hardware takes it.

        For who wants to see what comes of it.
        """
        self._fixed = 0

    def _replaced(self, pa: int, old: int, new: int) -> None:
        """Take note that a live descriptor was replaced, unless that must not be."""
        if (old ^ new) & self._fixed and new & VALID:
            self._memory.write(pa, old)
            raise BreakBeforeMakeError(pa, old, new, "with no step between them")
        self._late.append(pa)

    # -- maintenance -----------------------------------------------------------------

    @property
    def in_flight(self) -> list[tuple[Operation, int]]:
        """The TLBIs that no DSB has completed, with their operands, in order."""
        return [(one.operation, one.operand) for one in self._issued]

    def tlbi(self, name: str, operand: int = 0) -> None:
        """Issue TLBI *name*; it is in flight until a DSB of this CPU completes it.

        It need not wait for stores that no DSB stands behind: what a TLB holds of a
        descriptor replaced since then outlives it.

        Raises:
            InputError: there is no such operation, or the CPU does not have it.
        """
        operation = OPERATIONS.get(name) or find_operation(name)
        if operation.ranged and not self.model.range_tlbi:
            raise InputError(
                f"TLBI {name} is undefined on {self.model.name}: no FEAT_TLBIRANGE"
            )
        machine = self.machine
        if machine.taken_out:
            if machine.omits(f"tlbi {name}") or machine.omits("tlbi"):
                return
            if self._sections and machine.omits(AFTER_UNLOCK):
                self._flushes.append((operation, operand))
                return
        self._issue(operation, operand)

    def _issue(self, operation: Operation, operand: int) -> None:
        """Put a TLBI in flight."""
        spared = _NOTHING
        seen = 0 if operation.broadcast else self._seen_here
        if self._late and len(self._late) > seen:
            spared = frozenset(self._late[seen:])
        self._issued.append(_new(Invalidation, (operation, operand, spared)))
        if "tlbi" in self._events.heard:
            self._events.emit(self.number, "tlbi", operation, new=operand)

    def dsb(self, kind: str) -> None:
        """Wait: ``"ish"`` completes all TLBIs in flight here, ``"nsh"`` the local ones.

        The ``st`` forms order descriptor stores before what follows, as all but the
        ``ld`` forms do, and complete no TLBI.

        Source: Arm ARM (DDI 0487), D8.14 "TLB maintenance".

        Raises:
            InputError: there is no such barrier.
        """
        barrier = BARRIERS.get(kind)
        if barrier is None:
            raise InputError(f"dsb {kind!r}: known are {', '.join(BARRIERS)}")
        if self.machine.taken_out and self.machine.omits(f"dsb {kind}"):
            return
        overtaken = bool(self._stores and barrier.invalidations and self._issued)
        self._wait_for(kind, barrier)
        if overtaken:
            self._store_now()

    def _wait_for(self, kind: str, barrier: Barrier) -> None:
        """Do what a DSB does."""
        if "dsb" in self._events.heard:
            self._events.emit(self.number, "dsb", kind)
        local, stores, invalidations = barrier
        if stores and self._late:
            if not local:
                del self._late[:]
            self._seen_here = len(self._late)
        if invalidations and self._issued:
            done = self._issued[:]
            rest: list[Invalidation] = []
            before = len(done)
            if local:
                rest = [one for one in done if one.operation.broadcast]
                if rest:
                    done = [one for one in done if not one.operation.broadcast]
            self.machine.complete(self.tlb, self.asid_bits, done)
            # They are in flight until the last TLB has answered; what an interrupt
            # has issued since is behind them, and stays.
            self._issued[:before] = rest

    # -- what is moved ---------------------------------------------------------------

    def enter_section(self) -> None:
        """Take note of a spin lock that is held, where something may be moved."""
        self._sections += 1

    def leave_section(self) -> None:
        """Take note that one is about to be released: no store waits for longer."""
        self._store_now()
        self._sections -= bool(self._sections)

    def catch_up(self) -> None:
        """Issue the flushes that were moved behind the last release."""
        if self._flushes and not self._sections:
            flushes, self._flushes = self._flushes, []
            for operation, operand in flushes:
                self._issue(operation, operand)
            self._wait_for("ish", BARRIERS["ish"])

    def _puts_off(self, pa: int, value: int, why: str) -> bool:
        """Tell whether a store comes behind the next flush; it is kept for then."""
        if any(place == pa for place, _, _ in self._stores):
            self._store_now()
        if not self.machine.omits(BEFORE_STORE):
            return False
        self._stores.append((pa, value, why))
        return True

    def _store_now(self) -> None:
        """Store what a flush has overtaken."""
        stores, self._stores = self._stores, []
        for pa, value, why in stores:
            old = self._memory.swap(pa, value)
            if old & VALID:
                self._replaced(pa, old, value)
            if "store" in self._events.heard:
                self._events.emit(self.number, "store", pa, old, value, why)

    def isb(self) -> None:
        """Make what follows use what was completed before it."""
        if self.machine.taken_out and self.machine.omits("isb"):
            return
        if "isb" in self._events.heard:
            self._events.emit(self.number, "isb")

    # -- interrupts ------------------------------------------------------------------

    @property
    def irqs_on(self) -> bool:
        """Whether an interrupt would be taken now."""
        return not self._irqs_off

    def irq_disable(self) -> bool:
        """Hold interrupts off; calls nest. False if that was taken out here."""
        if self.machine.omits("irq"):
            return False
        self._irqs_off += 1
        if "irq" in self._events.heard:
            self._events.emit(self.number, "irq", "off")
        return True

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
