"""How fast the hot paths are, beside others that do the same, in one run.

    python tests/benchmark/run.py

Needs the ``bench`` extra (pycachesim compiles C). A ratio from one run can be quoted;
a rate depends on the machine, and a little on what else it does: time is that of this
process alone, and each figure the best of three passes, but for the million pages,
which are gone through once.
"""

import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import harmonic_mean
from time import process_time
from typing import NamedTuple

import numpy as np
from cachesim import Cache, CacheSimulator, MainMemory
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/conformance")]

from unicorn_oracle import TABLES, UnicornMMU

from tlbkit import Kernel, Machine
from tlbkit.arm64.cpu import Cpu
from tlbkit.arm64.image import Words
from tlbkit.arm64.permission import EL0_READ
from tlbkit.arm64.registers import MAIR
from tlbkit.arm64.tests.test_trace import golden_cpu, golden_pages
from tlbkit.arm64.trace import count, replay
from tlbkit.arm64.walk import walk
from tlbkit.lab.bare import NORMAL_MEMORY, Tables
from tlbkit.linux.process import Process

PASSES = 3
PAGE = 4096
SHARE = 200_000  # of a trace's million accesses that separate calls make
PAGES = 1_000_000
FEW_PAGES = 10_000


class Image(Words):
    """A table image that can be written."""

    write = dict.__setitem__


class Row(NamedTuple):
    """One line of the table: ours, the peer's, and what we want of their ratio."""

    what: str
    rate: float
    peer: str = ""
    peer_rate: float = 0.0
    target: str = ""


def rate(work: Callable[[], int]) -> float:
    """How many things a second *work* does; it returns how many it did."""
    rates = []
    for _ in range(PASSES):
        start = process_time()
        done = work()
        rates.append(done / (process_time() - start))
    return max(rates)


def cachesim_rate(addresses: list[int]) -> float:
    """Accesses a second of pycachesim with the golden geometry."""

    def work() -> int:
        memory = MainMemory()
        l2 = Cache("L2", 256, 8, PAGE, "LRU")
        memory.load_to(l2)
        memory.store_from(l2)
        l1 = Cache("L1", 1, 64, PAGE, "LRU", load_from=l2, store_to=l2)
        load = CacheSimulator(l1, memory).load
        for address in addresses:
            load(address)
        return len(addresses)

    return rate(work)


def traces() -> Iterator[Row]:
    """The golden traces: an access a call, many replayed, an array counted."""
    for name, pages in golden_pages().items():
        array = pages * PAGE
        addresses = array.tolist()
        peer = cachesim_rate(addresses)

        def one_by_one(vas: list[int] = addresses[:SHARE]) -> int:
            translate = golden_cpu_once().translate
            for va in vas:
                translate(va, EL0_READ)
            return len(vas)

        def replayed(vas: list[int] = addresses) -> int:
            return replay(golden_cpu_once(), vas).accesses

        def counted(vas: NDArray[np.int64] = array) -> int:
            return count(golden_cpu_once(), vas).accesses

        yield Row(f"one a call, {name}", rate(one_by_one), "pycachesim", peer)
        yield Row(f"access, {name}", rate(replayed), "pycachesim", peer, ">= 2.5")
        yield Row(f"count, {name}", rate(counted), "pycachesim", peer, ">= 10")


def golden_cpu_once() -> Cpu:
    """A CPU of the golden geometry with empty TLBs; making it is not what is timed."""
    return READY.pop()


READY: list[Cpu] = [golden_cpu() for _ in range(3 * PASSES * 3)]


def walks() -> Iterator[Row]:
    """One walk a call, of a page at the fourth level of a 4K regime."""
    va = 0x0000_FFFF_B7E3_1000
    memory = Image()
    tables = Tables(memory, first=TABLES)
    tables.map(va, 1 << 31)
    regime = tables.regime()

    def ours() -> int:
        for _ in range(SHARE):
            walk(regime, memory, va)
        return SHARE

    judge = UnicornMMU()
    registers = {
        "TCR": regime.controls.tcr.encode(),
        "MAIR": MAIR.of(NORMAL_MEMORY).encode(),
        "TTBR0": regime.ttbr0.encode(),
        "TTBR1": regime.ttbr1.encode(),
    }
    judge.load(registers, memory)
    assert not judge.translate("S1E0R", [va])[0] & 1  # PAR_EL1.F

    def theirs() -> int:
        for _ in range(2_000):
            judge.translate("S1E0R", [va])
        return 2_000

    yield Row(
        "walk, 4 levels", rate(ours), "Unicorn, one a call", rate(theirs), ">= 15"
    )


class Life(NamedTuple):
    """A process of many pages from its first touch on: what each part took.

    Attributes:
        rates: Pages a second, by part.
        bytes: Memory of this program for each page, after each part.
    """

    rates: dict[str, float]
    bytes: dict[str, float]


def life(pages: int) -> Life:
    """Touch *pages* new pages, fork, let the child exit, and write each page again."""
    machine = Machine(4)
    process = Kernel(machine).spawn()
    base = process.mmap(pages * PAGE)

    def touch() -> None:
        for page in range(pages):
            process.write(base + page * PAGE, page)

    children: list[Process] = []
    found = Life({}, {})
    before = resident()
    for what, work in (
        ("first touch", touch),
        ("fork", lambda: children.append(process.fork())),
        ("exit", lambda: children.pop().exit()),
        ("write fault after fork", touch),
    ):
        start = process_time()
        work()
        found.rates[what] = pages / (process_time() - start)
        found.bytes[what] = (resident() - before) / pages
    return found


def resident() -> int:
    """How many bytes of memory this program has now."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * resource.getpagesize()


def kernel() -> Iterator[Row]:
    """A million pages: rates, beside those of few pages, and memory.

    The time for a page must not grow with their number by more than 1.3.
    """
    wanted = {"first touch": 60_000, "fork": 500_000, "write fault after fork": 60_000}
    few = [life(FEW_PAGES) for _ in range(PASSES)]
    many = life(PAGES)
    for what, pages_a_second in many.rates.items():
        least = wanted.get(what)
        target = f">= {least:,}/s, " if least else ""
        peer = harmonic_mean(one.rates[what] for one in few)
        yield Row(
            f"{what}, pages",
            pages_a_second,
            f"{FEW_PAGES:,} pages",
            peer,
            f"{target}ratio >= {1 / 1.3:.2f}",
        )
    for what, used in many.bytes.items():
        yield Row(f"bytes a page after {what}", used, target="<= 250")


def main() -> None:
    """Print the table."""
    print(
        f"{'what':40} {'a second':>12}  {'peer':20} {'a second':>12} {'ratio':>7}  want"
    )
    # The kernel comes first: memory that others gave back would not be counted.
    for part in (kernel, walks, traces):
        for row in part():
            ratio = f"{row.rate / row.peer_rate:7.2f}" if row.peer_rate else " " * 7
            peer = f"{row.peer_rate:12,.0f}" if row.peer_rate else " " * 12
            print(
                f"{row.what:40} {row.rate:12,.0f}  {row.peer:20} {peer} {ratio}  "
                f"{row.target}"
            )


if __name__ == "__main__":
    main()
