"""A dumped table image, and answers about addresses in it.

A crash dump or another simulator gives the registers and the table words it has, and
asks where addresses lead; the answers come from the same walk that the machine uses.
An image is one JSON object; numbers that can be large are hex strings::

    {"regs":   {"TCR": "0x..", "MAIR": "0x..", "TTBR0": "0x..", "TTBR1": "0x..",
                "SCTLR": "0x.."},
     "cpu":    {"pa_bits": 48, "lpa2": false},
     "memory": [["0xPA", "0xDESCRIPTOR"], ...],
     "files":  [{"path": "vmcore"}, {"path": "tables.bin", "pa": "0x40000000"}, ...],
     "probes": [{"va": "0x..", "at": "S1E0R", "pan": 0},
                {"va": "0x..", "access": "ld", "el": 0, "pan": 0}]}

- ``SCTLR`` may be left out: MMU on, WXN and EPAN clear. ``cpu`` may be left out, and
  so may each of its members: the fields of `Capabilities`, by default everything.
- ``memory`` lists words, ``files`` names files that hold memory, by paths from where
  the image lies: an ELF core, or raw bytes with the physical address of the first (and
  ``offset``, how many bytes to pass over). Either may be left out.
- A frame of which any word is listed is listed whole: its other words are zero. Of all
  other memory nothing is known, unless ``"unlisted": "zero"`` says that it is zero.
- A probe is an address translation instruction (``at``: S1E0R, S1E0W, S1E1R, S1E1W,
  S1E1RP, S1E1WP) or an access (``access``: ld, st, ex; ``el``: 0 or 1). ``pan`` is
  PSTATE.PAN, 0 if left out; it matters to S1E1RP, S1E1WP and to ld and st at EL1.

Each probe is answered on its own, from the image as given:

- ``{"fault": "translation", "level": 2}``; also address_size, access_flag, permission.
- ``{"missing": "0xPA", "level": 2}``: the walk needs this word, of a table of that
  level, and the image does not have it. Nothing is known of the address then.
- ``{"pa": "0x..", "attr": "0x..", "sh": 3}``: physical address, MAIR byte, and
  shareability (0 non, 2 outer, 3 inner). An instruction reports as PAR_EL1 does, the
  address of the 4 KiB around; an access has the address of the byte itself.
- An access has ``"rewrote": [["0xPA", "0xDESCRIPTOR"], ...]`` as well: descriptors that
  hardware rewrote to set the access flag or the dirty state, with their new value.
  An instruction rewrites nothing, which is one of the choices that Arm leaves.
"""

from __future__ import annotations

import dataclasses
import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from tlbkit.arm64.fault import Fault
from tlbkit.arm64.memory_files import MemoryFile
from tlbkit.arm64.permission import (
    EL0_READ,
    EL0_WRITE,
    EL1_READ,
    EL1_READ_PAN,
    EL1_WRITE,
    EL1_WRITE_PAN,
    access_bit,
)
from tlbkit.arm64.regime import Capabilities, Regime
from tlbkit.arm64.registers import MAIR, PAR, PHYSICAL_SIZES, SCTLR, TCR, TTBR
from tlbkit.arm64.walk import Translation, hardware_update, translate
from tlbkit.errors import InputError, TlbkitError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from tlbkit.arm64.walk import Memory

AT_ACCESS = {
    "S1E0R": (EL0_READ, EL0_READ),
    "S1E0W": (EL0_WRITE, EL0_WRITE),
    "S1E1R": (EL1_READ, EL1_READ),
    "S1E1W": (EL1_WRITE, EL1_WRITE),
    "S1E1RP": (EL1_READ, EL1_READ_PAN),
    "S1E1WP": (EL1_WRITE, EL1_WRITE_PAN),
}
"""Access that an address translation instruction asks about, with PAN 0 and 1."""

PA_BITS = 52


class Words(dict[int, int]):
    """Physical memory of which some words are known; the others are zero.

    Addresses are multiples of 8.
    """

    __slots__ = ()

    read = dict.__getitem__

    def __missing__(self, pa: int) -> int:
        """The word of an address that is not known."""
        return 0


class MissingWordError(TlbkitError):
    """A walk needs a word that an image does not have.

    Attributes:
        pa: Where it would stand.
    """

    def __init__(self, pa: int) -> None:
        super().__init__(f"not in the image: the word at {pa:#x}")
        self.pa = pa


class Dumped:
    """Physical memory of which an image has parts.

    Args:
        words: Those that are listed; addresses are multiples of 8.
        files: Files that have more.
        page_shift: log2 of the bytes of a frame.
        unlisted: What a word of a frame is that neither has; ``None`` if not known.
    """

    __slots__ = ("_files", "_frames", "_page_shift", "_unlisted", "_words")

    def __init__(
        self,
        words: dict[int, int],
        files: Sequence[MemoryFile] = (),
        page_shift: int = 12,
        unlisted: int | None = None,
    ) -> None:
        self._words = words
        self._files = files
        self._page_shift = page_shift
        self._unlisted = unlisted
        self._frames = {pa >> page_shift for pa in words}

    def read(self, pa: int) -> int:
        """The word at *pa*; `MissingWordError` if the image does not have it."""
        word = self._words.get(pa)
        if word is not None:
            return word
        for file in self._files:
            word = file.read(pa)
            if word is not None:
                return word
        if pa >> self._page_shift in self._frames:
            return 0
        if self._unlisted is None:
            raise MissingWordError(pa)
        return self._unlisted


class _Counted:
    """Memory that remembers how many words were read of it."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self.reads = 0

    def read(self, pa: int) -> int:
        """The word at *pa*."""
        self.reads += 1
        return self._memory.read(pa)


class Probe(NamedTuple):
    """One question about an image.

    Attributes:
        va: the address.
        need: the access bit.
        instruction: asked by an address translation instruction, not an access.
    """

    va: int
    need: int
    instruction: bool


class Image(NamedTuple):
    """A table image and the questions about it."""

    regime: Regime
    memory: Dumped
    probes: list[Probe]


def address_translate(
    regime: Regime, memory: Memory, instruction: str, va: int, pan: int = 0
) -> PAR:
    """What ``AT`` *instruction* ("S1E0R", ...) leaves in PAR_EL1 for *va*."""
    return par(translate(regime, memory, va, AT_ACCESS[instruction][pan]), va)


def par(outcome: Translation | Fault, va: int) -> PAR:
    """PAR_EL1 for the *outcome* of translating *va*."""
    if isinstance(outcome, Fault):
        return PAR(fault=outcome)
    pa = _byte_address(outcome, va)
    return PAR(pa=pa & ~0xFFF, attr=outcome.leaf.attr, sh=outcome.leaf.sh)


def run(text: str, folder: Path | None = None) -> list[dict[str, Any]]:
    """Answer the probes of an image given as JSON text; see the module.

    Args:
        text: The JSON.
        folder: Where the paths of ``files`` begin; without it there may be none.

    Raises:
        InputError: the text is not JSON, or not that of an image; one line that
            says what is wrong and where.
    """
    return answer(parse(text), folder)


def parse(text: str) -> object:
    """Return an image's JSON, decoded; `InputError` if it is none."""
    try:
        return json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError) as problem:
        raise InputError(f"the image is not JSON: {problem}") from None


def answer(image: object, folder: Path | None = None) -> list[dict[str, Any]]:
    """Answer the probes of an image given as decoded JSON; see the module.

    Args:
        image: The JSON, decoded.
        folder: As for `run`.

    Raises:
        InputError: a part of the image is missing, unknown or malformed; one line
            that says what is wrong and where.
    """
    regime, memory, probes = read_image(image, folder)
    return [_reply(regime, memory, probe) for probe in probes]


def read_image(image: object, folder: Path | None = None) -> Image:
    """Registers, memory and probes of an image given as decoded JSON.

    Args:
        image: The JSON, decoded.
        folder: As for `run`.

    Raises:
        InputError: as `answer`.
    """
    node = _Node("", image)
    parts = node.members(
        "regs", "probes", optional=("cpu", "memory", "files", "unlisted")
    )
    if not parts.keys() & {"memory", "files"}:
        raise node.error('neither "memory" nor "files" is there')
    capabilities = Capabilities()
    if "cpu" in parts:
        capabilities = _capabilities(parts["cpu"])
    regime = _regime(parts["regs"], capabilities)
    unlisted = None
    if "unlisted" in parts:
        unlisted = {"zero": 0, "missing": None}[
            parts["unlisted"].choice("zero", "missing")
        ]
    memory = Dumped(
        _memory(parts["memory"], capabilities.pa_bits) if "memory" in parts else {},
        _files(parts["files"], folder) if "files" in parts else (),
        max((h.granule.page_shift for h in regime.halves if h.granule), default=12),
        unlisted,
    )
    return Image(regime, memory, [_probe(one) for one in parts["probes"].items()])


def _reply(regime: Regime, memory: Memory, probe: Probe) -> dict[str, Any]:
    """The answer to one probe, as the module describes it."""
    counted = _Counted(memory)
    try:
        outcome = translate(regime, counted, probe.va, probe.need)
    except MissingWordError as missing:
        hops = regime.starts[probe.va >> 55 & 1][2]
        level = hops[counted.reads - 1][3].level
        return {"missing": hex(missing.pa), "level": level}
    rewrote: list[list[str]] = []
    if isinstance(outcome, Fault):
        reply = {"fault": outcome.kind.value, "level": outcome.level}
    else:
        pa = _byte_address(outcome, probe.va)
        if probe.instruction:
            pa &= ~0xFFF
        leaf = outcome.leaf
        reply = {"pa": hex(pa), "attr": f"{leaf.attr:#04x}", "sh": leaf.sh}
        updated = hardware_update(outcome, probe.need)
        if updated != outcome.descriptor:
            rewrote.append([hex(outcome.descriptor_pa), hex(updated)])
    return reply if probe.instruction else {**reply, "rewrote": rewrote}


def _byte_address(translation: Translation, va: int) -> int:
    """Physical address of the byte at *va*."""
    return translation.pa | va & (1 << translation.leaf.shift) - 1


class _Node(NamedTuple):
    """A part of the JSON, and where it stands."""

    path: str
    value: Any

    def error(self, problem: str) -> InputError:
        """The error that this part is wrong."""
        return InputError(f"{self.path or 'the image'}: {problem}")

    def members(self, *required: str, optional: Iterable[str] = ()) -> dict[str, _Node]:
        """The members of an object that has all of *required* and no unknown one."""
        if not isinstance(self.value, dict):
            raise self.error(f"{_short(self.value)} is not an object")
        known = [*required, *optional]
        for name in required:
            if name not in self.value:
                raise self.error(f'"{name}" is missing')
        for name in self.value:
            if name not in known:
                names = ", ".join(known)
                raise self.error(f"{_short(name)} is unknown; there are {names}")
        prefix = f"{self.path}." if self.path else ""
        return {key: _Node(prefix + key, value) for key, value in self.value.items()}

    def items(self) -> list[_Node]:
        """The items of an array."""
        if not isinstance(self.value, list):
            raise self.error(f"{_short(self.value)} is not an array")
        return [_Node(f"{self.path}[{i}]", item) for i, item in enumerate(self.value)]

    def number(self, bits: int) -> int:
        """The number that a hex string stands for."""
        if not isinstance(self.value, str) or not _HEX.fullmatch(self.value):
            raise self.error(f'{_short(self.value)} is not a hex string like "0x1000"')
        number = int(self.value, 16)
        if number >> bits:
            raise self.error(f"{self.value} has more than {bits} bits")
        return number

    def choice(self, *options: str | int) -> Any:
        """The value, which is one of *options*."""
        for option in options:
            if type(self.value) is type(option) and self.value == option:
                return option
        listed = ", ".join(json.dumps(option) for option in options)
        raise self.error(f"{_short(self.value)} is none of {listed}")


_HEX = re.compile("0[xX][0-9a-fA-F]+")
_LONGEST_QUOTE = 40


def _short(value: object) -> str:
    """*value* as JSON, cut short when it is long."""
    text = json.dumps(value, default=repr)
    return text if len(text) <= _LONGEST_QUOTE else text[:_LONGEST_QUOTE] + "..."


def _object(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """The members of a JSON object, none of which may be given twice."""
    known: dict[str, Any] = {}
    for name, value in members:
        if name in known:
            raise InputError(f"the image: {_short(name)} stands twice in one object")
        known[name] = value
    return known


def _regime(regs: _Node, capabilities: Capabilities) -> Regime:
    """The regime that the registers and the CPU make."""
    registers = regs.members("TCR", "MAIR", "TTBR0", "TTBR1", optional=("SCTLR",))
    raw = {name: node.number(64) for name, node in registers.items()}
    try:
        return Regime.of(
            tcr=TCR.decode(raw["TCR"]),
            mair=MAIR.decode(raw["MAIR"]),
            ttbr0=TTBR.decode(raw["TTBR0"]),
            ttbr1=TTBR.decode(raw["TTBR1"]),
            sctlr=SCTLR.decode(raw["SCTLR"]) if "SCTLR" in raw else None,
            capabilities=capabilities,
        )
    except InputError as problem:
        raise regs.error(str(problem)) from None


def _capabilities(cpu: _Node) -> Capabilities:
    """What the CPU can do, where the image says so; everything else."""
    everything = dataclasses.asdict(Capabilities())
    given = cpu.members(optional=everything)
    options = dict.fromkeys(everything, (True, False)) | {"pa_bits": PHYSICAL_SIZES}
    return Capabilities(
        **{name: node.choice(*options[name]) for name, node in given.items()}
    )


def _memory(memory: _Node, pa_bits: int) -> dict[int, int]:
    """The words that the image lists."""
    words: dict[int, int] = {}
    for item in memory.items():
        pair = item.items()
        if len(pair) != 2:
            raise item.error("not a pair of address and descriptor")
        pa, word = pair[0].number(PA_BITS), pair[1].number(64)
        if pa % 8:
            raise pair[0].error(f"{pa:#x} is not a multiple of 8")
        if pa >> pa_bits:
            raise pair[0].error(
                f"{pa:#x} is above the CPU's physical addresses, of {pa_bits} bits"
            )
        if words.setdefault(pa, word) != word:
            raise pair[0].error(f"{pa:#x} was listed before, with another value")
    return words


def _files(files: _Node, folder: Path | None) -> list[MemoryFile]:
    """The files that hold memory."""
    found = []
    for item in files.items():
        parts = item.members("path", optional=("pa", "offset"))
        if folder is None:
            raise item.error("an image that lies nowhere can name no file")
        path = parts["path"].value
        if not isinstance(path, str) or "\0" in path:
            raise parts["path"].error(f"{_short(path)} is not a path")
        pa = parts["pa"].number(PA_BITS) if "pa" in parts else None
        offset = parts["offset"].number(63) if "offset" in parts else 0
        try:
            found.append(MemoryFile(folder / path, pa, offset))
        except InputError as problem:
            raise item.error(str(problem)) from None
    return found


def _probe(node: _Node) -> Probe:
    """One probe."""
    if isinstance(node.value, dict) and "access" in node.value:
        parts = node.members("va", "access", "el", optional=("pan",))
        kind = parts["access"].choice("ld", "st", "ex")
        need = access_bit(kind, el=parts["el"].choice(0, 1), pan=_pan(parts))
    else:
        parts = node.members("va", "at", optional=("pan",))
        need = AT_ACCESS[parts["at"].choice(*AT_ACCESS)][_pan(parts)]
    return Probe(parts["va"].number(64), need, "at" in parts)


def _pan(parts: dict[str, _Node]) -> int:
    """PSTATE.PAN of a probe, 0 if it does not say."""
    return int(parts["pan"].choice(0, 1)) if "pan" in parts else 0
