"""Events as lines of text, one each, for programs and for ``diff``.

The form does not change with how events are told to people::

    17 cpu0 store pa=0x8000500040 old=0x0 new=0xe8000080006f43 why="set_pte"

That is the running number, the CPU, the kind with ``-`` for its spaces, and fields
``name=value`` in the order of `FIELDS`. A number is hex if it is an address, an
operand, a descriptor or memory, and decimal otherwise; text is a JSON string; a list
has commas and no spaces. What an event does not have is left out. The same as one JSON
object a line has the members ``n``, ``cpu``, ``kind`` and the fields, with hex numbers
as strings.

`parse` reads a line back.
"""

from __future__ import annotations

import json
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from tlbkit.arm64.cached import CachedTable
from tlbkit.arm64.fault import Fault
from tlbkit.arm64.machine import machine_of
from tlbkit.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import TextIO

    from tlbkit.arm64.events import Event
    from tlbkit.arm64.machine import Machine, OnMachine

Fields = dict[str, Any]
_LINE: Final = re.compile(r"([0-9]+) cpu([0-9]+) ([a-z_-]+)((?: [a-z0-9_]+=.*)?)")
_FIELD: Final = re.compile(r' ([a-z0-9_]+)=("(?:[^"\\]|\\.)*"|[^ "]*)')


def _access(event: Event) -> Fields:
    return {
        "va": hex(event.what.va),
        "pa": hex(event.what.pa),
        "old": _hex(event.old),
        "new": _hex(event.new),
    }


def _store(event: Event) -> Fields:
    return {"pa": hex(event.what), "old": _hex(event.old), "new": _hex(event.new)}


def _walk(event: Event) -> Fields:
    found = event.new
    fields: Fields = {"va": hex(event.what)}
    if event.old is not None:
        fields["from_level"] = event.old.level
    return fields | (
        _faulted(found)
        if isinstance(found, Fault)
        else {"pa": hex(found.pa), "level": found.leaf.level}
    )


def _faulted(fault: Fault) -> Fields:
    return {"fault": fault.kind.value, "level": fault.level}


def _cached(event: Event) -> Fields:
    what = event.what
    where = {"tlb": event.new or event.old}
    if isinstance(what, CachedTable):
        table = what.table
        return {
            **where,
            "va": hex(table.va),
            "pa": hex(table.pa),
            "level": table.level,
            "asid": what.asid,
        }
    return {
        **where,
        "va": hex(what.va),
        "pa": hex(what.pa),
        "size": 1 << what.shift,
        "asid": what.asid,
        "descriptor": hex(what.descriptor),
    }


def _lock(event: Event) -> Fields:
    return {"lock": event.what.name, "how": event.new}


def _span(event: Event) -> Fields:
    return {"start": hex(event.what[0]), "end": hex(event.what[1])}


def _call(event: Event) -> Fields:
    told = [hex(one) if isinstance(one, int) else str(one) for one in event.new]
    return {"call": event.what, "arguments": ",".join(told)}


FIELDS: Final[Mapping[str, Callable[[Event], Fields]]] = {
    "read": _access,
    "write": _access,
    "execute": _access,
    "fault": lambda event: {"va": hex(event.what), **_faulted(event.new)},
    "spurious": lambda event: {"va": hex(event.what)},
    "walk": _walk,
    "store": _store,
    "hardware": _store,
    "tlbi": lambda event: {"op": event.what.name, "operand": hex(event.new)},
    "dsb": lambda event: {"domain": event.what},
    "isb": lambda _: {},
    "fill": _cached,
    "drop": _cached,
    "switch": lambda event: {
        "ttbr0": hex(event.new.ttbr0.encode()),
        "asid": event.new.asid,
    },
    "irq": lambda event: {"irqs": event.what},
    "ipi": lambda event: {"to": ",".join(map(str, event.what))},
    "call": _call,
    "call_rcu": lambda event: {"waits_for": ",".join(map(str, event.what))},
    "lock": _lock,
    "no lock": _lock,
    "alloc": lambda event: {"pfn": hex(event.what), "order": event.new},
    "free": lambda event: {"pfn": hex(event.what), "order": event.old},
    "notifier": _span,
    "notifier range": lambda event: {**_span(event), "step": event.old},
    "gup read": lambda event: {
        "level": event.what[0],
        "pa": hex(event.what[1]),
        "new": _hex(event.new),
    },
    "gup take": lambda event: {"pfn": hex(event.what)},
    "warning": lambda event: {"place": str(event.what)},
    "stat": lambda event: {
        "counter": str(event.what),
        "old": event.old,
        "new": event.new,
    },
    "dax": lambda event: {"range": str(event.what), "answer": str(event.new)},
    "printk": lambda event: {"text": str(event.what)},
}
"""The fields of each kind of event; ``why`` follows where there is a reason."""


def fields(event: Event) -> Fields:
    """Return an event as the JSON object of its line.

    A kind that `FIELDS` does not know has ``what`` in words.
    """
    told = FIELDS.get(event.kind)
    said = {"what": str(event.what)} if told is None else told(event)
    if event.why:
        said["why"] = event.why
    return {
        "n": event.number,
        "cpu": event.cpu,
        "kind": event.kind.replace(" ", "-"),
        **{name: value for name, value in said.items() if value is not None},
    }


def line(event: Event) -> str:
    """Return an event as a line of text, without its end.

    >>> from tlbkit.arm64.events import Event
    >>> line(Event(3, 1, "dsb", "ish", None, None, ""))
    '3 cpu1 dsb domain="ish"'
    """
    said = fields(event)
    head = f"{said.pop('n')} cpu{said.pop('cpu')} {said.pop('kind')}"
    return head + "".join(f" {name}={_text(value)}" for name, value in said.items())


def parse(text: str) -> Fields:
    """Return the JSON object of a line; `InputError` if it is none.

    >>> parse('3 cpu1 dsb domain="ish"')
    {'n': 3, 'cpu': 1, 'kind': 'dsb', 'domain': 'ish'}
    """
    read = _LINE.fullmatch(text)
    if read is None or _FIELD.sub("", read[4]):
        raise InputError(
            f"{text[:60]!r} is no event; write NUMBER cpuN KIND NAME=VALUE"
        )
    said: Fields = {"n": int(read[1]), "cpu": int(read[2]), "kind": read[3]}
    for name, value in _FIELD.findall(read[4]):
        said[name] = _value(value)
    return said


@contextmanager
def tracing(
    watched: Machine | OnMachine, out: TextIO, *, as_json: bool = False
) -> Iterator[None]:
    """Write a line for each event from here to the end of the ``with`` block.

    Args:
        watched: The machine, or the kernel that runs on it.
        out: Where the lines go.
        as_json: Whether each is a JSON object.
    """
    machine = machine_of(watched)

    def write(event: Event) -> None:
        said = json.dumps(fields(event)) if as_json else line(event)
        out.write(f"{said}\n")

    machine.events.listen(write)
    try:
        yield
    finally:
        machine.events.leave(write)


def _hex(value: object) -> str | None:
    return hex(value) if isinstance(value, int) else None


def _text(value: object) -> str:
    """Return a value as a line has it: hex and numbers bare, other text as JSON."""
    bare = isinstance(value, int) or re.fullmatch(r"0x[0-9a-f]+", str(value))
    return str(value) if bare else json.dumps(value)


def _value(text: str) -> Any:
    """Return the value that a line has so."""
    if text.startswith("0x"):
        return text
    try:
        return json.loads(text)
    except ValueError:
        raise InputError(f"{text[:40]!r} is no value of an event") from None
