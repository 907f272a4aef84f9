"""The ARM64 MMU and TLB, and the Linux flows that flush it, as a running model.

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

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tlbkit.arm64.machine import Machine
    from tlbkit.lab.trace import Trace
    from tlbkit.observe.counters import counting
    from tlbkit.patches.kernels import Kernel

__version__ = "0.1.0"

__all__ = ["Kernel", "Machine", "Trace", "counting"]

_HOMES = {
    "Kernel": "tlbkit.patches.kernels",
    "Machine": "tlbkit.arm64.machine",
    "Trace": "tlbkit.lab.trace",
    "counting": "tlbkit.observe.counters",
}


def __getattr__(name: str) -> Any:
    """Load the public face where it is asked for: a walk of tables needs no kernel."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """Name the public face as well."""
    return sorted({*globals(), *__all__})
