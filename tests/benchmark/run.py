"""How fast the hot paths are, beside others that do the same, in one run.

    python tests/benchmark/run.py [--only {kernel,walks,traces,search,gallery}]
                                  [--compiled]

Needs the ``bench`` extra (pycachesim compiles C). ``--compiled`` times the package with
its machine compiled, and leaves out what only the plain one can do. A ratio from one
run can be quoted; a rate depends on the machine, and on what else it does. Time is that
of this process alone. What is compared takes turns, round by round, so that both meet
the same weather, and the median round of each counts; but the million pages are gone
through once, and the gallery, which takes all cores and a minute or more, is searched
once.

What a walk is held against, on the same tables and addresses, each in its turn:

- "a call": the call by which the conformance tests ask Unicorn, with one address. It
  writes the address to Unicorn's memory, runs five instructions and reads PAR_EL1 back.
- "in a register": the least that one walk by Unicorn can cost from Python. Address and
  answer are in one register, and three instructions run.
- "1,024 a call": what Unicorn can do when the way there and back is shared.

The second and third have no target; they are there so that the first is not mistaken
for the speed of Unicorn's own walk.
"""

import os
import resource
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import harmonic_mean, median
from time import perf_counter, process_time
from typing import NamedTuple

import numpy as np
from cachesim import Cache, CacheSimulator, MainMemory
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[2]
FOLDER = "TLBKIT_COMPILED_FOLDER"  # where a run finds the compiled package
sys.path[:0] = [
    os.environ.get(FOLDER, str(ROOT)),
    str(ROOT / ".ci"),
    str(ROOT / "tests/conformance"),
]

from compiled import compiled
from unicorn_oracle import TABLES, UnicornMMU

from tlbkit import Kernel, Machine
from tlbkit.arm64.image import Words, address_translate
from tlbkit.arm64.permission import EL0_READ
from tlbkit.arm64.registers import MAIR, PAR
from tlbkit.arm64.tests.test_trace import golden_cpu, golden_pages
from tlbkit.arm64.trace import count, replay
from tlbkit.arm64.walk import walk
from tlbkit.explore.scheduler import Scenario, World
from tlbkit.explore.search import explore
from tlbkit.lab.bare import NORMAL_MEMORY, Tables
from tlbkit.lab.gallery.judge import mutate
from tlbkit.lab.gallery.meetings import MEETINGS
from tlbkit.linux.process import Process

PASSES = 5
WALK_ROUNDS = 15
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


def rates(rounds: int, *works: Callable[[], int]) -> list[float]:
    """How many things a second each of *works* does, taking turns for some *rounds*.

    Each returns how many it did.
    """
    found: list[list[float]] = [[] for _ in works]
    for _ in range(rounds):
        for work, mine in zip(works, found, strict=True):
            start = process_time()
            done = work()
            mine.append(done / (process_time() - start))
    return [median(mine) for mine in found]


def cachesim(addresses: list[int]) -> int:
    """Make these accesses to pycachesim with the golden geometry."""
    memory = MainMemory()
    l2 = Cache("L2", 256, 8, PAGE, "LRU")
    memory.load_to(l2)
    memory.store_from(l2)
    l1 = Cache("L1", 1, 64, PAGE, "LRU", load_from=l2, store_to=l2)
    load = CacheSimulator(l1, memory).load
    for address in addresses:
        load(address)
    return len(addresses)


def traces() -> Iterator[Row]:
    """The golden traces: an access a call, many replayed, an array counted."""
    ready = [golden_cpu() for _ in range(9 * PASSES)]  # making one is not timed
    for name, pages in golden_pages().items():
        array = pages * PAGE
        addresses = array.tolist()

        def one_by_one(vas: list[int] = addresses[:SHARE]) -> int:
            translate = ready.pop().translate
            for va in vas:
                translate(va, EL0_READ)
            return len(vas)

        def replayed(vas: list[int] = addresses) -> int:
            return replay(ready.pop(), vas).accesses

        def counted(vas: NDArray[np.int64] = array) -> int:
            return count(ready.pop(), vas).accesses

        peer, *ours = rates(
            PASSES, partial(cachesim, addresses), one_by_one, replayed, counted
        )
        what = ("one a call", ""), ("access", ">= 2.5"), ("count", ">= 10")
        for (kind, target), rate in zip(what, ours, strict=True):
            yield Row(f"{kind}, {name}", rate, "pycachesim", peer, target)


def walks() -> Iterator[Row]:
    """One walk a call, of pages at the fourth level of a 4K regime, one after another.

    64 last tables with 16 pages each, so that neither the addresses nor the descriptors
    are those of the walk before.
    """
    vas = [
        0x0000_FFFF_0000_0000 + (table << 21) + (page << 16)
        for page in range(16)
        for table in range(64)
    ]
    memory = Image()
    tables = Tables(memory, first=TABLES)
    for number, va in enumerate(vas):
        tables.map(va, (1 << 31) + number * PAGE)
    regime = tables.regime()
    judge = UnicornMMU()
    judge.load(
        {
            "TCR": regime.controls.tcr.encode(),
            "MAIR": MAIR.of(NORMAL_MEMORY).encode(),
            "TTBR0": regime.ttbr0.encode(),
            "TTBR1": regime.ttbr1.encode(),
        },
        memory,
    )
    same = [address_translate(regime, memory, "S1E0R", va) for va in vas]
    assert [PAR.decode(raw) for raw in judge.translate("S1E0R", vas)] == same

    def ours() -> int:
        for _ in range(20):
            for va in vas:
                walk(regime, memory, va)
        return 20 * len(vas)

    def a_call() -> int:
        for va in vas:
            judge.translate("S1E0R", [va])
        return len(vas)

    def in_a_register() -> int:
        for va in vas:
            judge.translate_one("S1E0R", va)
        return len(vas)

    def batch() -> int:
        for _ in range(20):
            judge.translate("S1E0R", vas)
        return 20 * len(vas)

    mine, *peers = rates(WALK_ROUNDS, ours, a_call, in_a_register, batch)
    what = ("a call", ">= 15"), ("in a register", ""), ("1,024 a call", "")
    for (how, target), peer in zip(what, peers, strict=True):
        yield Row("walk, 4 levels", mine, f"Unicorn, {how}", peer, target)


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


# The kernel comes first: memory that others gave back would not be counted.
def search() -> Iterator[Row]:
    """Steps of the explorer in a second: with no rule, and under all of them."""
    meeting = MEETINGS["first touch"].scenario()

    def no_rule() -> World:
        return replace(meeting(), rules=lambda _: nullcontext())

    def anew() -> World:
        return replace(meeting(), again=False)

    def steps(scenario: Scenario) -> int:
        return explore(scenario, preemptions=1, loads=True).steps

    worlds = no_rule, meeting, anew
    bare, ruled, made_anew = rates(
        PASSES, *(partial(steps, scenario) for scenario in worlds)
    )
    yield Row("explorer, steps, no rule", bare, target=">= 20,000/s")
    peer = "a kernel a schedule"
    yield Row("explorer, steps, all rules", ruled, peer, made_anew, ">= 20,000/s")


def gallery() -> Iterator[Row]:
    """Verdicts in a second, on all cores, by the clock on the wall."""
    start = perf_counter()
    found = len(mutate())
    taken = perf_counter() - start
    yield Row(f"{found} verdicts, {taken:.0f} s", found / taken, target="<= 120 s")


PARTS = {part.__name__: part for part in (kernel, walks, traces, search, gallery)}
EXPLORING = ("search", "gallery")  # what a compiled package cannot do


def main() -> None:
    """Print the table, or the part of it that is asked for."""
    parser = ArgumentParser(description="How fast the hot paths are, beside others.")
    parser.add_argument("--only", choices=PARTS, help="this part of the table")
    parser.add_argument(
        "--compiled", action="store_true", help="of the package with its machine in C"
    )
    asked = parser.parse_args()
    if asked.compiled and FOLDER not in os.environ:
        variables = os.environ | {FOLDER: str(compiled())}
        again = [sys.executable, *sys.argv]
        os.execve(sys.executable, again, variables)  # noqa: S606 - this same script
    parts = [asked.only] if asked.only else list(PARTS)
    if FOLDER in os.environ:
        parts = [part for part in parts if part not in EXPLORING]
    print("compiled\n" if FOLDER in os.environ else "plain\n")
    print(
        f"{'what':40} {'a second':>12}  {'peer':22} {'a second':>12} {'ratio':>7}  want"
    )
    for part in parts:
        for row in PARTS[part]():
            ratio = f"{row.rate / row.peer_rate:7.2f}" if row.peer_rate else " " * 7
            peer = f"{row.peer_rate:12,.0f}" if row.peer_rate else " " * 12
            print(
                f"{row.what:40} {row.rate:12,.0f}  {row.peer:22} {peer} {ratio}  "
                f"{row.target}"
            )


if __name__ == "__main__":
    main()
