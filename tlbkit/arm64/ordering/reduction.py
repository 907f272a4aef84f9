"""Which transitions of a state are enough to reach every outcome.

Many orders of events differ in nothing that anyone can see. A transition is
*harmless* in a state if nothing that any thread may still do can tell whether it
happens now or later, and if it is the only way in which its event can happen: then
every outcome that can be reached at all can be reached through it, and the others
need not be tried. An execution does each event at most once, so nothing is put off
for ever.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.arm64.ordering.entries import Entry
from tlbkit.arm64.ordering.events import Event, Kind
from tlbkit.arm64.ordering.program import Computed
from tlbkit.arm64.ordering.state import Do, SetAccessFlag, State, Transition, Walk

if TYPE_CHECKING:
    from tlbkit.arm64.ordering.model import OrderingModel

_NOBODY = -1
"""No thread's number."""


class Reduction:
    """Tells for the states of one model which transitions are enough."""

    def __init__(self, model: OrderingModel) -> None:
        self._model = model
        self._managed = model.program.managed
        self._frames = {page: {entry.frame} for page, entry in model.program.tables}
        for code in model.codes:
            for event in code.events:
                value = getattr(event.instruction, "value", None)
                if event.table and isinstance(value, Entry):
                    self._frames[event.table].add(value.frame)
                elif event.table and isinstance(value, Computed):
                    # What it is made of may be any entry of the program.
                    self._frames[event.table] |= {
                        frame for frame, _ in model.program.frames
                    }
        words = range(len(model.initial.memory))
        self._readers = [self._masks(word, {Kind.READ}) for word in words]
        self._writers = [self._masks(word, {Kind.WRITE, Kind.UPDATE}) for word in words]
        self._walkers = [self._masks(word, {Kind.WALK}) for word in words]

    def _masks(self, word: int, kinds: set[Kind]) -> tuple[int, ...]:
        """Return for each thread the bits of the events that may access a word."""
        return tuple(
            sum(
                1 << index
                for index, event in enumerate(code.events)
                if event.kind in kinds and word in self._words(event)
            )
            for code in self._model.codes
        )

    def _words(self, event: Event) -> set[int]:
        """Return the words that an event may access, whatever the frames turn out."""
        model = self._model
        if event.table:
            return {model.table_word(event.table)}
        if event.kind is Kind.WALK:
            return {model.table_word(event.page)}
        if event.kind is Kind.UPDATE:
            return {model.table_word(event.page)} if self._managed else set()
        return {model.frame_word(frame) for frame in self._frames[event.page] if frame}

    def sufficient(self, state: State) -> list[Transition]:
        """Return the transitions to follow from `state`: one harmless one, or all."""
        transitions = list(self._model.enabled(state))
        for transition in transitions:
            if self._harmless(state, transition):
                return [transition]
        return transitions

    def _harmless(self, state: State, transition: Transition) -> bool:
        model = self._model
        match transition:
            case SetAccessFlag():
                return False
            case Walk(number, index):
                # The word will stay what it is, and no TLB holds another.
                page = model.codes[number].events[index].page
                return self._settled(state, page) and (
                    len(model.candidates(state, number, page)) == 1
                )
            case Do(number, index):
                return self._harmless_event(state, number, index)

    def _harmless_event(self, state: State, number: int, index: int) -> bool:
        model, code = self._model, self._model.codes[number]
        event = code.events[index]
        match event.kind:
            case Kind.FAULT | Kind.BRANCH | Kind.INVALIDATE:
                # They only let later events go ahead. To send a TLBI early is the
                # weaker choice: it removes what was stale when it was sent.
                return True
            case Kind.BARRIER:
                # Nobody will look again where its TLBI remove something.
                return not any(
                    self._live(state, self._walkers[model.table_word(page)])
                    for page in model.completed_pages(state, number, index)
                )
            case Kind.READ if event.table:
                # Its own earlier writes it sees anyway, unless hardware changes them.
                but = _NOBODY if self._managed else number
                return self._settled(state, event.table, but)
            case Kind.READ:
                word = code.word(state.threads[number], event.step) or 0
                known = code.stores_known(state.threads[number], index)
                return known and not self._live(state, self._writers[word], number)
            case Kind.WRITE if not event.table:
                word = code.word(state.threads[number], event.step) or 0
                return not (
                    self._live(state, self._writers[word], number)
                    or self._live(state, self._readers[word], number)
                )
            case _:
                return False

    def _settled(self, state: State, page: str, but: int = _NOBODY) -> bool:
        """Tell whether nobody, thread `but` aside, may yet change a table word."""
        writers = self._writers[self._model.table_word(page)]
        return not self._model.may_set_access_flag(state, page) and (
            not self._live(state, writers, but)
        )

    def _live(self, state: State, masks: tuple[int, ...], but: int = _NOBODY) -> bool:
        """Tell whether any of these events, thread `but` aside, may yet happen."""
        return any(
            number != but and mask & self._model.codes[number].to_do(thread)
            for number, (mask, thread) in enumerate(
                zip(masks, state.threads, strict=True)
            )
        )
