"""The ARM64 MMU and TLB, and the Linux flows that flush it, as a running model.

What is public is here, under one name each:

- a machine and a kernel: `Machine`, `find_model`, `Kernel`, `tune`;
- what happens on them: `counting`, `timing`, `recording`, `tracing`;
- what may not happen: `Sanitizer`, which raises `RuleBrokenError`;
- several CPUs at once: `World`, `Flow`, `explore`, `replay` (these need greenlet);
- programs of your own, as strace wrote them: `Trace`;
- what a system call raises: `SystemCallError` with the errno, and `Signal`; everything
  that the package raises itself is a `TlbkitError`, a wrong argument an `InputError`.

>>> from tlbkit import Kernel, Machine, counting
>>> machine = Machine(cpus=4, model="neoverse-n1")
>>> kernel = Kernel(machine, "v6.17")
>>> p = kernel.spawn(cpu=0)
>>> a = p.mmap(64 * 4096, "rw")
>>> for i in range(64):
...     p.write(a + i * 4096, i, cpu=i % 4)
>>> p.mprotect(a, 64 * 4096, "none")
>>> with counting(machine) as c:
...     p.mprotect(a, 64 * 4096, "rw")
>>> dict(c.tlbi), dict(c.dsb), c.ipi_broadcasts, dict(c.faults)
({'VALE1IS': 64}, {'ishst': 1, 'ish': 1}, 0, {})
>>> p.read(a + 4096, cpu=1)
1
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if sys.version_info < (3, 11):  # noqa: UP036 - the sentence is for older Pythons
    raise ImportError(
        f"tlbkit needs Python 3.11 or newer, and {sys.executable} is Python "
        f"{sys.version_info[0]}.{sys.version_info[1]}"
    )

if TYPE_CHECKING:
    from tlbkit.arm64.machine import Machine
    from tlbkit.arm64.models import find_model
    from tlbkit.errors import InputError, TlbkitError
    from tlbkit.explore.scheduler import Flow, World
    from tlbkit.explore.search import explore, replay
    from tlbkit.lab.trace import Trace
    from tlbkit.linux.include.uapi.asm_generic.errno import Signal, SystemCallError
    from tlbkit.linux.tuning import tune
    from tlbkit.observe.counters import counting
    from tlbkit.observe.lines import tracing
    from tlbkit.observe.recorder import recording
    from tlbkit.observe.rules.rule import RuleBrokenError
    from tlbkit.observe.sanitizer import Sanitizer
    from tlbkit.observe.timing import timing
    from tlbkit.patches.kernels import Kernel

__version__ = "0.1.0"

__all__ = [
    "Flow",
    "InputError",
    "Kernel",
    "Machine",
    "RuleBrokenError",
    "Sanitizer",
    "Signal",
    "SystemCallError",
    "TlbkitError",
    "Trace",
    "World",
    "counting",
    "explore",
    "find_model",
    "recording",
    "replay",
    "timing",
    "tracing",
    "tune",
]

_HOMES = {
    "Flow": "tlbkit.explore.scheduler",
    "InputError": "tlbkit.errors",
    "Kernel": "tlbkit.patches.kernels",
    "Machine": "tlbkit.arm64.machine",
    "RuleBrokenError": "tlbkit.observe.rules.rule",
    "Sanitizer": "tlbkit.observe.sanitizer",
    "Signal": "tlbkit.linux.include.uapi.asm_generic.errno",
    "SystemCallError": "tlbkit.linux.include.uapi.asm_generic.errno",
    "TlbkitError": "tlbkit.errors",
    "Trace": "tlbkit.lab.trace",
    "World": "tlbkit.explore.scheduler",
    "counting": "tlbkit.observe.counters",
    "find_model": "tlbkit.arm64.models",
    "recording": "tlbkit.observe.recorder",
    "replay": "tlbkit.explore.search",
    "timing": "tlbkit.observe.timing",
    "tracing": "tlbkit.observe.lines",
    "tune": "tlbkit.linux.tuning",
}


def __getattr__(name: str) -> Any:
    """Load the public face where it is asked for: a walk of tables needs no kernel."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """Name the public face as well."""
    return sorted({*globals(), *__all__})
