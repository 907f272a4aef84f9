"""Laws of what is noted of a step."""

from tlbkit.arm64.machine import Machine
from tlbkit.explore.footprint import READ, WRITE, watching
from tlbkit.linux.kernel.locking import RwSemaphore, SpinLock


def test_a_name_says_who_made_a_thing():
    """It is the same whether its making is noted or passed over, whoever uses it."""
    machine = Machine(cpus=1)
    with watching() as notes:

        def names(make):
            notes.begin()
            notes.keep()
            make(0)
            one, other = SpinLock(machine, "one"), RwSemaphore(machine, "other")
            notes.resume(1)
            assert not other.readers
            assert one.holder is None
            notes.take()
            return notes.name(one), notes.name(other)

        assert names(notes.resume) == names(notes.pass_over)


def test_what_is_passed_over_is_not_noted():
    """Neither a word nor what an event tells counts until the flow is resumed."""
    machine = Machine(cpus=1)
    with watching() as notes:
        notes.begin()
        notes.keep()
        machine.events.listen(notes.hear)
        for go_on, kinds in ((notes.pass_over, []), (notes.resume, [READ, WRITE])):
            go_on(0)
            machine.memory.read(0x8000_0000)
            machine.events.emit(0, "alloc", 5, new=0)
            touched = notes.take().values()
            assert {READ, WRITE} & set(touched) == set(kinds)
