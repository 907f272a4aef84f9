"""Laws of one TLB array: which entry a full set lets go of, and which answers."""

from hypothesis import given
from hypothesis import strategies as st

from tlbkit.arm64.cached import GLOBAL
from tlbkit.arm64.models import Replacement
from tlbkit.arm64.tests.support import some_entry, tiny
from tlbkit.arm64.tlb_array import Sizes, TlbArray, probe_of


class Reference:
    """One set-associative cache of page numbers, written as plainly as can be."""

    def __init__(self, sets, ways, replacement):
        self.sets: list[list[int]] = [[] for _ in range(sets)]
        self.ways = ways
        self.replacement = replacement

    def lookup(self, page):
        """Whether a page is there; a use moves it to the end of the queue."""
        queue = self.sets[page % len(self.sets)]
        if page not in queue:
            return False
        if self.replacement is Replacement.LRU:
            queue.remove(page)
            queue.append(page)
        return True

    def fill(self, page):
        """Put a page at the end of the queue, and return what fell out in front."""
        queue = self.sets[page % len(self.sets)]
        queue.append(page)
        return queue.pop(0) if len(queue) > self.ways else None


@given(
    st.sampled_from((1, 2, 8)),
    st.integers(1, 4),
    st.sampled_from((Replacement.LRU, Replacement.FIFO)),
    st.lists(st.integers(0, 40), max_size=120),
)
def test_replacement_is_a_queue(sets, ways, replacement, pages):
    """LRU and FIFO let go of the head of the set's queue, which LRU alone reorders."""
    array = TlbArray("L2", tiny(sets, ways, {12}, replacement=replacement))
    reference = Reference(sets, ways, replacement)
    sizes = Sizes()
    _, tag = probe = probe_of(5, 12)
    sizes.note(5, probe)
    for page in pages:
        found = array.lookup(page << 12, sizes.of(5))
        assert (found is not None) is reference.lookup(page)
        if found is None:
            victim = array.fill(some_entry(page << 12), page | tag)
            assert (victim and victim.va >> 12) == reference.fill(page)
        else:
            assert found.va == page << 12
    assert array.held == len(list(array)) == sum(map(len, reference.sets))


def test_random_replacement_is_the_same_in_every_run():
    """Victims look random, come from the full set, and repeat with the same input."""

    def victims():
        array = TlbArray("L2", tiny(1, 8, {12}, replacement=Replacement.RANDOM))
        return [array.fill(some_entry(page << 12), page) for page in range(200)]

    runs = victims(), victims()
    assert runs[0] == runs[1]
    ages = {page - (one.va >> 12) for page, one in enumerate(runs[0]) if one}
    assert len(ages) > 8  # neither the oldest nor the youngest always


@given(
    st.lists(
        st.tuples(
            st.sampled_from(("note", "forget", "forget all", "of")),
            st.sampled_from((5, 6, GLOBAL)),
            st.sampled_from((12, 16, 21, 30)),
        ),
        max_size=30,
    )
)
def test_sizes_are_those_noted_since_they_were_forgotten(story):
    """A look-up tries what its ASID has and what is global, small sizes first."""
    sizes = Sizes()
    followed = sizes.of(5)  # as a CPU does, for as long as it runs that ASID
    noted = set()
    for name, asid, shift in story:
        match name:
            case "note":
                if (asid, shift) not in noted:
                    sizes.note(asid, probe_of(asid, shift))
                noted.add((asid, shift))
            case "forget":
                if asid != GLOBAL:
                    sizes.forget(asid)
                    noted = {one for one in noted if one[0] != asid}
            case "forget all":
                sizes.forget_all()
                noted.clear()
            case _:
                sizes.of(asid)
        for number in (5, 6):
            mine = {probe_of(*one) for one in noted if one[0] in (number, GLOBAL)}
            assert sizes.of(number) == sorted(mine)
        assert followed == sizes.of(5)
        everything = {probe_of(*one) for one in noted}
        assert sizes.every() == everything
        assert sizes.tags == {tag for _, tag in everything}
