"""An execution told in sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tlbkit.arm64.ordering import Do, Kind, SetAccessFlag, Walk
from tlbkit.explore.litmus.steps import step_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tlbkit.arm64.ordering import OrderingModel, State, Transition
    from tlbkit.explore.litmus.form import LitmusTest


def steps_of(test: LitmusTest) -> Callable[[int, int], str]:
    """Return how a step of a thread is told: as the test writes it."""
    names = {entry: name for name, entry in reversed(test.entries)}
    return lambda thread, step: step_text(test.program.threads[thread][step], names)


def tell(
    model: OrderingModel,
    steps: Callable[[int, int], str],
    path: Iterable[tuple[State, Transition]],
) -> Iterator[str]:
    """Yield one sentence for each transition of an execution.

    Args:
        model: The model that ran it.
        steps: Tells a step of a thread, by their numbers.
        path: Each state with the transition that left it.
    """
    for state, transition in path:
        match transition:
            case SetAccessFlag(page):
                yield f"hardware sets the access flag in pte({page}), unasked"
                continue
            case Walk(number, index):
                what = _walk(model, state, transition)
            case Do(number, index):
                what = _event(model, state, transition)
        step = steps(number, model.codes[number].events[index].step)
        yield f"P{number}: {step}: {what}"


def _walk(model: OrderingModel, state: State, walk: Walk) -> str:
    """Tell what a walk finds, and where."""
    event = model.codes[walk.thread].events[walk.event]
    current = model.table(state, event.page)
    found = f"translates {event.page} by '{walk.cell.value}'"
    if walk.cell != current:
        found += f", held by the TLB; memory has '{current.value}'"
    fault = model.answer(walk.thread, event, walk.cell).fault
    return found + (f": {fault.value} fault" if fault else "")


def _event(model: OrderingModel, state: State, do: Do) -> str:
    """Tell what an event other than a walk does."""
    event = model.codes[do.thread].events[do.event]
    match event.kind:
        case Kind.UPDATE:
            entry = model.table(model.step(state, do), event.page).value
            return f"hardware makes pte({event.page}) '{entry}'"
        case Kind.READ:
            found = model.value_read(state, do.thread, do.event)
            own = "" if found in state.memory else " from its own store"
            return f"reads '{found.value if found else ''}'{own}"
        case Kind.WRITE:
            return "reaches memory"
        case Kind.FAULT:
            return "takes its fault; nothing after it happens"
        case Kind.INVALIDATE:
            return "is sent"
        case Kind.BARRIER if model.completed_pages(state, do.thread, do.event):
            return "is done, and with it the TLBI before it"
        case _:
            return "is done"
