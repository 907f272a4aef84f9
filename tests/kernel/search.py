"""Play programs of chance on a real kernel and on the model, and shrink what differs.

    python3 tests/kernel/search.py 6.19.14 --programs 300

It says its seed, so that a search can be done again. With ``--record`` the programs go
into the corpus, with what the kernel answered; kernels that are recorded with the same
seed and number play the same programs. It needs what `measure.py` needs.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from kernel_chance import program  # noqa: E402
from kernel_corpus import (  # noqa: E402
    CORPUS,
    FACETS,
    Difference,
    Recorded,
    compare,
    firsts,
    known,
    load,
    save,
)
from kernel_text import parse  # noqa: E402
from measure import (  # noqa: E402
    CPUS,
    STANDS_FOR,
    Archive,
    Built,
    Emulator,
    MeasureError,
    Program,
    build,
    need,
    seen,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ROUNDS: Final = 8
"""How often a program is made shorter, a boot each time."""


class Real:
    """A real kernel that plays programs."""

    def __init__(
        self, version: str, cpu: str, emulator: Emulator, built: Built
    ) -> None:
        self.name = f"{version}-{cpu}"
        self.cpu = cpu
        self.model = STANDS_FOR.get(".".join(version.split(".")[:2]), "fixed")
        self._image, _ = Archive().kernel(version)
        self._emulator = emulator
        self._built = built

    def play(self, programs: Iterable[Recorded]) -> None:
        """Play programs in one boot, and write down what they came to."""
        numbered = list(programs)
        told = self._emulator.boot(
            self._image,
            self.cpu,
            self._built,
            [Program(str(n), one.lines) for n, one in enumerate(numbered)],
        )
        for name, lines in told:
            if name.isdigit():
                numbered[int(name)].answers[self.name] = [
                    seen(line) for line in lines if line
                ]

    def differences(self, programs: Iterable[Recorded]) -> list[Difference]:
        """Hold the model against what was played."""
        return compare(programs, self.name, self.model, self.cpu).differences


def playable(lines: list[str]) -> bool:
    """Tell whether each line has somebody to act, and each request its userfaultfd."""
    actors, threads, watching = {0}, set[tuple[int, int]](), set[tuple[int, str]]()
    for text in lines:
        line = parse(text)
        if line.who is None:
            continue
        if line.who not in actors:
            return False
        if line.cpu is not None and (line.who, line.cpu) not in threads:
            return False
        if line.verb == "fork":
            actors.add(int(line.words[0]))
        elif line.verb == "exit":
            actors.discard(line.who)
        elif line.verb == "thread":
            threads.add((line.who, int(line.words[0])))
        elif line.verb == "uffd":
            watching.add((line.who, line.words[0]))
        elif (
            line.verb
            in {"register", "unregister", "wp", "copy", "zero", "move"} | {"continue"}
            and (line.who, line.words[0]) not in watching
        ):
            return False
    return True


def shorter(lines: list[str]) -> Iterator[list[str]]:
    """Return a program without some lines in a row, the most first; its last stays."""
    size = (len(lines) - 1) // 2
    while size:
        for first in range(0, len(lines) - 1, size):
            last = min(first + size, len(lines) - 1)
            rest = lines[:first] + lines[last:]
            if playable(rest):
                yield rest
        size //= 2


def shrink(real: Real, found: dict[int, tuple[Recorded, Difference]]) -> None:
    """Make the programs of differences shorter while they still differ so, in place."""
    for seed, (one, difference) in found.items():
        cut = Recorded(seed, one.lines[: difference.number + 1])
        cut.answers[real.name] = one.answers[real.name][: difference.number + 1]
        found[seed] = cut, difference
    for _ in range(ROUNDS):
        tried = {
            seed: [Recorded(seed, lines) for lines in shorter(one.lines)]
            for seed, (one, _) in found.items()
        }
        real.play(one for several in tried.values() for one in several)
        better = False
        for seed, several in tried.items():
            for one in several:
                last = real.differences([one])[-1:]
                if last and last[0].number == len(one.lines) - 1:
                    same = last[0].facets == found[seed][1].facets
                    if same and len(one.lines) < len(found[seed][0].lines):
                        found[seed] = one, last[0]
                        better = True
                        break
        if not better:
            return


def record(programs: list[Recorded], into: Path) -> None:
    """Add programs to a corpus, or answers to the programs that it has."""
    corpus = {one.seed: one for one in load(into)} if into.exists() else {}
    for one in programs:
        known = corpus.setdefault(one.seed, one)
        if known.lines == one.lines:
            known.answers |= one.answers
        else:
            corpus[one.seed] = one
    save((corpus[seed] for seed in sorted(corpus)), into)


def main() -> int:
    """Read the command line, and search."""
    parser = argparse.ArgumentParser(description="Look for what the model does wrong.")
    parser.add_argument("version", help="such as 6.19.14; measure.py --list")
    parser.add_argument("--cpu", choices=CPUS, default="range")
    parser.add_argument("--seed", type=int, default=0, help="of the first program")
    parser.add_argument("--programs", type=int, default=200)
    parser.add_argument("--shrink", type=int, default=6, help="how many to shrink")
    parser.add_argument("--record", action="store_true", help="add to the corpus")
    parser.add_argument("--into", type=Path, default=CORPUS, help="another corpus")
    parser.add_argument("--qemu", default="qemu-system-aarch64")
    asked = parser.parse_args()
    last = asked.seed + asked.programs
    print(f"programs {asked.seed} to {last - 1}")
    try:
        emulator = Emulator(need(asked.qemu, "qemu-system-arm"))
        emulator.check()
        real = Real(asked.version, asked.cpu, emulator, build())
        programs = [Recorded(seed, program(seed)) for seed in range(asked.seed, last)]
        real.play(programs)
        if asked.record:
            record(programs, asked.into)
        result = compare(programs, real.name, real.model, real.cpu)
        print(f"{result.programs} programs, {result.calls} calls")
        for facet in FACETS:
            print(f"  {facet:10} {result.agree(facet):9.3%}")
        by_seed = {one.seed: one for one in programs}
        differ = firsts(result.differences)
        found = {
            one.seed: (by_seed[one.seed], one) for one in differ if known(one) is None
        }
        print(f"{len(differ)} programs differ, {len(found)} by no known fault")
        shown = dict(list(found.items())[: asked.shrink])
        if shown:
            shrink(real, shown)
        for one, difference in shown.values():
            print("", *one.lines, str(difference), sep="\n")
    except MeasureError as error:
        print(error, file=sys.stderr)
        return 1
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
