"""What the tests of userfaultfd share: layouts of pages, and laws that always hold."""

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pte_mkclean,
    pte_mkuffd_wp,
    pte_present,
)
from tlbkit.linux.arch.arm64.include.asm.pgtable_hwdef import PTE_SWP_EXCLUSIVE
from tlbkit.linux.include.linux.mm_types import AnonVma, PG_locked
from tlbkit.linux.include.linux.swapops import (
    PTE_MARKER_UFFD_WP,
    make_migration_pte,
    make_pte_marker,
)
from tlbkit.linux.tests.support import boot


class Scene:
    """A process with a source and a watched destination, page by page as asked.

    Args:
        version: Name of the kernel.
        source: One letter for each page of the source: ``p`` present, written and the
            process's own; ``c`` the same, clean; ``z`` the zero page; ``.`` nothing;
            ``s`` shared with a child that lives; ``P`` pinned; ``L`` somebody's lock;
            ``a`` of another anon_vma; ``u`` protected by userfaultfd; ``w`` in swap;
            ``W`` in swap and shared; ``m`` a marker; ``g`` migrating.
        target: The same of the destination, which is missing where this is shorter.
        gap: Pages by which the destination lies off a table's beginning.
        machine: Of `boot`.
    """

    def __init__(self, version, source, target="", *, gap=0, **machine):
        self.kernel = boot(version, **machine)
        self.kernel.swapfile.swapon(1024)
        self.page = self.kernel.pgtable.page_size
        self.process = self.kernel.spawn()
        table = self.kernel.pgtable.pmd_size
        self.length = len(source) * self.page
        pages = max(len(source), len(target), 1) + gap
        room = -(-pages * self.page // table) * table
        self.src = self.process.mmap(room)
        self.dst = self.process.mmap(room) + gap * self.page
        self.child = None
        self.pinned = []
        self._write("s", self.src, source)
        self._write("s", self.dst, target)
        if "s" in source + target:
            self.child = self.process.fork()
        self.fd = self.process.userfaultfd()
        for base, layout in ((self.src, source), (self.dst, target)):
            self._write("pcPLaug", base, layout)
            for index, letter in enumerate(layout):
                self._make(letter, base + index * self.page)
        self.fd.register(self.dst - gap * self.page, room, missing=True, wp=True)

    def _write(self, letters, base, layout):
        offset = 1000 * (base != self.src)
        for index, letter in enumerate(layout):
            if letter in letters:
                at = base + index * self.page
                self.process.write(at, offset + index + 1, cpu=index % self.cpus)

    def _make(self, letter, at):
        if letter == "z":
            self.process.read(at)
        elif letter in "cu":
            how = pte_mkclean if letter == "c" else pte_mkuffd_wp
            self.set_pte(at, how(self.pte(at)))
            self.kernel.tlbflush.flush_tlb_mm(self.process.mm)
        elif letter == "P":
            self.pinned.append(self.folio(at))
            self.kernel.gup.try_grab_folio(self.folio(at))
        elif letter == "L":
            self.folio(at).flags |= PG_locked
        elif letter == "a":
            self.folio(at).mapping = AnonVma(self.folio(at).mapping.lock)
        elif letter == "g":
            folio = self.folio(at)
            folio.flags |= PG_locked
            entry = make_migration_pte(self.pte(at), folio.pfn, exclusive=True)
            self.set_pte(at, entry)
            self.kernel.tlbflush.flush_tlb_mm(self.process.mm)
        elif letter in "wW":
            self.process.write(at, at)
            self.process.madvise(at, self.page, "pageout")
            self.kernel.rmap.flush_tlb_batched_pending(self.process.mm)
            if letter == "W":
                self.set_pte(at, self.pte(at) & ~PTE_SWP_EXCLUSIVE)
        elif letter == "m":
            self.process.read(at)  # makes the table
            self.set_pte(at, make_pte_marker(PTE_MARKER_UFFD_WP))
            self.kernel.tlbflush.flush_tlb_mm(self.process.mm)

    def unpin(self):
        """Let go of all pages that are pinned."""
        while self.pinned:
            self.kernel.gup.unpin_user_page(self.pinned.pop())

    @property
    def cpus(self):
        """How many CPUs there are."""
        return len(self.kernel.machine.cpus)

    def pte(self, address):
        """The entry of an address, 0 without a table."""
        ptep = self.kernel.pgtable.find_pte(self.process.mm, address)
        return 0 if ptep is None else self.kernel.pgtable.read(ptep)

    def set_pte(self, address, pte):
        """Store the entry of an address."""
        ptep = self.kernel.pgtable.find_pte(self.process.mm, address)
        self.kernel.machine.memory.write(ptep, pte)

    def folio(self, address):
        """The folio that an address is mapped to."""
        pfn = self.kernel.pgtable.pte_pfn(self.pte(address))
        return self.kernel.page_alloc.folio_of(pfn)

    def peek(self, address):
        """What an address holds, without an access: a word, or the entry if no page."""
        pte = self.pte(address)
        if not pte_present(pte):
            return ("none", pte)
        pfn = self.kernel.pgtable.pte_pfn(pte)
        return self.kernel.machine.memory.read(pfn << self.kernel.pgtable.page_shift)

    def memory(self):
        """What both ranges hold, and what the child's does."""
        pages = range(0, self.length, self.page)
        seen = [self.peek(base + at) for base in (self.src, self.dst) for at in pages]
        if self.child is not None:
            seen += [self.child.read(self.src + at) for at in pages]
        return seen

    def read_all(self):
        """Touch all that is mapped, from each CPU, so that TLBs hold it."""
        for base in (self.src, self.dst):
            for at in range(base, base + self.length, self.page):
                if pte_present(self.pte(at)):
                    for cpu in range(self.cpus):
                        self.process.read(at, cpu=cpu)


def check_end(kernel):
    """Once all processes have gone, so have all frames but those of the boot."""
    for process in tuple(kernel.processes):
        process.exit()
    kernel.swap.lru_add_drain_all()
    kernel.huge_memory.shrink_huge_zero_folio_scan()
    kernel.rcu.quiesce()
    assert kernel.page_alloc.in_use == 2
