"""A table that may have gone: mm/pgtable-generic.c."""

from __future__ import annotations

import pytest

from tlbkit import Kernel, Machine
from tlbkit.arm64.events import Event

PAGE = 4096
HUGE = 2 << 20


@pytest.fixture(name="kernel")
def _kernel():
    return Kernel(Machine(cpus=2), "v6.19")


def _aligned(process, size=2 * HUGE):
    return (process.mmap(size) + HUGE - 1) & -HUGE


def _lookups(kernel, mm, pmdp, address):
    """Return what the three forms that only look answer."""
    maps = kernel.pgtable_generic
    return (
        maps.pte_offset_map(pmdp, address),
        maps.pte_offset_map_ro_nolock(mm, pmdp, address),
        maps.pte_offset_map_rw_nolock(mm, pmdp, address),
        maps.pte_offset_map_lock(mm, pmdp, address),
    )


def test_an_entry_without_a_table_has_no_pte(kernel):
    """No form finds a PTE below an empty entry, and none keeps a lock."""
    process = kernel.spawn()
    address = _aligned(process)
    pmdp = kernel.memory.pmd_alloc(process.mm, address)
    assert _lookups(kernel, process.mm, pmdp, address) == (None,) * 4


def test_a_huge_entry_has_no_pte(kernel):
    """No form finds a PTE below an entry that maps a huge page."""
    kernel.huge_memory.enabled = "always"
    process = kernel.spawn()
    address = _aligned(process)
    process.write(address, 1)
    pmdp = kernel.pgtable.find_pmd(process.mm, address)
    assert _lookups(kernel, process.mm, pmdp, address) == (None,) * 4


def test_all_forms_find_the_same_pte(kernel):
    """Where there is a table, all forms agree on the PTE, its PTL and the entry."""
    process = kernel.spawn()
    address = _aligned(process) + 5 * PAGE
    process.write(address, 1)
    pmdp = kernel.pgtable.find_pmd(process.mm, address)
    place, read_only, writing, locked = _lookups(kernel, process.mm, pmdp, address)
    ptl = locked[1]
    assert read_only == locked == (place, ptl)
    assert writing == (place, kernel.pgtable.read(pmdp), ptl)
    assert ptl.held
    ptl.release()


def test_a_table_that_changes_before_it_is_locked_is_looked_for_again(kernel):
    """If the entry changes until the PTL is had, the answer is for the new entry."""
    process = kernel.spawn()
    address = _aligned(process)
    process.write(address, 1)
    pmdp = kernel.pgtable.find_pmd(process.mm, address)
    pmd = kernel.pgtable.read(pmdp)
    ptl = kernel.memory.pte_lockptr(pmd)

    def unhook(event):
        if event.what is ptl and event.new == "acquired":
            kernel.machine.memory.write(pmdp, 0)

    kernel.machine.events.listen(unhook, ["lock"])
    found = kernel.pgtable_generic.pte_offset_map_lock(process.mm, pmdp, address)
    kernel.machine.events.leave(unhook)
    kernel.machine.memory.write(pmdp, pmd)
    assert found is None
    assert ptl.holder is None


def test_the_lock_of_a_huge_entry(kernel):
    """`pmd_trans_huge_lock` keeps the PTL of a huge entry, and of no other."""
    process = kernel.spawn()
    address = _aligned(process)
    process.write(address, 1)
    pmdp = kernel.pgtable.find_pmd(process.mm, address)
    vma = kernel.vma.vma_lookup(process.mm, address)
    huge = kernel.huge_memory
    assert huge.pmd_trans_huge_lock(pmdp, vma) is None
    assert huge.pmd_trans_huge_lock_(pmdp, vma) is None
    assert not kernel.memory.pmd_lockptr(pmdp).held
    huge.enabled = "always"
    address = _aligned(process)
    process.write(address, 1)
    pmdp = kernel.pgtable.find_pmd(process.mm, address)
    ptl = huge.pmd_trans_huge_lock(pmdp, vma)
    assert ptl is kernel.memory.pmd_lockptr(pmdp)
    assert ptl.held
    ptl.release()


def test_a_fault_beside_one_that_maps_a_huge_page_is_tried_again(kernel):
    """A fault whose table was never made, because a huge page came first, repeats."""
    process = kernel.spawn(0)
    thread = process.thread(1)
    machine = kernel.machine
    address = _aligned(process)
    beside: list[Event] = []

    def meet(event):
        if beside or event.cpu:
            return
        beside.append(event)
        kernel.huge_memory.enabled = "always"
        running = machine.running
        thread.write(address + 5 * PAGE, 2)
        machine.running = running

    # The first fault may have no huge page; the second meets it as it allocates.
    kernel.huge_memory.enabled = "never"
    machine.events.listen(meet, ["alloc"])
    process.write(address, 1)
    assert beside
    assert (process.read(address), process.read(address + 5 * PAGE)) == (1, 2)
