"""Insertions of blocks before and after their common halves: the same, but for two."""

from itertools import product

import pytest

from tlbkit.lab.insert import AFTER, BEFORE, COMMIT, EXISTING, INSIDE, Place
from tlbkit.linux.include.linux.mm import (
    VM_FAULT_NOPAGE,
    VM_FAULT_OOM,
    VM_FAULT_SIGBUS,
)
from tlbkit.linux.include.linux.mm_types import Folio
from tlbkit.linux.kernel.locking import LockError
from tlbkit.linux.mm.pgtable_generic import PgtableGeneric
from tlbkit.linux.tests.support import boot
from tlbkit.patches.insert_pmd import HugeMemoryBefore

PFN, FOLIO, WRONG = "pfn", "folio", "folio of another order"
SPACE = list(
    product(
        (PFN, FOLIO, WRONG),
        (INSIDE, BEFORE, AFTER),
        (False, True),  # the architecture wants a table in store
        (False, True),  # there is memory for it
        EXISTING,
        (False, True),  # the access is a write
        (False, True),  # VM_WRITE
    )
)


class Outcome:
    """What one insertion answered, changed, and did besides."""

    def __init__(self, level, case, *, before, lookups):
        what, where, deposit, memory, existing, write, vm_write = case
        looked_up = len(lookups)
        place = Place(
            boot(
                "fixed",
                cpus=1,
                without=(COMMIT[level],) if before else (),
                rules=False,  # entries are laid by hand
            ),
            existing,
            deposit=deposit,
            vm_write=vm_write,
            level=level,
        )
        vma = place.vma
        address = vma.start
        if where == BEFORE:
            vma.start += place.pgtable.page_size
            address = vma.start
        elif where == AFTER:
            address = vma.end
        kernel = place.kernel
        kernel.page_alloc.fail = None if memory else lambda: True
        frames: dict[str, Folio | int] = {
            PFN: place.folio.pfn,
            FOLIO: place.folio,
            WRONG: place.wrong,
        }
        self.answer = place.insert(frames[what], write=write, address=address)
        self.state = place.state()
        self.lookups = len(lookups) - looked_up
        self.warnings = list(kernel.panic.warnings)
        lock = kernel.memory.pud_lockptr(place.mm)
        if level == "pmd":
            lock = kernel.memory.pmd_lockptr(place.entryp)
        self.locked = lock.holder is not None


@pytest.fixture(scope="module")
def lookups():
    """The frames whose memory type was looked up.

    The method is replaced once: each time costs a walk over all kernels ever built.
    """
    frames = []

    def noted(pfn, prot):
        frames.append(pfn)
        return prot

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PgtableGeneric, "pfnmap_setup_cachemode_pfn", staticmethod(noted))
        yield frames


@pytest.fixture(scope="module", params=["pmd", "pud"])
def outcomes(request, lookups):
    """Each input with what came of it before the commit and after."""
    return [
        (
            case,
            Outcome(request.param, case, before=True, lookups=lookups),
            Outcome(request.param, case, before=False, lookups=lookups),
        )
        for case in SPACE
    ]


def test_old_and_new_agree_over_the_whole_space(outcomes):
    """Answer, entry, counts, tables and frames are the same at every input."""
    assert len(outcomes) == 1008
    for case, old, new in outcomes:
        assert old.answer == new.answer, case
        assert old.state == new.state, case
        assert not old.locked
        assert not new.locked


def test_a_folio_that_is_wrong_twice_warns_now(outcomes):
    """Warnings differ where order and range are both wrong, and nowhere else.

    The range was looked at first, and said nothing.
    """
    differing = 0
    for case, old, new in outcomes:
        what, where, *_ = case
        twice = what == WRONG and where != INSIDE
        assert (old.warnings != new.warnings) == twice, case
        if twice:
            assert not old.warnings
            assert len(new.warnings) == 1
            differing += 1
    assert differing == 224


def test_the_cache_mode_is_looked_up_earlier(outcomes):
    """It is looked up once more where a block of frames ends in an error."""
    differing = 0
    for case, old, new in outcomes:
        error = new.answer & (VM_FAULT_SIGBUS | VM_FAULT_OOM)
        assert new.lookups == (case[0] == PFN)
        assert new.lookups - old.lookups == bool(case[0] == PFN and error), case
        differing += new.lookups != old.lookups
    assert differing in {224 + 28, 224}


def test_out_of_memory_is_met_only_where_a_table_is_wanted(lookups):
    """arm64 stores no table for a driver's block, and cannot fail for want of one."""
    for case in SPACE:
        what, where, deposit, memory, *_ = case
        answer = Outcome("pmd", case, before=False, lookups=lookups).answer
        if where != INSIDE or what == WRONG:
            assert answer == VM_FAULT_SIGBUS
        elif deposit and not memory:
            assert answer == VM_FAULT_OOM
        else:
            assert answer == VM_FAULT_NOPAGE


def test_the_spare_table_is_stored_or_freed(lookups):
    """Tables that were allocated are in store, or have been given back."""
    for case in SPACE:
        _, _, deposit, memory, existing, _, _ = case
        for before in (False, True):
            done = Outcome("pmd", case, before=before, lookups=lookups)
            mapped = existing == "none" and done.answer == VM_FAULT_NOPAGE
            stored = int(mapped and deposit and memory)
            assert done.state["deposited"] == stored
            assert done.state["nr_ptes"] == stored


def test_the_old_half_relied_on_its_caller_s_lock():
    """insert_pmd() of v6.17 complains if the table is not locked."""
    place = Place(boot("v6.17", cpus=1, rules=False))
    huge = place.kernel.huge_memory
    assert isinstance(huge, HugeMemoryBefore)
    with pytest.raises(LockError, match="must be held"):
        huge.insert_pmd(
            place.vma, place.vma.start, place.entryp, place.folio, 0, None, write=False
        )
