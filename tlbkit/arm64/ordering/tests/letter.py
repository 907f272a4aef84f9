"""The model without its short cuts: TLBs are filled, dropped and flushed one by one.

`OrderingModel` keeps what a TLB may hold and lets a TLBI take effect as late as it
can. Here a TLB holds what was put into it, a fill, a drop and the effect of a TLBI on
one CPU are steps of their own, and no order is left out. It is far slower and has the
same outcomes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from tlbkit.arm64.ordering.model import OrderingModel
from tlbkit.arm64.ordering.state import Do, replaced

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tlbkit.arm64.ordering import Cell, Outcome, Program, State

    Held = tuple[frozenset[Cell], ...]


class Letter(NamedTuple):
    """A state whose TLBs are real, and where each TLBI has still to take effect."""

    state: State
    waiting: frozenset[tuple[int, int, int]]  # sender, event, CPU


class LetterModel:
    """The executions of a program, by the letter."""

    def __init__(self, program: Program, *, ets2: bool) -> None:
        self.base = OrderingModel(program, ets2=ets2)
        empty: Held = tuple(frozenset() for _ in program.tables)
        tlbs = (empty,) * len(program.threads)
        initial = self.base.initial._replace(tlbs=tlbs)
        self.initial = Letter(initial, frozenset())

    def next_states(self, letter: Letter) -> Iterator[Letter]:
        """Yield every state that one step leads to."""
        state, waiting = letter
        for transition in self.base.enabled(state):
            needed = {
                (flight.thread, flight.event, cpu)
                for flight in state.flights
                if isinstance(transition, Do)
                for cpu in self.base._completed_on(*transition, flight)
            }
            if needed & waiting:
                continue
            after = self.base.step(state, transition)
            known = {(flight.thread, flight.event) for flight in state.flights}
            sent = {
                (flight.thread, flight.event, cpu)
                for flight in after.flights
                if (flight.thread, flight.event) not in known
                for cpu in range(len(state.threads))
                if flight.broadcast or cpu == flight.thread
            }
            yield Letter(after._replace(tlbs=state.tlbs), waiting | sent)
        for cpu, tlb in enumerate(state.tlbs):
            for number, (page, held) in enumerate(
                zip(dict(self.base.program.tables), tlb, strict=True)
            ):
                current = self.base.table(state, page)
                fills = {current} if current.entry.cacheable else set()
                for other in (held | fills, *(held - {cell} for cell in held)):
                    if other != held:
                        yield self._with_tlb(letter, cpu, replaced(tlb, number, other))
            for flight in state.flights:
                mark = (flight.thread, flight.event, cpu)
                if mark in waiting and (
                    cpu == flight.thread or self.base._released(state, cpu, flight)
                ):
                    kept = tuple(
                        held if fresh is None else held & fresh
                        for held, fresh in zip(tlb, flight.fresh, strict=True)
                    )
                    flushed = self._with_tlb(letter, cpu, kept)
                    yield flushed._replace(waiting=waiting - {mark})

    def _with_tlb(self, letter: Letter, cpu: int, tlb: Held) -> Letter:
        tlbs = replaced(letter.state.tlbs, cpu, tlb)
        return letter._replace(state=letter.state._replace(tlbs=tlbs))

    def outcomes(self) -> frozenset[Outcome]:
        """Return every way in which an execution can end."""
        seen, stack, ends = {self.initial}, [self.initial], set()
        while stack:
            letter = stack.pop()
            if self.base.is_final(letter.state):
                ends.add(self.base.outcome(letter.state))
            for after in self.next_states(letter):
                if after not in seen:
                    seen.add(after)
                    stack.append(after)
        return frozenset(ends)
