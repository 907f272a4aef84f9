"""What is told of watched pages is what a walk finds, at any time."""

from hypothesis import given, settings

from tlbkit.arm64.fault import Fault
from tlbkit.arm64.walk import walk
from tlbkit.observe.tests.support import MODELS, PAGE, PAGES, STEPS, Program
from tlbkit.observe.watched import Watched


def walked(program, regime, va):
    """Walk anew; return the descriptor of a page that is valid."""
    found = walk(regime, program.machine.memory, va)
    return None if isinstance(found, Fault) else found.descriptor


@settings(max_examples=15, deadline=None)
@given(MODELS, STEPS)
def test_it_keeps_up_with_every_store(model, steps):
    """After each store of a program, what was told last is what the tables say."""
    program = Program(model)
    program.parent.write(program.base, 1)
    pages = [program.base + page * PAGE for page in range(PAGES)]
    regime = program.machine.cpu(0).regime
    watched = Watched(program.machine, pages)
    told = dict(watched.meet(regime))

    def listen(event):
        told.update(watched.stored(event.what))
        for va in pages:
            said = told.get(("page", regime.asid, va))
            valid = getattr(said, "descriptor", None)
            assert valid == walked(program, regime, va)

    program.machine.events.listen_by_kind({"store": listen, "hardware": listen})
    program.play(steps)


def test_what_is_not_watched_costs_nothing():
    """Without pages an address space is met, and nothing is told."""
    program = Program()
    program.parent.write(program.base, 1)
    watched = Watched(program.machine, ())
    assert not list(watched.meet(program.machine.cpu(0).regime))
