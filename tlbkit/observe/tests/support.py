"""Programs at random, played on a small machine."""

from dataclasses import replace

from hypothesis import strategies as st

from tlbkit import Kernel, Machine
from tlbkit.arm64.models import NEOVERSE_N1, TlbGeometry
from tlbkit.linux.include.uapi.asm_generic.errno import Signal, SystemCallError

PAGE = 4096
PAGES = 6
CPUS = 3

STEP = st.tuples(
    st.sampled_from(
        ["read", "write", "none", "r", "rw", "rx", "fork", "exit", "unmap"]
    ),
    st.integers(0, PAGES - 1),
    st.integers(0, CPUS - 1),
)
STEPS = st.lists(STEP, max_size=12)
TINY = replace(
    NEOVERSE_N1,
    l1d=TlbGeometry(1, 1, frozenset({12})),
    l2=TlbGeometry(2, 1, frozenset({12})),
    walk_cache=2,
)
"""A CPU whose caches are always full."""
CORES = ("neoverse-v2", "cortex-a75", "cortex-a72", TINY)
MODELS = st.sampled_from(CORES)


class Program:
    """A process with `PAGES` pages, its children, and steps that may fail."""

    def __init__(self, model="neoverse-n1", version="v6.19"):
        self.machine = Machine(CPUS, model)
        self.kernel = Kernel(self.machine, version)
        self.parent = self.kernel.spawn(0)
        self.base = self.parent.mmap(PAGES * PAGE)
        self.children = []

    def play(self, steps):
        """Do each step; what Linux refuses is refused and the program goes on."""
        for step in steps:
            try:
                self._do(*step)
            except (Signal, SystemCallError):
                continue

    def _do(self, what, page, cpu):
        actor = self.children[-1] if self.children and page % 2 else self.parent
        address = self.base + page * PAGE
        if what == "read":
            actor.read(address, cpu=cpu)
        elif what == "write":
            actor.write(address, 100 * page + cpu, cpu=cpu)
        elif what == "fork":
            self.children.append(self.parent.fork(cpu))
        elif what == "exit":
            if self.children:
                self.children.pop().exit()
        elif what == "unmap":
            actor.munmap(address, PAGE)
        else:
            actor.mprotect(address, (1 + cpu) * PAGE, what)
