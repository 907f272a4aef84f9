"""The kernel before the commits and the one after do the same, and flush otherwise."""

from hypothesis import given, settings
from hypothesis import strategies as st

from tlbkit.linux.include.uapi.asm_generic.errno import Signal, SystemCallError
from tlbkit.linux.tests.audit import all_frames, audit, audit_tlbs, entries
from tlbkit.linux.tests.support import PAGE, boot

HERE, THERE = 1 << 40, 2 << 40
PAGES = 560  # a table, and a part of the next

ADVICE = ("dontneed", "free", "cold", "pageout", "populate_write", "dontfork", "dofork")
RIGHTS = ("none", "r", "rw")

calls = st.lists(
    st.tuples(
        st.sampled_from(
            ["read", "write", "madvise", "mprotect", "mremap", "fork", "exit", "munmap"]
        ),
        st.integers(0, PAGES - 1),
        st.integers(1, PAGES),
        st.integers(0, 20),
    ),
    max_size=10,
)


class World:
    """One kernel, its processes, and what each call said.

    Args:
        version: Of the kernel.
        thp: Who gets blocks.
        kib: Another size of large folios that everybody gets, or 0.
    """

    def __init__(self, version, thp, kib):
        self.kernel = boot(version, cpus=2)
        self.kernel.huge_memory.enabled = thp
        if kib:
            self.kernel.huge_memory.set_hugepages_enabled(kib, "always")
        self.kernel.swapfile.swapon(300)
        first = self.kernel.spawn()
        first.mmap(PAGES * PAGE, addr=HERE, fixed=True)
        for page in range(0, PAGES, 11):
            first.write(HERE + page * PAGE, page + 1)
        self.processes = [first]
        self.said = []

    def run(self, number, call, first, count, choice):
        """Do one call, and note its result or its error."""
        process = self.processes[choice % len(self.processes)]
        process.migrate(number % 2)
        base = (HERE, THERE)[choice // 3 % 2]
        start = base + first * PAGE
        length = min(count, PAGES - first) * PAGE
        try:
            result = self._do(process, call, start, length, choice, number)
        except (SystemCallError, Signal) as error:
            result = str(error)
        self.said.append(result)

    def _do(self, process, call, start, length, choice, number):
        if call == "read":
            return process.read(start)
        if call == "write":
            return process.write(start, 1000 + number)
        if call == "madvise":
            return process.madvise(start, length, ADVICE[choice % len(ADVICE)])
        if call == "mprotect":
            return process.mprotect(start, length, RIGHTS[choice % len(RIGHTS)])
        if call == "mremap":
            to = HERE + THERE - (start - choice * PAGE)
            return process.mremap(
                start, length, length, maymove=True, fixed=True, new_address=to
            )
        if call == "munmap":
            return process.munmap(start, length)
        if call == "fork" and len(self.processes) < 3:
            self.processes.append(process.fork())
        elif call == "exit" and len(self.processes) > 1:
            self.processes.remove(process)
            process.exit()
        return None

    def books(self):
        """Every entry, count and word that user space or the kernel could ask for."""
        self.kernel.swap.lru_add_drain_all()
        found = []
        for process in self.processes:
            mm = process.mm
            found.append((mm.anonpages, mm.swapents, mm.total_vm, len(mm.vmas)))
            for base in (HERE, THERE):
                found += [
                    self._page(pte)
                    for pte in entries(self.kernel, process, base, PAGES)
                ]
        return found

    def _page(self, pte):
        """What an entry says, with the counts and the first word of its page."""
        if not pte & 1:
            return pte
        pgtable = self.kernel.pgtable
        pfn = pgtable.pte_pfn(pte)
        folio = self.kernel.page_alloc.folio_of(pfn)
        word = self.kernel.machine.memory.read(pfn << pgtable.page_shift)
        return pte, word, folio.mapcount, folio.refcount, folio.flags


@settings(max_examples=25, deadline=None)
@given(calls, st.sampled_from(["always", "never"]), st.sampled_from([0, 64]))
def test_both_kernels_agree_in_all_but_flushes(program, thp, kib):
    """The same program ends with the same errors, contents, entries and counts."""
    worlds = [World(version, thp, kib) for version in ("v6.17", "v6.19")]
    for world in worlds:
        for number, call in enumerate(program):
            world.run(number, *call)
        audit(world.kernel)
        audit_tlbs(world.kernel)
    before, after = worlds
    assert before.said == after.said
    assert before.books() == after.books()
    for world in worlds:
        for process in world.processes:
            process.exit()
        assert all_frames(world.kernel) == 2
