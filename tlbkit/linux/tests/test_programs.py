"""Any program of system calls and accesses, on one kernel and on two at once.

A failure is shrunk, and printed as Python that can be pasted into a cell. How long the
search goes on is the profile's business: see CONTRIBUTING.md.
"""

import inspect
import re
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tlbkit.linux.arch.arm64.include.asm.pgtable import pmd_leaf, pte_present
from tlbkit.linux.include.linux.hugetlb import is_vm_hugetlb_page
from tlbkit.linux.include.linux.mm import VM_SHARED
from tlbkit.linux.include.uapi.linux.falloc import (
    FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_PUNCH_HOLE,
)
from tlbkit.linux.process import Process
from tlbkit.linux.tests.programs import Play
from tlbkit.linux.userfaultfd_fd import UserfaultFd
from tlbkit.observe.sanitizer import audit

PAGE = 4096
PROCESSES = 3
AREAS = 4
HOLE = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE

# What is near the beginning comes often, so that steps meet.
number = st.sampled_from([0, 0, 0, 1, 1, 2, 3])
cpu = st.integers(0, Play.CPUS - 1)
pages = st.sampled_from([2, 2, 4, 18, 1024])
at = st.sampled_from([0, 0, 0, 0, 1, 1, 2, 15, 16, 17, 300, 511, 512, 1023])
length = st.sampled_from([1, 1, 2, 3, 16, 512])
prot = st.sampled_from(["none", "r", "rw", "rx"])
ADVICE = (
    "hugepage",
    "nohugepage",
    "collapse",
    "dontneed",
    "free",
    "cold",
    "pageout",
    "populate_read",
    "populate_write",
    "dontfork",
    "dofork",
    "wipeonfork",
    "keeponfork",
)


FEATURES = "'SIGBUS', 'MINOR_SHMEM'"
REQUESTS = (
    "copy",
    "move",
    "zeropage",
    "continue_",
    "writeprotect",
    "wake",
    "unregister",
)


class AnyProgram(RuleBasedStateMachine):
    """Processes, their areas, and everything that they may do."""

    kernels: tuple[str, ...] = ("v6.19",)
    models = ("neoverse-v2", "neoverse-n1", "cortex-a75", "cortex-a72")

    def __init__(self):
        super().__init__()
        self.plays = []
        self.areas = {}
        self.count = 0
        self.fd = {}
        self.files = ["f", "m"]

    # -- how a step is done ----------------------------------------------------------

    @initialize(
        model=st.sampled_from(models),
        enabled=st.sampled_from(["never", "always", "madvise"]),
        large=st.booleans(),
        mte=st.booleans(),
    )
    def begin(self, model, enabled, large, mte):
        """Start the kernels, with one process.

        Large folios need a CPU that bears two sizes at once: without, mprotect may make
        pages a contiguous block while a TLB holds them.
        """
        self.plays = [
            Play(
                version,
                model,
                bbml2=large,
                mte=mte,
                enabled=enabled,
                kib=(16, 64) if large else (),
            )
            for version in self.kernels
        ]
        self.do("kernel.spawn()", "p0")
        self.do("p0.open('f', create=True)", "f")
        self.do("p0.memfd_create('m')", "m")
        self.do("p0.ftruncate(f, 0x8000)")
        self.do("p0.ftruncate(m, 0x8000)")
        self.areas["p0"] = {}
        self.mmap(0, 2, "rw", "anonymous", private=True, file=0, mte=False)

    @contextmanager
    def told(self):
        """Print the program if it fails."""
        try:
            yield
        except Exception:
            play, self.plays = self.plays[-1], []  # it ends here
            note(f"# the program:\n{play.source()}")
            raise

    def do(self, line, into=None):
        """Run a line on every kernel; all must see the same."""
        with self.told():
            seen = [play.do(line, into) for play in self.plays]
            if isinstance(seen[0], int | str | None):
                assert seen == seen[:1] * len(seen), line
            for play in self.plays:
                audit(play.kernel)
        return seen[0]

    def name(self, kind):
        """A new name."""
        self.count += 1
        return f"{kind}{self.count}"

    def pick(self, which, where, offset):
        """A process, and an address in one of its areas as text."""
        process = sorted(self.areas)[which % len(self.areas)]
        areas = sorted(self.areas[process])
        if not areas:
            return process, "0x10000", None
        area = areas[where % len(areas)]
        offset %= self.areas[process][area]
        return process, f"{area} + {offset * PAGE:#x}", area

    # -- areas -----------------------------------------------------------------------

    @rule(
        which=number,
        size=pages,
        rights=prot,
        what=st.sampled_from(["anonymous", "anonymous", "shared", "file", "huge"]),
        private=st.booleans(),
        file=number,
        mte=st.sampled_from([False, False, False, True]),
    )
    def mmap(self, which, size, rights, what, private, file, mte):
        """Map something new."""
        process, _, _ = self.pick(which, 0, 0)
        if len(self.areas[process]) >= AREAS:
            return
        how = ", shared=True" if what == "shared" else ""
        if what == "huge":
            size = 512
            how = ", hugetlb=True" + ("" if private else ", shared=True")
        if what == "file":
            how = f", fd={self.descriptor(file)}"
            how += ", shared=True" if not private else ""
        if mte:
            how += ", mte=True"
        area = self.name("a")
        line = f"{process}.mmap({size * PAGE:#x}, {rights!r}{how})"
        if isinstance(self.do(line, area), int):
            self.areas[process][area] = size

    @rule(which=number, where=number, offset=at, size=length)
    def munmap(self, which, where, offset, size):
        """Take some pages away."""
        process, address, _ = self.pick(which, where, offset)
        self.do(f"{process}.munmap({address}, {size * PAGE:#x})")

    @rule(which=number, where=number, offset=at, size=length, rights=prot)
    def mprotect(self, which, where, offset, size, rights):
        """Change rights."""
        process, address, _ = self.pick(which, where, offset)
        self.do(f"{process}.mprotect({address}, {size * PAGE:#x}, {rights!r})")

    @rule(
        which=number,
        where=number,
        offset=at,
        size=length,
        new=length,
        dontunmap=st.booleans(),
    )
    def mremap(self, which, where, offset, size, new, dontunmap):
        """Grow, shrink or move."""
        process, address, _ = self.pick(which, where, offset)
        area = self.name("a")
        old, new = (size, size) if dontunmap else (size, new)
        line = f"{process}.mremap({address}, {old * PAGE:#x}, {new * PAGE:#x}"
        line += f", maymove=True, dontunmap={dontunmap})"
        if isinstance(self.do(line, area), int):
            self.areas[process][area] = new

    @rule(
        which=number,
        where=number,
        offset=at,
        size=length,
        advice=st.sampled_from(ADVICE),
    )
    def madvise(self, which, where, offset, size, advice):
        """Give advice."""
        process, address, _ = self.pick(which, where, offset)
        self.do(f"{process}.madvise({address}, {size * PAGE:#x}, {advice!r})")

    @rule(which=number, where=number, offset=at, size=length)
    def msync(self, which, where, offset, size):
        """Write files back."""
        process, address, _ = self.pick(which, where, offset)
        self.do(f"{process}.msync({address}, {size * PAGE:#x})")

    @rule(
        which=number,
        where=number,
        offset=at,
        size=length,
        flags=st.sampled_from([2, 4]),
    )
    def mbind(self, which, where, offset, size, flags):
        """Move huge pages to other frames."""
        process, address, _ = self.pick(which, where, offset)
        self.do(f"{process}.mbind({address}, {size * PAGE:#x}, {flags})")

    @rule(
        which=number,
        where=number,
        offset=at,
        size=length,
        core=cpu,
        what=st.sampled_from(["munmap", "mprotect", "madvise"]),
    )
    def thread(self, which, where, offset, size, core, what):
        """Make a system call on another CPU."""
        process, address, _ = self.pick(which, where, offset)
        more = {"munmap": "", "mprotect": ", 'r'", "madvise": ", 'dontneed'"}[what]
        thread = f"{process}.thread({core})"
        self.do(f"{thread}.{what}({address}, {size * PAGE:#x}{more})")

    # -- files -----------------------------------------------------------------------

    def descriptor(self, which):
        """A descriptor, which a process may have closed or never have had."""
        return self.files[which % len(self.files)]

    @rule(which=number, shared_memory=st.booleans())
    def open(self, which, shared_memory):
        """Open the file once more, or make one of shared memory."""
        process, _, _ = self.pick(which, 0, 0)
        if len(self.files) >= AREAS:
            return
        file = self.name("f")
        line = (
            f"{process}.memfd_create({file!r})"
            if shared_memory
            else f"{process}.open('f', create=True)"
        )
        if isinstance(self.do(line, file), int):
            self.files.append(file)

    @rule(which=number, file=number)
    def close(self, which, file):
        """Give a descriptor back."""
        process, _, _ = self.pick(which, 0, 0)
        self.do(f"{process}.close({self.descriptor(file)})")

    @rule(which=number)
    def unlink(self, which):
        """Take the file's name away."""
        process, _, _ = self.pick(which, 0, 0)
        self.do(f"{process}.unlink('f')")

    @rule(which=number, file=number, size=st.integers(0, 20))
    def ftruncate(self, which, file, size):
        """Give a file another size."""
        process, _, _ = self.pick(which, 0, 0)
        self.do(f"{process}.ftruncate({self.descriptor(file)}, {size * PAGE:#x})")

    @rule(
        which=number,
        file=number,
        mode=st.sampled_from([0, FALLOC_FL_KEEP_SIZE, HOLE]),
        offset=st.integers(0, 8),
        size=st.integers(0, 8),
    )
    def fallocate(self, which, file, mode, offset, size):
        """Ask for a range of a file, which only one of huge pages gives."""
        process, _, _ = self.pick(which, 0, 0)
        span = f"{offset * PAGE:#x}, {size * PAGE:#x}"
        self.do(f"{process}.fallocate({self.descriptor(file)}, {mode}, {span})")

    @rule(which=number, file=number)
    def fsync(self, which, file):
        """Write a file back."""
        process, _, _ = self.pick(which, 0, 0)
        self.do(f"{process}.fsync({self.descriptor(file)})")

    @rule(which=number, file=number, offset=at)
    def pread(self, which, file, offset):
        """Read a word of a file."""
        process, _, _ = self.pick(which, 0, 0)
        self.do(f"{process}.pread({self.descriptor(file)}, {offset * PAGE:#x})")

    @rule(which=number, file=number, offset=at)
    def pwrite(self, which, file, offset):
        """Write a word to a file, perhaps beyond its end."""
        process, _, _ = self.pick(which, 0, 0)
        self.count += 1
        line = f"{self.descriptor(file)}, {offset * PAGE:#x}, {self.count}"
        self.do(f"{process}.pwrite({line})")

    # -- accesses --------------------------------------------------------------------

    @rule(which=number, where=number, offset=at, core=cpu)
    def read(self, which, where, offset, core):
        """Load a word."""
        process, address, _ = self.pick(which, where, offset)
        self.do(f"{process}.read({address}, cpu={core})")

    @rule(which=number, where=number, offset=at, core=cpu)
    def write(self, which, where, offset, core):
        """Store a word.

        Of private huge pages no other CPU may keep a stale entry: nothing repairs it
        after the local flush, as the gallery's chapter tells.
        """
        process, address, area = self.pick(which, where, offset)
        if area is not None and self.is_private_huge(process, address):
            self.do(f"kernel.tlbflush.flush_tlb_mm({process}.mm)")
        self.count += 1
        self.do(f"{process}.write({address}, {self.count}, cpu={core})")

    def is_private_huge(self, process, address):
        """Whether an address is of private memory of huge pages."""
        names = self.plays[0].names
        va = eval(address, names)  # noqa: S307 - our own lines
        vma = self.plays[0].kernel.vma.vma_lookup(names[process].mm, va)
        return vma is not None and is_vm_hugetlb_page(vma) and not vma.flags & VM_SHARED

    @rule(which=number, where=number, offset=at)
    def spread(self, which, where, offset):
        """Load a word on every CPU, so that every TLB has it, and store it on one."""
        for core in range(Play.CPUS):
            self.read(which, where, offset, core)
        self.write(which, where, offset, 0)

    @rule(which=number, where=number, offset=at, core=cpu)
    def execute(self, which, where, offset, core):
        """Fetch an instruction."""
        process, address, _ = self.pick(which, where, offset)
        self.do(f"{process}.execute({address}, cpu={core})")

    @rule(which=number, core=cpu)
    def migrate(self, which, core):
        """Move a thread to another CPU."""
        process, _, _ = self.pick(which, 0, 0)
        self.do(f"{process}.migrate({core})")

    @rule(which=number, where=number, offset=at, tag=st.integers(0, 15))
    def tag(self, which, where, offset, tag):
        """Give memory a tag, and look whether it has it."""
        process, address, _ = self.pick(which, where, offset)
        self.do(f"{process}.store_tag({address}, {tag})")
        self.do(f"{process}.load_tag({address})")
        self.do(f"{process}.read_checked({address}, {tag})")

    # -- processes -------------------------------------------------------------------

    @rule(which=number, core=cpu)
    def fork(self, which, core):
        """Make a child."""
        if len(self.areas) >= PROCESSES:
            return
        process, _, _ = self.pick(which, 0, 0)
        child = self.name("p")
        if not isinstance(self.do(f"{process}.fork({core})", child), str):
            self.areas[child] = dict(self.areas[process])

    @precondition(lambda self: len(self.areas) > 1)
    @rule(which=number)
    def exit(self, which):
        """End a process."""
        process, _, _ = self.pick(which, 0, 0)
        self.do(f"{process}.exit()")
        del self.areas[process]

    @precondition(lambda self: len(self.areas) > 1)
    @rule(which=number, where=number, offset=at, size=length)
    def kill(self, which, where, offset, size):
        """Kill a process in the midst of a system call."""
        process, address, _ = self.pick(which, where, offset)
        self.do(f"{process}.kill()")
        self.do(f"{process}.madvise({address}, {size * PAGE:#x}, 'populate_write')")
        self.exit(which)

    @rule(which=number)
    def execve(self, which):
        """Begin another program."""
        process, _, _ = self.pick(which, 0, 0)
        if self.do(f"{process}.execve()") is None:
            self.areas[process] = {}

    # -- userfaultfd -----------------------------------------------------------------

    @rule(
        which=number,
        where=number,
        wp=st.booleans(),
        missing=st.booleans(),
        minor=st.sampled_from([False, False, True]),
    )
    def register(self, which, where, wp, missing, minor):
        """Watch an area; a fault there is a signal."""
        process, address, area = self.pick(which, where, 0)
        if area is None:
            return
        if process not in self.fd:
            self.fd[process] = self.name("u")
            self.do(f"{process}.userfaultfd({FEATURES})", self.fd[process])
        fd = self.fd[process]
        size = self.areas[process][area] * PAGE
        line = f"{fd}.register({address}, {size:#x}, "
        self.do(line + f"missing={missing}, wp={wp}, minor={minor})")

    @rule(which=number)
    def release(self, which):
        """Close a userfaultfd."""
        process, _, _ = self.pick(which, 0, 0)
        fd = self.fd.pop(process, None)
        if fd is not None:
            self.do(f"{fd}.close()")

    @rule(
        which=number,
        where=number,
        offset=at,
        source=number,
        begin=at,
        size=length,
        what=st.sampled_from(REQUESTS),
        flag=st.booleans(),
    )
    def userfaultfd(self, which, where, offset, source, begin, size, what, flag):
        """Fill, move or protect watched pages."""
        process, to, _ = self.pick(which, where, offset)
        _, src, _ = self.pick(which, source, begin)
        fd = self.fd.get(process)
        if fd is None:
            return
        more = {
            "copy": f"{src}, {size * PAGE:#x}, wp={flag}",
            "move": f"{src}, {size * PAGE:#x}, allow_src_holes={flag}",
            "continue_": f"{size * PAGE:#x}, wp={flag}",
            "writeprotect": f"{size * PAGE:#x}, protect={flag}",
        }.get(what, f"{size * PAGE:#x}")
        self.do(f"{fd}.{what}({to}, {more})")

    # -- what the kernel does by itself ----------------------------------------------

    @rule(which=number, where=number, offset=at)
    def pin(self, which, where, offset):
        """Let a device have a page."""
        process, address, _ = self.pick(which, where, offset)
        self.do(f"pin({process}, {address})")

    @rule(which=number, where=number, offset=at)
    def take(self, which, where, offset):
        """Let a driver have a page."""
        process, address, _ = self.pick(which, where, offset)
        self.do(f"take({process}, {address})")

    @rule()
    def unpin(self):
        """Let devices give all pages back."""
        self.do("unpin()")

    @rule()
    def shrink(self):
        """Be short of memory: give back what is not needed."""
        self.do("kernel.huge_memory.shrink_huge_zero_folio_scan()")
        self.do("kernel.huge_memory.deferred_split_scan()")

    # -- the end ---------------------------------------------------------------------

    def teardown(self):
        """Compare what all processes have, end them, and find nothing left."""
        if not self.plays:
            return
        with self.told():
            seen = [list(self.holdings(play)) for play in self.plays]
            assert seen == seen[:1] * len(seen)
        self.do("unpin()")
        for process in sorted(self.areas):
            for area, size in self.areas[process].items():
                for page in {0, 1, size // 2, size - 1}:
                    self.do(f"{process}.read({area} + {page * PAGE:#x})")
        last = min(self.areas)
        self.do(f"{last}.unlink('f')")
        for process in sorted(self.areas):
            self.do(f"{process}.exit()")
        with self.told():
            for play in self.plays:
                kernel = play.kernel
                kernel.swap.lru_add_drain_all()
                kernel.huge_memory.shrink_huge_zero_folio_scan()
                kernel.hugetlb.set_max_huge_pages(0)
                assert kernel.page_alloc.in_use == 2, "a leak"

    def holdings(self, play):
        """What each entry of each area maps: counts, but no frames."""
        kernel = play.kernel
        kernel.swap.lru_add_drain_all()
        pgtable = kernel.pgtable
        for process in sorted(self.areas):
            mm = play.names[process].mm
            for area, size in self.areas[process].items():
                base = play.names[area]
                for address in range(base, base + size * PAGE, PAGE):
                    pmdp = pgtable.find_pmd(mm, address)
                    entry = 0 if pmdp is None else pgtable.read(pmdp)
                    if not pmd_leaf(entry):
                        ptep = pgtable.find_pte(mm, address)
                        entry = 0 if ptep is None else pgtable.read(ptep)
                    if not pte_present(entry):
                        yield area, bool(entry)
                        continue
                    folio = kernel.page_alloc.folio_of(pgtable.pte_pfn(entry))
                    if folio.pfn == kernel.zero_pfn:
                        yield area, "zero"
                    else:
                        yield area, folio.order, folio.mapcount, folio.refcount


class OldAndNew(AnyProgram):
    """The same program on the oldest and on the newest kernel."""

    kernels = ("v6.17", "fixed")


class ShortOfMemory(AnyProgram):
    """Programs in which allocations fail."""

    @rule(after=st.integers(0, 5))
    def fail(self, after):
        """Let one of the next allocations fail."""
        self.do(f"fail_after({after})")


LEFT_OUT = {
    "end": "is no system call: exit and execve end the other threads by it",
    "enter_kernel": "is no system call",
    "open_device": "a driver has no file of these, and tests of its own",
    "unpin": "a device may let go when the process is no more: `unpin` of a program",
    "put_pages": "so may a driver",
    "serve": "a fault is a signal here; who waits for an answer is `Watched`",
    "api": "a descriptor is ready for use when a program gets it",
    "child": "programs are not told of forks",
    "used_by": "the same",
    "read": "the same",
}
"""What no program does, of what a process and its userfaultfd can do."""


def methods(owner):
    """What a class lets its users do."""
    return {
        name
        for kind in owner.__mro__
        for name, member in vars(kind).items()
        if inspect.isfunction(member) and not name.startswith("_")
    }


@pytest.mark.parametrize(
    ("owner", "said", "besides"),
    [
        (Process, "process", ()),
        (UserfaultFd, "fd", REQUESTS),
    ],
)
def test_programs_make_every_system_call(owner, said, besides):
    """Whatever a process can do, some rule does, or it says here why none does."""
    here = Path(__file__)
    texts = [file.read_text("utf-8") for file in (here, here.with_name("programs.py"))]
    made = set(re.findall(rf"\b{said}\b\}}?\.(\w+)\(", "\n".join(texts)))
    assert methods(owner) - made - set(besides) <= LEFT_OUT.keys()


assert settings.default is not None
EXAMPLES = settings.default.max_examples
LENGTH = settings(
    max_examples=max(EXAMPLES // 4, 1),
    stateful_step_count=30 if EXAMPLES <= 100 else 60,
)


@pytest.mark.parametrize("machine", [AnyProgram, OldAndNew, ShortOfMemory])
def test_any_program_keeps_the_rules(machine):
    """No program breaks a rule, leaks, or tells the kernels apart."""
    run_state_machine_as_test(machine, settings=LENGTH)
