"""A scenario's operation on one kernel, as a recording of the pages that it uses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tlbkit.arm64.machine import Machine
from tlbkit.arm64.models import DEFAULT_MODEL
from tlbkit.linux.include.linux.hugetlb import is_vm_hugetlb_page
from tlbkit.observe.recorder import recording

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tlbkit.lab.parameter import Value
    from tlbkit.lab.scenario import Scenario
    from tlbkit.lab.variant import Variant
    from tlbkit.linux.kernel.kernel import Kernel
    from tlbkit.observe.recording import Recording

MOST: Final = 2048
"""How many pages of one mapping are watched, if not said otherwise."""


def recorded(
    scenario: Scenario,
    params: Mapping[str, Value],
    variant: Variant,
    cpu: str = DEFAULT_MODEL,
) -> Recording:
    """Prepare a scenario on a machine of its own, and record its operation.

    Args:
        scenario: What to run.
        params: Values of parameters; the others have their defaults.
        variant: The kernel.
        cpu: Name of a CPU model.

    Errors:
        InputError: As `tlbkit.lab.run.run`.
    """
    settings = scenario.settings(params)
    machine = Machine(int(settings["cpus"]), cpu)
    kernel = variant.start(machine)
    operation = scenario.prepare(kernel, settings)
    with recording(machine, mapped_pages(kernel)) as recorder:
        operation()
    return recorder.finish()


def mapped_pages(kernel: Kernel, most: int = MOST) -> tuple[int, ...]:
    """Return the addresses of all pages that some running process has mapped.

    Of a mapping of huge pages these are the huge pages.

    Args:
        kernel: The kernel.
        most: How many pages of one mapping, from its beginning.
    """
    running = {mm for mm in kernel.sched.current if mm is not None}
    found: set[int] = set()
    for mm in running:
        for vma in mm.vmas:
            size = kernel.pgtable.page_size
            if is_vm_hugetlb_page(vma):
                size = kernel.pgtable.pmd_size
            found.update(range(vma.start, vma.end, size)[:most])
    return tuple(sorted(found))
