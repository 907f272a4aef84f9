"""A kernel owns its machine: kernel/kernel.py."""

import pytest

from tlbkit import Kernel, Machine
from tlbkit.linux.kernel.kernel import MachineTakenError


@pytest.mark.parametrize("second", ["v6.17", "v6.19"])
def test_two_kernels_on_one_machine_are_refused_by_name(second):
    """The second is refused, is told what to do, and leaves the first as it was."""
    machine = Machine()
    first = Kernel(machine, "v6.17")
    process = first.spawn()
    address = process.mmap(4096)
    process.write(address, 1)
    in_use = first.page_alloc.in_use
    with pytest.raises(
        MachineTakenError, match=r"v6\.17.*a Machine for each"
    ) as caught:
        Kernel(machine, second)
    assert caught.value.kernel is first
    assert machine.software is first
    assert first.page_alloc.in_use == in_use
    assert process.read(address) == 1


def test_two_kernels_on_two_machines_do_not_meet():
    """What one process wrote, no process of the other kernel reads."""
    kernels = [Kernel(Machine(), name) for name in ("v6.17", "v6.19")]
    processes = [kernel.spawn() for kernel in kernels]
    addresses = [process.mmap(4096) for process in processes]
    for value, (process, address) in enumerate(zip(processes, addresses, strict=True)):
        process.write(address, value + 1)
    assert [p.read(a) for p, a in zip(processes, addresses, strict=True)] == [1, 2]
