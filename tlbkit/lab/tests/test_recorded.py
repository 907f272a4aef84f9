"""A recorded scenario does what the same scenario does when it is counted."""

import pytest

from tlbkit import Kernel, Machine, lab
from tlbkit.lab.recorded import mapped_pages, recorded

PAGE = 4096


@pytest.mark.parametrize("name", ["mprotect", "fork-reuse", "move", "unmap"])
@pytest.mark.parametrize("kernel", ["v6.17", "v6.19"])
def test_the_same_is_issued(name, kernel):
    """As many TLBIs of each kind and as many DSBs are recorded as are counted."""
    scenario, variant = lab.find(name), lab.Variant(kernel)
    tape = recorded(scenario, {"pages": 4}, variant)
    counts = lab.run(scenario, {"pages": 4}, variant).counts
    issued = [step.about[0] for step in tape.steps if step.kind == "tlbi"]
    assert {one: issued.count(one) for one in issued} == dict(counts.tlbi)
    waits = [step.about for step in tape.steps if step.kind == "dsb"]
    assert {one: waits.count(one) for one in waits} == dict(counts.dsb)


def test_pages_are_those_that_processes_map():
    """Every page of a mapping is watched, a huge one by its first address."""
    kernel = Kernel(Machine(1))
    process = kernel.spawn()
    address = process.mmap(3 * PAGE, "rw")
    process.write(address, 1)
    found = mapped_pages(kernel)
    assert {address + page * PAGE for page in range(3)} <= set(found)
    assert list(found) == sorted(found)
