"""Any order of sharing, faults, forks and ends keeps the books of huge pages right."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tlbkit.linux.include.uapi.asm_generic.errno import Signal, SystemCallError
from tlbkit.linux.mm.memfd import MFD_HUGETLB
from tlbkit.linux.mm.mempolicy import MPOL_MF_MOVE_ALL
from tlbkit.linux.tests.huge_pages import (
    BASE,
    GIB,
    HUGE,
    audit_hugetlb,
    end_all,
    table_of,
)
from tlbkit.linux.tests.support import boot, issued

PAGES = 6
WHO = st.integers(0, 3)
PAGE = st.integers(0, PAGES - 1)
PRIVATE = BASE + 8 * GIB


class Family(RuleBasedStateMachine):
    """Processes that map one GiB of a file, shared and some of it private too."""

    def __init__(self):
        super().__init__()
        self.kernel = boot("fixed", cpus=4)
        self.kernel.hugetlb.set_max_huge_pages(512 + 3)
        first = self.kernel.spawn()
        fd = first.memfd_create("huge", MFD_HUGETLB)
        first.ftruncate(fd, GIB)
        first.mmap(GIB, fd=fd, addr=BASE, shared=True, fixed=True)
        first.mmap(2 * HUGE, hugetlb=True, addr=PRIVATE, fixed=True, noreserve=True)
        first.close(fd)
        self.file = dict.fromkeys(range(PAGES), 0)

    def one(self, who):
        """One of the living."""
        living = self.kernel.processes
        return living[who % len(living)]

    @rule(who=WHO, page=PAGE, value=st.integers(1, 99))
    def write(self, who, page, value):
        """A write is seen by all, where the process may write."""
        process = self.one(who)
        try:
            process.write(BASE + page * HUGE, value)
        except Signal:
            return
        self.file[page] = value

    @rule(who=WHO, page=PAGE)
    def read(self, who, page):
        """A read finds what was written last, by whomever."""
        try:
            found = self.one(who).read(BASE + page * HUGE)
        except Signal:
            return
        assert found == self.file[page]

    @rule(who=WHO, value=st.integers(1, 99))
    def write_private(self, who, value):
        """A private page is the process's own, or cannot be had."""
        process = self.one(who)
        try:
            process.write(PRIVATE, value)
        except Signal:
            return
        assert process.read(PRIVATE) == value

    @precondition(lambda self: len(self.kernel.processes) < 4)
    @rule(who=WHO, cpu=st.integers(0, 3))
    def fork(self, who, cpu):
        """A child shares nothing yet."""
        child = self.one(who).fork(cpu=cpu)
        assert table_of(self.kernel, child.mm, BASE) is None

    @precondition(lambda self: len(self.kernel.processes) > 1)
    @rule(who=WHO)
    def leave_by_exit(self, who):
        """An end interrupts once, if it leaves a single user of the table."""
        self._leave(self.one(who), lambda process: process.exit())

    @rule(who=WHO, page=PAGE)
    def drop(self, who, page):
        """MADV_DONTNEED drops the table if it is shared, or one page."""
        self._leave(
            self.one(who),
            lambda process: process.madvise(BASE + page * HUGE, HUGE, "dontneed"),
        )

    def _leave(self, process, act):
        """Do what may unshare, and hold the rule of the interrupt."""
        try:
            area = self.kernel.vma.vma_lookup(process.mm, BASE)
            users = self._users(process) if area is not None else 0
            sent = issued(self.kernel, lambda: act(process)).ipi_broadcasts
        except SystemCallError:
            return
        assert sent == (users == 2)

    def _users(self, process):
        """How many use the table that a process uses for the file; 0 without."""
        table = table_of(self.kernel, process.mm, BASE)
        tables = [table_of(self.kernel, p.mm, BASE) for p in self.kernel.processes]
        return 0 if table is None else sum(other is table for other in tables)

    @rule(who=WHO, prot=st.sampled_from(["r", "rw"]))
    def protect(self, who, prot):
        """Other rights make other tables."""
        self.one(who).mprotect(BASE, GIB, prot)

    @rule(who=WHO)
    def migrate(self, who):
        """Pages move, if there is room, and say the same."""
        self.one(who).mbind(BASE, GIB, MPOL_MF_MOVE_ALL)

    @rule(size=st.integers(510, 520))
    def resize(self, size):
        """The pool changes its number; what is promised stays."""
        self.kernel.hugetlb.set_max_huge_pages(size)

    @invariant()
    def books(self):
        """Counts, references, promises and tables agree."""
        audit_hugetlb(self.kernel)

    def teardown(self):
        """Nothing is left in the end."""
        end_all(self.kernel)


TestFamily = Family.TestCase
TestFamily.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)
