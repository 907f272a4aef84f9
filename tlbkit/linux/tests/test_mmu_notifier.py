"""Which ranges secondary TLBs are told of: mm/mmu_notifier.c and its callers."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from tlbkit import Kernel, Machine
from tlbkit.linux.include.linux.mm import ULONG_MAX

PAGE = 4096
HUGE = 2 << 20
GIB = 1 << 30
TOP = 512 * GIB
BASE = 1 << 40


class Told(NamedTuple):
    """A range that was announced: why, and where, counted from `BASE`."""

    why: str
    start: int
    end: int


def _told(call, *, touch=(0,), size=4 * HUGE, huge=False, setup=None):
    """Return what is announced while *call* runs on a process that touched pages."""
    kernel = Kernel(Machine(cpus=1), "v6.19")
    process = kernel.spawn()
    process.mmap(size, addr=BASE, fixed=True)
    kernel.huge_memory.enabled = "always" if huge else "never"
    for offset in touch:
        process.write(BASE + offset, 1)
    if setup is not None:
        setup(process)
    told: list[Told] = []
    open_ = []

    def hear(event):
        start, end = event.what
        end = end if end == ULONG_MAX else end - BASE
        one = Told(event.why, start - BASE if start else 0, end)
        if event.old == "start":
            told.append(one)
            open_.append(one)
        else:
            assert open_.pop() == one

    kernel.machine.events.listen(hear, ["notifier range"])
    call(process)
    assert not open_
    return told


@pytest.mark.parametrize(
    ("touch", "told"),
    [
        ((HUGE,), [(0, 2 * HUGE)]),
        ((0,), [(0, 2 * HUGE)]),
        ((3 * HUGE,), [(0, 2 * HUGE)]),
        ((), []),
    ],
)
def test_mprotect_announces_from_the_first_pud_that_is_not_empty(touch, told):
    """A call announces one range, to its end, if there is a PMD table at all."""
    heard = _told(lambda p: p.mprotect(BASE, 2 * HUGE, "r"), touch=touch)
    assert heard == [Told("PROTECTION_VMA", *one) for one in told]


def test_mprotect_begins_at_a_pud_and_is_announced_anew_for_each_pgd_entry():
    """An empty PUD in front is stepped over, and each entry of the PGD has a range."""
    size = TOP + 3 * GIB
    heard = _told(
        lambda p: p.mprotect(BASE, size, "r"),
        size=size,
        touch=(2 * GIB + PAGE, TOP + GIB),
    )
    assert heard == [
        Told("PROTECTION_VMA", 2 * GIB, TOP),
        Told("PROTECTION_VMA", TOP + GIB, size),
    ]


def test_munmap_announces_one_range_for_all_its_vmas():
    """However many VMAs a call unmaps, and whether they touch, it announces once."""

    def cut(process):
        process.mprotect(BASE + PAGE, PAGE, "r")
        process.munmap(BASE + 3 * PAGE, PAGE)

    heard = _told(
        lambda p: p.munmap(BASE, 6 * PAGE), touch=(0, PAGE, 4 * PAGE), setup=cut
    )
    assert heard == [Told("UNMAP", 0, 6 * PAGE)]


def test_exit_announces_the_whole_address_space():
    """When a process ends, one range is announced that has no end."""
    heard = _told(lambda p: p.exit())
    assert heard == [Told("UNMAP", 0, ULONG_MAX)]


def test_fork_announces_a_private_vma_whole():
    """A fork announces each VMA whose entries it may write-protect, as a whole."""
    heard = _told(lambda p: p.fork(), touch=(HUGE,))
    assert heard == [Told("PROTECTION_PAGE", 0, 4 * HUGE)]


def test_a_copy_on_write_announces_its_page():
    """A write fault that copies announces the page."""
    heard = _told(
        lambda p: p.write(BASE + PAGE + 8, 2), touch=(PAGE,), setup=lambda p: p.fork()
    )
    assert heard == [Told("CLEAR", PAGE, 2 * PAGE)]


@pytest.mark.parametrize("advice", ["dontneed", "free"])
def test_madvise_announces_what_it_is_given(advice):
    """MADV_DONTNEED and MADV_FREE announce the range of the call."""
    heard = _told(lambda p: p.madvise(BASE + PAGE, 3 * PAGE, advice), touch=(HUGE,))
    assert heard == [Told("CLEAR", PAGE, 4 * PAGE)]


def test_mremap_announces_the_old_place():
    """A move announces the addresses that lose their entries, once more to unmap."""
    heard = _told(
        lambda p: p.mremap(
            BASE, HUGE, HUGE, maymove=True, fixed=True, new_address=BASE + 64 * HUGE
        ),
        touch=(0,),
    )
    assert heard == [Told("UNMAP", 0, HUGE), Told("UNMAP", 0, HUGE)]


def test_a_split_announces_the_huge_page():
    """To split a PMD entry announces all that it maps, inside of the call's range."""
    heard = _told(
        lambda p: p.mprotect(BASE + 5 * PAGE, PAGE, "r"), touch=(0,), huge=True
    )
    assert heard == [
        Told("CLEAR", 0, HUGE),
        Told("PROTECTION_VMA", 5 * PAGE, 6 * PAGE),
    ]
