"""Everything that happens, kept as steps that can be taken forwards and backwards.

A recording is made of values only: it stays what it is whatever the machine does next,
and may be drawn, sent and replayed. Steps are the events. A group is one activation of
a kernel function with all steps that happened in it, so a recording can be read
coarsely, and each coarse step opened.

What the steps reconstruct, by the keys of a state:

- ``("word", pa)``: a 64-bit word of memory, descriptor or data, from when it was first
  touched; unknown again once its frame is given to a new owner.
- ``("tlb", cpu, array, va, shift, asid)``: what a TLB (or the walk cache) holds: its
  `Entry` or `Table`. Contents are exact, the order of their use is not kept.
- ``("in flight", cpu)``: TLBIs that the CPU issued and did not wait for, as pairs of
  name and operand.
- ``("lock", label)``: who has it: pairs of CPU and how.
- ``("asid", cpu)``: the ASID that it translates under.
- ``("irqs off", cpu)``: whether it holds interrupts off.
- ``("page", asid, va)``: of a watched page, what the tables say: an `Entry` as a TLB
  would hold it, or the descriptor if it is not valid and not zero.
- ``("tables", asid, va)``: of a watched page, each `Table` on the way to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl, quote, unquote, urlencode

from tlbkit.errors import InputError
from tlbkit.observe.values import plain, restored

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Key = tuple[Any, ...]
"""Names one thing of a state; see the module."""


class Change(NamedTuple):
    """One thing that a step changed.

    Attributes:
        key: What; see the module.
        before: Its value until then, ``None`` if there was none or it is not known.
        after: Its value from then on, likewise.
    """

    key: Key
    before: Any
    after: Any


class Place(NamedTuple):
    """Where a recording was made.

    Attributes:
        cpus: CPUs of the machine.
        page_shift: log2 of the bytes of its pages.
        lpa2: Whether operands of its range TLBIs count 64 KiB units.
        pages: Addresses of the pages that were watched.
    """

    cpus: int
    page_shift: int
    lpa2: bool
    pages: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """One event, and what it changed.

    Attributes:
        cpu: Who did it.
        kind: The kind of the event.
        text: What happened, as one line.
        why: The reason, if one was given, and what follows from it.
        changes: Everything of the state that is different after it.
        about: What it was about, as a value: the address of an access, walk or fault,
            the CPUs of an IPI, name and operand of a TLBI, the kind of a DSB, the label
            of a lock; ``None`` for all others.
        ns: Its modelled time (`tlbkit.observe.timing`) if CPUs take turns: nobody waits
            for a lock, or for another's broadcast.
    """

    cpu: int
    kind: str
    text: str
    why: str
    changes: tuple[Change, ...]
    about: Any = None
    ns: float = 0.0


@dataclass(frozen=True, slots=True)
class Group:
    """What happened in one activation of a kernel function.

    Attributes:
        name: The function.
        first: Index of its first step.
        last: Index of its last step.
        parts: Its own steps, by index, and the groups of the functions that it called,
            in their order.
    """

    name: str
    first: int
    last: int
    parts: tuple[int | Group, ...]


@dataclass(frozen=True, slots=True)
class Recording:
    """What happened in one window.

    Attributes:
        start: The state before the first step, as far as the steps touch it; the TLBs
            are known in full.
        steps: In order.
        groups: The steps again, as a tree; a step outside the kernel stands by itself.
        place: The machine, and what was watched.
    """

    start: Mapping[Key, Any]
    steps: tuple[Step, ...]
    groups: tuple[int | Group, ...]
    place: Place

    def __len__(self) -> int:
        """Return the number of steps."""
        return len(self.steps)

    def state(self, position: int) -> Mapping[Key, Any]:
        """Return the state after the first *position* steps."""
        cursor = self.cursor()
        cursor.to(position)
        return cursor.state

    def cursor(self) -> Cursor:
        """Return a place to stand in this recording, at its start."""
        return Cursor(self)

    def outline(self, depth: int | None = None) -> str:
        """Return the recording as indented text.

        Args:
            depth: How many levels of groups to open; ``None`` opens all of them. A
                group that stays closed is one line that says how many steps it holds.
        """
        return "\n".join(self._lines(self.groups, 0, depth))

    def _lines(
        self, parts: tuple[int | Group, ...], level: int, depth: int | None
    ) -> Iterator[str]:
        indent = "  " * level
        for part in parts:
            if isinstance(part, int):
                step = self.steps[part]
                yield f"{indent}{part}  CPU {step.cpu}: {step.text}"
            elif depth is not None and level >= depth:
                steps = part.last - part.first + 1
                plural = "s" if steps > 1 else ""
                yield f"{indent}{part.first}  {part.name}: {steps} step{plural}"
            else:
                yield f"{indent}{part.name}"
                yield from self._lines(part.parts, level + 1, depth)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain lists, dictionaries and strings; see `from_json`.

        Numbers that do not fit a JavaScript number (addresses, words) are hex strings.
        """
        return {
            "start": [[plain(key), plain(value)] for key, value in self.start.items()],
            "steps": [
                {
                    "cpu": step.cpu,
                    "kind": step.kind,
                    "text": step.text,
                    "why": step.why,
                    "changes": [plain(tuple(change)) for change in step.changes],
                    "about": plain(step.about),
                    "ns": step.ns,
                }
                for step in self.steps
            ],
            "groups": [_plain_part(part) for part in self.groups],
            "place": plain(tuple(self.place)),
        }

    @classmethod
    def from_json(cls, data: Any) -> Recording:
        """Return the recording that `to_json` made *data* of; it is equal in all.

        Raises:
            InputError: *data* is something else.
        """
        try:
            return cls(
                {restored(key): restored(value) for key, value in data["start"]},
                tuple(
                    Step(
                        step["cpu"],
                        step["kind"],
                        step["text"],
                        step["why"],
                        tuple(Change(*restored(change)) for change in step["changes"]),
                        restored(step["about"]),
                        step["ns"],
                    )
                    for step in data["steps"]
                ),
                tuple(_restored_part(part) for part in data["groups"]),
                Place(*restored(data["place"])),
            )
        except (KeyError, TypeError, ValueError) as problem:
            raise InputError(f"this is no recording: {problem!r}") from None


def _plain_part(part: int | Group) -> Any:
    if isinstance(part, int):
        return part
    return {
        "name": part.name,
        "first": part.first,
        "last": part.last,
        "parts": [_plain_part(inner) for inner in part.parts],
    }


def _restored_part(part: Any) -> int | Group:
    if isinstance(part, int):
        return part
    inner = tuple(_restored_part(one) for one in part["parts"])
    return Group(part["name"], part["first"], part["last"], inner)


@dataclass(frozen=True, slots=True)
class Link:
    """Where in which recording: what the end of a page's address says.

    >>> print(Link("mprotect", 7, 12))
    #mprotect?seed=7&step=12
    >>> Link.parse("#mprotect?seed=7&step=12")
    Link(scenario='mprotect', seed=7, step=12)

    Attributes:
        scenario: Its name.
        seed: Of all that was left to chance; 0 where nothing was.
        step: How many steps lie behind.
    """

    scenario: str
    seed: int = 0
    step: int = 0

    def __str__(self) -> str:
        """Write it as the fragment of an address."""
        numbers = urlencode({"seed": self.seed, "step": self.step})
        return f"#{quote(self.scenario)}?{numbers}"

    @classmethod
    def parse(cls, text: str) -> Link:
        """Return the link that *text* is; what it leaves out is 0.

        Raises:
            InputError: it names no scenario, or a number is none.
        """
        name, _, query = text.rpartition("#")[2].partition("?")
        given = dict(parse_qsl(query))
        try:
            seed, step = int(given.get("seed", "0")), int(given.get("step", "0"))
        except ValueError:
            seed = step = -1
        if not name or step < 0:
            raise InputError(f"link {text!r}: write it as #scenario?seed=0&step=0")
        return cls(unquote(name), seed, step)


class Cursor:
    """A place in a recording, which moves forwards and backwards.

    Attributes:
        recording: What it moves in.
        position: Steps that lie behind it.
    """

    __slots__ = ("_values", "position", "recording")

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.position = 0
        self._values = dict(recording.start)

    @property
    def state(self) -> Mapping[Key, Any]:
        """The state here; a copy that later moves leave alone."""
        return MappingProxyType(self._values.copy())

    def forward(self) -> Step | None:
        """Take the next step and return it; at the end, do nothing."""
        if self.position == len(self.recording):
            return None
        step = self.recording.steps[self.position]
        for change in step.changes:
            self._set(change.key, change.after)
        self.position += 1
        return step

    def back(self) -> Step | None:
        """Undo the last step and return it; at the start, do nothing."""
        if not self.position:
            return None
        self.position -= 1
        step = self.recording.steps[self.position]
        for change in reversed(step.changes):
            self._set(change.key, change.before)
        return step

    def to(self, position: int) -> None:
        """Go to where *position* steps lie behind; `InputError` if there is no such."""
        if not 0 <= position <= len(self.recording):
            raise InputError(
                f"position {position}: this recording has 0 to {len(self.recording)}"
            )
        while self.position < position:
            self.forward()
        while self.position > position:
            self.back()

    def _set(self, key: Key, value: Any) -> None:
        if value is None:
            self._values.pop(key, None)
        else:
            self._values[key] = value
