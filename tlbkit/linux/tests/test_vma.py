"""Laws of VMAs: what is alike again is one again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlbkit import Kernel, Machine, counting

PAGE = 4096
PAGES = 12


def process(version="v6.19", cpus=1):
    """A process with twelve pages of code that it may not write, and their address."""
    machine = Machine(cpus, "neoverse-v2")
    one = Kernel(machine, version).spawn()
    return one, one.mmap(PAGES * PAGE, "rx", addr=1 << 32, fixed=True)


def vmas(one, a):
    """How many VMAs map the twelve pages."""
    return sum(a <= vma.start < a + PAGES * PAGE for vma in one.mm.vmas)


def toggle(one, at):
    """Write one page of code, as a JIT compiler does."""
    one.mprotect(at, PAGE, "rw")
    one.write(at, 1)
    one.mprotect(at, PAGE, "rx")


@given(st.permutations(range(PAGES)))
def test_pages_that_are_toggled_one_by_one_end_in_one_vma(order):
    """In whatever order: each takes the anon_vma of a neighbour that fits."""
    one, a = process()
    for page in order:
        toggle(one, a + page * PAGE)
    families = {
        vma.anon_vma for vma in one.mm.vmas if a <= vma.start < a + PAGE * PAGES
    }
    # Two runs that meet late have an anon_vma each, and stay apart for good.
    assert vmas(one, a) == len(families)


@pytest.mark.parametrize("version", ["v6.17", "v6.19"])
def test_toggling_in_order_leaves_one_vma_and_so_one_flush(version):
    """A later mprotect of all of them is one call of one VMA, with one range flush."""
    one, a = process(version)
    for page in range(PAGES):
        toggle(one, a + page * PAGE)
    assert vmas(one, a) == 1
    with counting(one._kernel.machine) as counts:
        one.mprotect(a, PAGES * PAGE, "r")
    assert dict(counts.tlbi) == {"RVALE1IS": 1}


def test_a_vma_of_a_child_gives_no_neighbour_its_anon_vma():
    """It leads to the parent's pages, which the neighbour's own would join."""
    one, a = process(cpus=2)
    one.mprotect(a, PAGE, "rw")
    one.write(a, 1)
    child = one.fork(cpu=1)
    inherited = child.mm.vmas[1].anon_vma
    child.mprotect(a + PAGE, PAGE, "rw")
    child.write(a + PAGE, 2)
    own = next(vma for vma in child.mm.vmas if vma.start <= a + PAGE < vma.end)
    assert own.anon_vma is not inherited
    assert own.anon_vma.root is own.anon_vma
