"""The PTE twin of inserting a block: vmf_insert_page_mkwrite()."""

import pytest

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pte_dirty,
    pte_mkclean,
    pte_none,
    pte_write,
    pte_wrprotect,
    pte_young,
)
from tlbkit.linux.include.linux.mm import (
    VM_FAULT_NOPAGE,
    VM_FAULT_OOM,
    VM_FAULT_SIGBUS,
    VM_SHARED,
    VM_WRITE,
    VmOperations,
)
from tlbkit.linux.include.linux.mm_types import AnonVma, VmFault
from tlbkit.linux.kernel.locking import RwSemaphore
from tlbkit.linux.tests.support import boot

BOTH = pytest.mark.parametrize("write", [False, True])


class Told(VmOperations):
    """An owner that hears of writes."""

    __slots__ = ()
    dax = True

    def pfn_mkwrite(self, vmf):
        """Be told."""
        del vmf
        return 0


class Scene:
    """An area of a page whose owner inserts pages."""

    def __init__(self, *, vm_write=True):
        self.kernel = boot("fixed", cpus=1)
        self.process = self.kernel.spawn()
        self.base = self.process.mmap(4096, shared=True)
        self.vma = self.kernel.vma.vma_lookup(self.process.mm, self.base)
        self.vma.ops = Told()
        if not vm_write:
            self.vma.flags &= ~VM_WRITE
        self.kernel.vma.vma_set_page_prot(self.vma)
        self.folio = self.kernel.page_alloc.alloc_zeroed()

    def insert(self, pfn=None, *, write=False, address=None):
        """Insert a page; the answer."""
        at = address or self.base
        vmf = VmFault(self.vma, at, at, int(write))
        insert = self.kernel.memory.vmf_insert_page_mkwrite
        return insert(vmf, self.folio.pfn if pfn is None else pfn, write=write)

    @property
    def ptep(self):
        """Where the entry stands."""
        return self.kernel.pgtable.find_pte(self.process.mm, self.base)

    @property
    def pte(self):
        """What it says; 0 without a table."""
        return self.kernel.pgtable.read(self.ptep) if self.ptep else 0


@BOTH
@pytest.mark.parametrize("vm_write", [False, True])
def test_a_page_is_counted_and_written_only_by_a_write(write, vm_write):
    """One reference, one mapping; dirty and writable as access and area say."""
    scene = Scene(vm_write=vm_write)
    assert scene.insert(write=write) == VM_FAULT_NOPAGE
    assert (scene.folio.refcount, scene.folio.mapcount) == (2, 1)
    assert scene.process.mm.filepages == 1
    assert pte_dirty(scene.pte) == write
    assert pte_write(scene.pte) == (write and vm_write)


def test_a_second_read_changes_nothing():
    """Something is there: the access may be repeated."""
    scene = Scene()
    scene.insert()
    before = scene.pte
    other = scene.kernel.page_alloc.alloc_zeroed()
    assert scene.insert() == scene.insert(other.pfn) == VM_FAULT_NOPAGE
    assert scene.pte == before
    assert (scene.folio.mapcount, other.mapcount) == (1, 0)


def test_a_write_over_the_same_page_gives_rights_but_no_dirty_mark():
    """A block's entry would become dirty here; a page's does not."""
    scene = Scene()
    scene.insert()
    clean = pte_mkclean(pte_wrprotect(scene.pte))
    scene.kernel.machine.memory.write(scene.ptep, clean)
    assert scene.insert(write=True) == VM_FAULT_NOPAGE
    assert pte_write(scene.pte)
    assert pte_young(scene.pte)
    assert not pte_dirty(scene.pte)
    assert scene.folio.mapcount == 1


@pytest.mark.parametrize("zero", [False, True])
def test_a_write_over_another_page_is_an_error(zero):
    """With a warning, unless it is the zero page that is there."""
    scene = Scene()
    other = scene.kernel.page_alloc.alloc_zeroed()
    scene.insert(scene.kernel.zero_pfn if zero else other.pfn)
    before = scene.pte
    assert scene.insert(write=True) == VM_FAULT_SIGBUS
    assert scene.pte == before
    assert len(scene.kernel.panic.warnings) == (not zero)


@BOTH
def test_the_zero_page_is_marked_uncounted_and_never_written(write):
    """A write is not heeded: the entry stays read-only."""
    scene = Scene()
    assert scene.insert(scene.kernel.zero_pfn, write=write) == VM_FAULT_NOPAGE
    assert scene.kernel.pgtable.pte_special(scene.pte)
    assert not pte_write(scene.pte)
    assert scene.process.mm.filepages == 0


def test_the_zero_page_goes_only_where_its_end_is_noticed():
    """A shared, writable area whose owner is not told of writes gets none."""
    scene = Scene()
    scene.vma.ops = VmOperations()
    assert scene.insert(scene.kernel.zero_pfn) == VM_FAULT_SIGBUS
    scene.vma.flags &= ~VM_SHARED
    assert scene.insert(scene.kernel.zero_pfn) == VM_FAULT_NOPAGE


def test_what_nobody_holds_or_is_anonymous_is_refused():
    """Neither a free page, nor one of no memory, nor private memory."""
    scene = Scene()
    scene.folio.refcount = 0
    assert scene.insert() == VM_FAULT_SIGBUS
    assert scene.insert(1 << 30) == VM_FAULT_SIGBUS
    scene.folio.refcount = 1
    scene.folio.mapping = AnonVma(RwSemaphore(scene.kernel.machine, "anon_vma"))
    assert scene.insert() == VM_FAULT_SIGBUS
    assert pte_none(scene.pte)


def test_range_and_memory_are_looked_at():
    """Outside the area is SIGBUS; no memory for a table is OOM."""
    scene = Scene()
    assert scene.insert(address=scene.vma.end) == VM_FAULT_SIGBUS
    scene.kernel.page_alloc.fail = lambda: True
    assert scene.insert() == VM_FAULT_OOM
    scene.kernel.page_alloc.fail = None
    assert scene.folio.mapcount == 0
