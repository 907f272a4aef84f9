"""The families of litmus tests, so that a verdict table can stand in a small file.

A test of a family is a change of one table word, what the writer does after it, and
what the reader does before it uses the page; both are words joined by '-'.
`verdicts.txt` holds the verdicts that Arm's published model gives to each (herdtools7
at 5feffe4e8, variant vmsa, and with ets2): 'a' allowed, 'f' forbidden, first without
ETS2, then with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from tlbkit.explore.litmus import LitmusTest, load

if TYPE_CHECKING:
    from collections.abc import Iterator

WORDS = {
    "po": (),
    "dsb": ("DSB",),
    "dsbst": ("DSB.st",),
    "dsbld": ("DSB.ld",),
    "dsbnsh": ("DSB.nsh",),
    "dsbnshst": ("DSB.nshst",),
    "dmb": ("DMB",),
    "dmbst": ("DMB.st",),
    "dmbld": ("DMB.ld",),
    "isb": ("ISB",),
    "ctrl": ("BRANCH(r)",),
    "tlbi": ("TLBI.is(x)",),
    "tlbiy": ("TLBI.is(y)",),
    "tlbilocal": ("TLBI.local(x)",),
    "vmall": ("TLBI.is(all)",),
    "vmalllocal": ("TLBI.local(all)",),
    "acq": (),  # the reader's load of the flag is a load-acquire
    "rel": (),  # the writer's store to the flag is a store-release
}


class Change(NamedTuple):
    """A change of the table word of x, and what would be wrong after it."""

    before: str
    after: str
    access: str
    wrong: str


CHANGES = {
    "remap": Change("frame a", "frame b", "v := x", "P{}.v = 5"),
    "unmap": Change("frame a", "invalid", "v := x", "not fault(P{})"),
    "map": Change("invalid", "frame a", "v := x", "fault(P{})"),
    "ro2rw": Change("frame a, read-only", "frame a", "x := 1", "fault(P{})"),
    "rw2ro": Change("frame a", "frame a, read-only", "x := 1", "not fault(P{})"),
    "af0to1": Change("frame a, af 0", "frame a", "v := x", "fault(P{})"),
    "af1to0": Change("frame a", "frame a, af 0", "x := 1", "not fault(P{})"),
}


def _head(name: str, change: Change) -> list[str]:
    return [
        f"test {name}",
        "  frame a = 5",
        "  frame b = 6",
        f"  page x = {change.before}",
        f"  entry A = {change.after}",
    ]


def _steps(words: str) -> list[str]:
    return [step for word in words.split("-") for step in WORDS[word]]


def message_passing(family: str, writer: str, reader: str) -> LitmusTest:
    """Return the test `mp-<family>+<writer>+<reader>`."""
    change = CHANGES[family]
    flag = "STLR(flag) := 1" if "rel" in writer.split("-") else "flag := 1"
    load_flag = "r := LDAR(flag)" if "acq" in reader.split("-") else "r := flag"
    lines = _head(f"mp-{family}+{writer}+{reader}", change)
    lines.append("  P0: " + "; ".join(["pte(x) := A", *_steps(writer), flag]))
    lines.append("  P1: " + "; ".join([load_flag, *_steps(reader), change.access]))
    lines.append(f"  exists P1.r = 1 and {change.wrong.format(1)}")
    return load("\n".join(lines))[0]


def single_cpu(family: str, words: str) -> LitmusTest:
    """Return the test `self-<family>+<words>`."""
    change = CHANGES[family]
    lines = _head(f"self-{family}+{words}", change)
    lines.append("  P0: " + "; ".join(["pte(x) := A", *_steps(words), change.access]))
    lines.append(f"  exists {change.wrong.format(0)}")
    return load("\n".join(lines))[0]


def members(lines: list[str]) -> Iterator[tuple[LitmusTest, str, str]]:
    """Yield each test of a verdict table with its verdict without and with ETS2."""
    family, columns = "", [""]
    letters = {"a": "allowed", "f": "forbidden"}
    for line in lines:
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if words[0].startswith(("mp-", "self-")):
            family, columns = words[0], words[1:]
            continue
        kind, change = family.split("-")
        for column, verdicts in zip(columns, words[1:], strict=True):
            test = (
                message_passing(change, words[0], column)
                if kind == "mp"
                else single_cpu(change, words[0] + "-" + column)
            )
            yield test, letters[verdicts[0]], letters[verdicts[1]]
