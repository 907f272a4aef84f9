"""The small machine: the transitions that a state enables, and what they do."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from tlbkit.arm64.ordering.code import Code, will_write
from tlbkit.arm64.ordering.entries import NEVER_CACHED, Answer, answer
from tlbkit.arm64.ordering.events import (
    AFTER_WALK_UPDATE,
    Event,
    Kind,
)
from tlbkit.arm64.ordering.program import (
    Accesses,
    Atomic,
    CompareAndSwap,
    Domain,
    Dsb,
    Load,
    Store,
    Tlbi,
)
from tlbkit.arm64.ordering.state import (
    Cell,
    Do,
    Flight,
    Outcome,
    SetAccessFlag,
    State,
    Thread,
    Transition,
    Walk,
    replaced,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tlbkit.arm64.fault import FaultKind
    from tlbkit.arm64.ordering.program import Program, Value


class OrderingModel:
    """The executions of one program: a first state, and what each state leads to.

    Attributes:
        program: What is run.
        ets2: Whether the CPUs have FEAT_ETS2.
        codes: The fixed side of each thread, with its events.
        initial: The first state.
    """

    def __init__(self, program: Program, *, ets2: bool = False) -> None:
        self.program = program
        self.ets2 = ets2
        self._managed = program.managed
        self._numbers = {page: i for i, (page, _) in enumerate(program.tables)}
        self._frame_words = {frame: i for i, (frame, _) in enumerate(program.frames)}
        table_words = {page: self.table_word(page) for page in self._numbers}
        codes: list[Code] = []
        writer = 1
        for steps in program.threads:
            code = Code(steps, self._frame_words, table_words, writer, ets2=ets2)
            codes.append(code)
            writer += len(code.events)
        self.codes = tuple(codes)
        frames = [Cell(value, 0) for _, value in program.frames]
        tables = [Cell(entry, 0) for _, entry in program.tables]
        held = tuple(
            frozenset([cell] if cell.entry.cacheable else []) for cell in tables
        )
        self.initial = State(
            memory=(*frames, *tables),
            tlbs=(held,) * len(codes),
            flights=(),
            threads=tuple(code.start for code in codes),
        )

    # What may happen next ---------------------------------------------------

    def enabled(self, state: State) -> Iterator[Transition]:
        """Yield everything that may happen next in `state`.

        Where nothing may, and the state is not final, what ran ahead has turned out
        wrong: hardware would do it again, and that is another execution.
        """
        for number, (code, thread) in enumerate(
            zip(self.codes, state.threads, strict=True)
        ):
            for index in code.ready(thread):
                if code.events[index].kind is Kind.WALK:
                    for cell in self._walks(state, number, index):
                        yield Walk(number, index, cell)
                elif self._possible(state, number, index):
                    yield Do(number, index)
        for page in self._numbers:
            if self.may_set_access_flag(state, page):
                yield SetAccessFlag(page)

    def _possible(self, state: State, number: int, index: int) -> bool:
        """Tell whether an event that the thread is ready for may happen now."""
        code, thread = self.codes[number], state.threads[number]
        event = code.events[index]
        match event.kind:
            case Kind.UPDATE:
                # Rule 5: the update is atomic, so the entry is still the one found.
                walked = thread.at(index - AFTER_WALK_UPDATE)
                return walked == self.table(state, event.page)
            case Kind.READ:
                cell = self.value_read(state, number, index)
                return (
                    cell is not None
                    and code.read_agrees(thread, index, cell)
                    and code.as_chosen(thread, index, cell)
                )
            case Kind.WRITE:
                partner = code.partner(index)
                if partner is not None:
                    # Rule 4: nobody wrote between the two halves of an atomic, which
                    # are of one word, even where a load and a store translate it anew.
                    word = code.word(thread, event.step) or 0
                    if (
                        word != code.word(thread, code.events[partner].step)
                        or thread.at(partner).writer != state.memory[word].writer
                    ):
                        return False
                return code.write_is_next(thread, index)
            case Kind.BARRIER:
                return all(
                    cpu == number or self._released(state, cpu, flight)
                    for flight in state.flights
                    for cpu in self._completed_on(number, index, flight)
                )
            case _:
                return True

    def _walks(self, state: State, number: int, index: int) -> Iterator[Cell]:
        """Yield the table words that a walk may take."""
        event = self.codes[number].events[index]
        for cell in self.candidates(state, number, event.page):
            if self._may_take(state, number, index, cell):
                yield cell

    def _may_take(self, state: State, number: int, index: int, cell: Cell) -> bool:
        """Tell whether a walk may take one of the table words that it can find."""
        code, thread = self.codes[number], state.threads[number]
        event = code.events[index]
        fault = self.answer(number, event, cell).fault
        if getattr(event.instruction, "faults", None) is (fault is None):
            return False
        if fault in NEVER_CACHED and self.ets2:
            # Rule 10: the accesses before it come before a walk that so faults.
            return code.accesses_done(thread, index)
        return fault is not None or code.walk_agrees(thread, index, cell)

    def candidates(self, state: State, cpu: int, page: str) -> frozenset[Cell]:
        """Return what a walk on a CPU can find for a page: in a TLB, or in memory."""
        return state.tlbs[cpu][self._numbers[page]] | {self.table(state, page)}

    def value_read(self, state: State, number: int, index: int) -> Cell | None:
        """Return what a read gets now: an own write on its way, else memory.

        None if it is an own write, and what that writes is not known yet.
        """
        code, thread = self.codes[number], state.threads[number]
        own = code.own_write(thread, index)
        if own is not None:
            return code.forwards(thread, own, index)
        return state.memory[code.word(thread, code.events[index].step) or 0]

    def may_set_access_flag(self, state: State, page: str) -> bool:
        """Tell whether hardware may set the access flag of a page on its own."""
        entry = self.table(state, page).entry
        return self._managed and entry.valid and not entry.young

    # Rule 11: TLBI ----------------------------------------------------------

    def _completed_on(self, number: int, index: int, flight: Flight) -> range:
        """Return the CPUs on which an event of a thread completes a TLBI."""
        match self.codes[number].events[index].instruction:
            case Dsb(Accesses.ALL, domain) if flight.thread == number:
                if flight.broadcast and domain is not Domain.NON_SHAREABLE:
                    return range(len(self.codes))
                return range(number, number + 1)
        return range(0)

    def completed_pages(self, state: State, number: int, index: int) -> set[str]:
        """Return the pages for which an event of a thread completes a TLBI."""
        return {
            page
            for flight in state.flights
            if self._completed_on(number, index, flight)
            for page, fresh in zip(self._numbers, flight.fresh, strict=True)
            if fresh is not None
        }

    def _released(self, state: State, cpu: int, flight: Flight) -> bool:
        """Tell whether a CPU is done with all that it translated by what is to go.

        Such an access must have its value, have reached memory, or have faulted. If
        it did not fault, the accesses before it must be translated too: any of them
        might be to the same word.
        """
        code, thread = self.codes[cpu], state.threads[cpu]
        all_translated = True
        for index, event in enumerate(code.events):
            if event.step > thread.end:
                break
            if event.kind is not Kind.WALK:
                continue
            cell = thread.found[index]
            if cell is None:
                all_translated = False
                continue
            fresh = flight.fresh[self._numbers[event.page]]
            if fresh is None or cell in fresh:
                continue
            faults = self.answer(cpu, event, cell).fault is not None
            last = 1 << code.fault(index) if faults else code.accesses_of(index)
            if last & ~thread.done or not (faults or all_translated):
                return False
        return True

    # What then is -----------------------------------------------------------

    def step(self, state: State, transition: Transition) -> State:
        """Return the state after an enabled transition."""
        match transition:
            case SetAccessFlag(page):
                old = self.table(state, page)
                new = Cell(old.entry._replace(young=True), -1 - old.writer)
                return self._with_table(state, page, new)
            case Walk(number, index, cell):
                return self._walked(state, number, index, cell)
            case Do(number, index):
                return self._done(state, number, index)

    def _walked(self, state: State, number: int, index: int, cell: Cell) -> State:
        """Return the state after a walk: it is decided what the access does."""
        thread = state.threads[number]
        event = self.codes[number].events[index]
        fault, update = self.answer(number, event, cell)
        end, code = thread.end, self.codes[number]
        if fault:
            if getattr(event.instruction, "faults", None) is None:
                end = min(end, event.step)
            never = code.accesses_of(index) | 1 << index + AFTER_WALK_UPDATE
        else:
            never = 1 << code.fault(index)
            if update is None:
                never |= 1 << index + AFTER_WALK_UPDATE
        done = thread.done | 1 << index | never
        thread = Thread(done, replaced(thread.found, index, cell), end)
        return state._replace(threads=replaced(state.threads, number, thread))

    def _done(self, state: State, number: int, index: int) -> State:
        """Return the state after any other event of a thread."""
        code, thread = self.codes[number], state.threads[number]
        event = code.events[index]
        done, found = thread.done | 1 << index, thread.found
        match event:
            case Event(kind=Kind.UPDATE, page=page):
                old = thread.at(index - AFTER_WALK_UPDATE)
                entry = self.answer(number, event, old).update or old.entry
                state = self._with_table(state, page, Cell(entry, code.writer(index)))
            case Event(kind=Kind.READ):
                cell = cast("Cell", self.value_read(state, number, index))
                found = replaced(found, index, cell)
                if isinstance(event.instruction, CompareAndSwap) and not will_write(
                    event, cell
                ):
                    done |= 1 << index + 1
            case Event(kind=Kind.WRITE, table="", step=step):
                word = code.word(thread, step) or 0
                cell = cast("Cell", code.written(thread, index))
                state = state._replace(memory=replaced(state.memory, word, cell))
            case Event(kind=Kind.WRITE, table=page):
                cell = cast("Cell", code.written(thread, index))
                state = self._with_table(state, page, cell)
            case Event(instruction=Tlbi(page=page, broadcast=broadcast)):
                fresh = tuple(
                    frozenset([self.table(state, name)])
                    if page in (None, name)
                    else None
                    for name in self._numbers
                )
                flight = Flight(number, index, broadcast, fresh)
                state = state._replace(flights=(*state.flights, flight))
            case Event(kind=Kind.BARRIER):
                state = self._completed(state, number, index)
        thread = Thread(done, found, thread.end)
        return state._replace(threads=replaced(state.threads, number, thread))

    def _with_table(self, state: State, page: str, cell: Cell) -> State:
        """Return the state after a write to a table word: any TLB may now hold it."""
        number = self._numbers[page]
        tlbs = state.tlbs
        if cell.entry.cacheable:
            tlbs = tuple(replaced(tlb, number, tlb[number] | {cell}) for tlb in tlbs)
        flights = tuple(
            flight
            if (fresh := flight.fresh[number]) is None
            else flight._replace(fresh=replaced(flight.fresh, number, fresh | {cell}))
            for flight in state.flights
        )
        memory = replaced(state.memory, self.table_word(page), cell)
        return state._replace(memory=memory, tlbs=tlbs, flights=flights)

    def _completed(self, state: State, number: int, index: int) -> State:
        """Return the state after a barrier: what its TLBI remove is gone."""
        tlbs, flights = list(state.tlbs), []
        for flight in state.flights:
            cpus = self._completed_on(number, index, flight)
            for cpu in cpus:
                tlbs[cpu] = tuple(
                    held if fresh is None else held & fresh
                    for held, fresh in zip(tlbs[cpu], flight.fresh, strict=True)
                )
            if not cpus or (flight.broadcast and len(cpus) < len(tlbs)):
                flights.append(flight)
        return state._replace(tlbs=tuple(tlbs), flights=tuple(flights))

    # The end ----------------------------------------------------------------

    def is_final(self, state: State) -> bool:
        """Tell whether every thread has done all its events up to its end."""
        pairs = zip(self.codes, state.threads, strict=True)
        return not any(code.to_do(thread) for code, thread in pairs)

    def outcome(self, state: State) -> Outcome:
        """Return the outcome of a final state."""
        registers: set[tuple[int, str, Value]] = set()
        faults: list[tuple[FaultKind, str] | None] = []
        for number, code in enumerate(self.codes):
            read = self.registers(state, number)
            registers |= {(number, name, read.get(name, 0)) for name in code.reads}
            last = [(kind, page) for step, kind, page in self.faults(state, number)]
            faults.append(last[-1] if last else None)
        frames = zip(self._frame_words, state.memory, strict=False)
        return Outcome(
            frozenset(registers),
            tuple(faults),
            tuple((name, cell.value) for name, cell in frames),
            tuple((page, self.table(state, page).entry) for page in self._numbers),
        )

    def registers(self, state: State, number: int) -> dict[str, Value]:
        """Return what the registers of a thread hold that it has read, by name."""
        code, thread = self.codes[number], state.threads[number]
        return {
            name: cell.value
            for name, index in code.reads.items()
            if code.events[index].step <= thread.end
            and (cell := thread.found[index]) is not None
        }

    def faults(self, state: State, number: int) -> list[tuple[int, FaultKind, str]]:
        """Return the faults of a thread: the step, the kind, the page."""
        code, thread = self.codes[number], state.threads[number]
        return [
            (event.step, fault, event.page)
            for event, cell in zip(code.events, thread.found, strict=True)
            if event.kind is Kind.WALK and event.step <= thread.end and cell
            if (fault := self.answer(number, event, cell).fault)
        ]

    # Names ------------------------------------------------------------------

    def answer(self, number: int, event: Event, cell: Cell) -> Answer:
        """Tell what the access of an event of a thread gets from a table word."""
        hardware = self.program.hardware_of(number)
        match event.instruction:
            case Load(as_store=write, dirties=dirties):
                return answer(
                    cell.entry, write=write, hardware=hardware, dirties=dirties
                )
        write = isinstance(event.instruction, Store | Atomic)
        return answer(cell.entry, write=write, hardware=hardware)

    def frame_word(self, frame: str) -> int:
        """Return the index in memory of a frame."""
        return self._frame_words[frame]

    def table_word(self, page: str) -> int:
        """Return the index in memory of the table word of a page."""
        return len(self._frame_words) + self._numbers[page]

    def table(self, state: State, page: str) -> Cell:
        """Return the table word of a page."""
        return state.memory[self.table_word(page)]
