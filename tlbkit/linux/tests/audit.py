"""The books of a kernel, done again from its page tables and compared with its own."""

from collections import Counter

from tlbkit.linux.arch.arm64.include.asm.pgtable import (
    pmd_table,
    pmd_trans_huge,
    pte_cont,
    pte_mkclean,
    pte_mkold,
    pte_none,
    pte_present,
    pte_special,
    pte_valid_cont,
    pte_write,
)
from tlbkit.linux.include.linux.fs import File, Inode
from tlbkit.linux.include.linux.mm_types import (
    ENTIRELY_MAPPED,
    Folio,
    LargeFolio,
    MmStruct,
    PG_locked,
    PG_swapbacked,
    PG_swapcache,
    VmArea,
)
from tlbkit.linux.include.linux.swapops import (
    SwpEntry,
    non_swap_entry,
    pte_swp_exclusive,
    pte_to_swp_entry,
)
from tlbkit.observe import sanitizer

BOOT_FRAMES = 2


class Books:
    """Every entry of every address space of *kernel*, sorted by what it maps."""

    def __init__(self, kernel):
        self.kernel = kernel
        self.pgtable = kernel.pgtable
        self.by_page: dict[int, list[tuple[MmStruct, int]]] = {}
        self.by_block: dict[int, list[tuple[MmStruct, int]]] = {}
        self.by_slot: Counter[SwpEntry] = Counter()
        self.exclusive_slots: set[SwpEntry] = set()
        self.folios: dict[int, Folio] = {}
        self.owners: dict[int, Counter[MmStruct]] = {}
        for mm in kernel.fork.mmlist:
            self._read(mm)

    def _read(self, mm):
        pgtable = self.pgtable
        pages: Counter[str] = Counter()
        tables = leaves = 0
        stores = set()
        huge = self.kernel.huge_memory
        for pmdp, addr, _ in self.kernel.memory.pmd_entries(mm, 0, pgtable.task_size):
            stores.add(pmdp & pgtable.page_mask)
            pmd = pgtable.read(pmdp)
            if pmd_trans_huge(pmd):
                vma = self.kernel.vma.vma_lookup(mm, addr)
                leaves += vma is not None and vma.anonymous
                if not (pte_special(pmd) or huge.is_huge_zero_pmd(pmd)):
                    self._note(self.by_block, mm, pmd)
                    pages[self._kind(pmd)] += pgtable.hpage_pmd_nr
            elif pmd_table(pmd):
                tables += 1
                pages += self._read_table(mm, pgtable.pte_pfn(pmd))
        stored = sum(map(self.kernel.pgtable_generic.deposited, stores))
        assert stored == leaves, "every anonymous block keeps one table"
        assert mm.pgtables[3] == tables + stored, "nr_ptes"
        resident = (mm.anonpages, mm.filepages, mm.shmempages, mm.swapents)
        counted = (pages["anon"], pages["file"], pages["shmem"], pages["swap"])
        assert resident == counted, "the resident set"

    def _read_table(self, mm, pfn):
        pgtable = self.pgtable
        entries = self.kernel.machine.memory.frame(pfn)
        pages: Counter[str] = Counter()
        for place, pte in enumerate(entries):
            if pte_present(pte) and not pte_special(pte):
                self._note(self.by_page, mm, pte)
                pages[self._kind(pte)] += 1
            elif not pte_none(pte) and not pte_present(pte):
                self._note_swapped(pte)
                pages["swap"] += 1
            if pte_valid_cont(pte):
                self._check_block(entries, place - place % pgtable.cont_ptes)
        return pages

    def _kind(self, entry):
        """Which counter of the resident set a page is in."""
        folio = self.kernel.page_alloc.folio_of(self.pgtable.pte_pfn(entry))
        if folio.anon:
            return "anon"
        return "shmem" if folio.flags & PG_swapbacked else "file"

    def _note_swapped(self, pte):
        """What is not there is in swap, and nothing is on its way."""
        entry = pte_to_swp_entry(pte)
        assert not non_swap_entry(entry)
        self.by_slot[entry] += 1
        if pte_swp_exclusive(pte):
            self.exclusive_slots.add(entry)

    def _note(self, entries, mm, entry):
        pfn = self.pgtable.pte_pfn(entry)
        folio = self.kernel.page_alloc.folio_of(pfn)
        self.folios[folio.pfn] = folio
        entries.setdefault(pfn, []).append((mm, entry))
        self.owners.setdefault(folio.pfn, Counter())[mm] += 1

    def _check_block(self, entries, first):
        """A contiguous block is whole and alike: consecutive frames of one folio."""
        step = self.pgtable.page_size
        block = entries[first : first + self.pgtable.cont_ptes]
        alike = [pte_mkold(pte_mkclean(pte)) - n * step for n, pte in enumerate(block)]
        assert len(set(alike)) == 1
        assert all(map(pte_cont, block))
        frame = self.pgtable.pte_pfn(block[0])
        folio = self.kernel.page_alloc.folio_of(frame)
        assert frame % self.pgtable.cont_ptes == 0
        assert folio is self.kernel.page_alloc.folio_of(frame + len(block) - 1)

    def check_folio(self, folio):
        """Mapcounts, references and marks of a folio are what its entries make them."""
        maps = [self.by_page.get(folio.pfn + n, []) for n in range(folio.nr_pages)]
        blocks = self.by_block.get(folio.pfn, [])
        assert folio.mapcount == sum(map(len, maps)) + len(blocks)
        file = not folio.anon and folio.mapping is not None
        cached = folio.nr_pages * (file or bool(folio.flags & PG_swapcache))
        assert folio.refcount == folio.mapcount + cached, "entries and caches"
        for n, entries in enumerate(maps):
            everyone = entries + blocks
            if not everyone or not folio.anon:
                continue
            mark = folio.page_exclusive(folio.pfn + (0 if blocks else n))
            if mark:
                assert len(everyone) == 1, "AnonExclusive: one entry maps the page"
            if any(pte_write(entry) for _, entry in everyone):
                assert mark, "only an exclusive page is writable"
        if isinstance(folio, LargeFolio):
            self._check_large(folio, maps, blocks)

    def _check_large(self, folio, maps, blocks):
        assert folio.entire_mapcount == len(blocks)
        mapped = sum(map(bool, maps))
        if self.kernel.config.page_mapcount:
            assert list(folio.page_mapcount) == list(map(len, maps))
            assert folio.nr_pages_mapped == mapped + bool(blocks) * ENTIRELY_MAPPED
        owners = self.owners[folio.pfn]
        for mm, count in zip(folio.mm_id, folio.mm_id_mapcount, strict=True):
            assert count <= (owners[mm] if mm is not None else 0)
        if not folio.maybe_mapped_shared:
            assert len(owners) <= 1, "a folio that is not shared has one owner"
        if folio.anon and folio.order >= 2 and not blocks and mapped < folio.nr_pages:
            assert folio.partially_mapped
        assert folio.deferred_split == (
            folio in self.kernel.huge_memory.deferred_split_queue
        )

    def check_statistics(self):
        """Pages of anonymous memory that are mapped, and by blocks, are counted once.

        Without counts for pages, a folio of which anything is mapped counts whole.
        """
        exact = self.kernel.config.page_mapcount
        mapped = blocks = 0
        anonymous = [folio for folio in self.folios.values() if folio.anon]
        for folio in anonymous:
            if folio.pfn in self.by_block:
                blocks += folio.nr_pages
                mapped += folio.nr_pages
            elif exact:
                mapped += sum(
                    folio.pfn + n in self.by_page for n in range(folio.nr_pages)
                )
            elif folio.mapcount:
                mapped += folio.nr_pages
        node = self.kernel.vmstat.node
        assert (node["NR_ANON_MAPPED"], node["NR_ANON_THPS"]) == (mapped, blocks)
        large = Counter(folio.order for folio in anonymous if folio.order)
        assert {o: n for o, n in self.kernel.vmstat.mthp_nr_anon.items() if n} == large

    def check_swap(self):
        """Slots are counted by their entries, and know the folio that has them.

        A slot that one process has alone stands in one entry, and is not mapped.
        """
        kernel = self.kernel
        state = kernel.swap_state
        counted: dict[SwpEntry, int] = {}
        cached = set()
        for device in kernel.swapfile.devices:
            for offset, count in device.swap_map.items():
                counted[SwpEntry(device.type, offset)] = count
                assert count or offset in device.cached, "a slot that nobody has"
            assert device.cached <= device.swap_map.keys()
            assert device.contents.keys() <= device.swap_map.keys()
            cached |= {SwpEntry(device.type, offset) for offset in device.cached}
        assert {entry: n for entry, n in counted.items() if n} == self.by_slot
        assert cached == state.folios.keys()
        for entry, folio in state.folios.items():
            assert folio.flags & PG_swapcache
            page = entry.offset - state.page_swap_entry(folio, folio.pfn).offset
            assert 0 <= page < folio.nr_pages
            assert not folio.flags & PG_locked
            self.folios[folio.pfn] = folio
            self.owners.setdefault(folio.pfn, Counter())
        for entry in self.exclusive_slots:
            assert counted[entry] == 1
            held = state.folios.get(entry)
            if held is not None:
                first = state.page_swap_entry(held, held.pfn).offset
                assert held.pfn + entry.offset - first not in self.by_page

    def add_page_cache(self):
        """Each page of a file that is in memory stands where it says it does."""
        for inode in self.kernel.file_table.inodes:
            for index, folio in inode.mapping.pages.items():
                assert folio.mapping is inode.mapping
                assert 0 <= index - folio.index < folio.nr_pages
                assert not folio.flags & PG_locked
                self.folios[folio.pfn] = folio
                self.owners.setdefault(folio.pfn, Counter())

    def check_files(self):
        """Files know the areas that map them, and who holds them."""
        files: Counter[File] = Counter()
        areas: dict[Inode, set[VmArea]] = {}
        for mm in self.kernel.fork.mmlist:
            for vma in mm.vmas:
                if vma.file is not None:
                    files[vma.file] += 1
                    areas.setdefault(vma.file.inode, set()).add(vma)
        for process in self.kernel.processes:
            files.update(process.open_files.values())
        for file, holders in files.items():
            assert file.count == holders, file
        users = Counter(file.inode for file in files)
        for inode in self.kernel.file_table.inodes:
            assert inode.count == users[inode]
            assert set(inode.mapping.i_mmap) == areas.get(inode, set())


def audit(kernel):
    """Hold the laws of mapcounts, stores, blocks and frames; nobody pins anything."""
    kernel.swap.lru_add_drain_all()
    books = Books(kernel)
    books.add_page_cache()
    books.check_swap()
    books.check_files()
    for folio in books.folios.values():
        books.check_folio(folio)
    books.check_statistics()
    huge = kernel.huge_memory
    holders = sum(mm.huge_zero for mm in kernel.fork.mmlist)
    assert holders == 0 or huge.huge_zero_folio is not None
    zero = huge.huge_zero_folio.nr_pages if huge.huge_zero_folio else 0
    tables = sum(sum(mm.pgtables) + 1 for mm in kernel.fork.mmlist)
    pages = sum(folio.nr_pages for folio in books.folios.values())
    assert kernel.page_alloc.in_use == BOOT_FRAMES + tables + pages + zero, "a leak"


def audit_tlbs(kernel):
    """No CPU holds a translation that the tables do not give, with those rights."""
    sanitizer.audit(kernel)


def all_frames(kernel):
    """What is in use once all processes are gone and the shrinker has run."""
    kernel.swap.lru_add_drain_all()
    kernel.huge_memory.shrink_huge_zero_folio_scan()
    return kernel.page_alloc.in_use


def entries(kernel, process, start, pages):
    """The page entries of a range, as they stand."""
    pgtable = kernel.pgtable
    places = (
        pgtable.find_pte(process.mm, start + n * pgtable.page_size)
        for n in range(pages)
    )
    return [0 if place is None else pgtable.read(place) for place in places]


def contiguous(kernel, process, start, pages):
    """Which entries of a range belong to a contiguous block."""
    return [pte_cont(pte) for pte in entries(kernel, process, start, pages)]
