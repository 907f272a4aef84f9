"""Under each quoted function that stands for one of the kernel, the way to its C."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docutils import nodes
from sphinx.directives.code import LiteralInclude

from tlbkit import sources

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[2]

SINCE = {
    "__print_bad_page_map_pgtable": "v6.19",
    "__tlbi_sync_s1ish": "v7.0",
    "__vm_normal_page": "v6.19",
    "fix_spurious_fault": "v6.19",
    "is_bad_page_map_ratelimited": "v6.19",
    "move_present_ptes": "v6.19",
    "print_bad_page_map": "v6.19",
    "tlb_flush_unshared_tables": "v6.19",
    "tlb_unshare_pmd_ptdesc": "v6.19",
}
"""The functions that v6.17 does not have, by a search of its source, and who does."""


@cache
def _known() -> dict[tuple[str, str], sources.Stand]:
    """Return what stands for kernel functions, by file and name within the file."""
    named = {}
    for stand in sources.stands():
        module = stand.path.removesuffix(".py").replace("/", ".")
        named[stand.path, stand.python.removeprefix(f"{module}.")] = stand
    return named


def quoted(path: str, name: str) -> sources.Stand | None:
    """Return what a quoted function stands for; None if for nothing in the kernel.

    Args:
        path: The Python file, from the root of the project.
        name: As `pyobject` has it, such as ``Class.method``.
    """
    stand = _known().get((path, name))
    return stand if stand and stand.symbols else None


def versions(symbol: str, stand: sources.Stand) -> tuple[str, ...]:
    """Return the releases whose C has a function: of an older body, the older one."""
    if symbol in SINCE:
        return (SINCE[symbol],)
    return sources.VERSIONS[:1] if stand.before else sources.VERSIONS


def line(stand: sources.Stand) -> nodes.paragraph:
    """Return the line under a quotation: the kernel's names, and their C by release."""
    found = nodes.paragraph(classes=["tlbkit-quoted"])
    for symbol in stand.symbols:
        found += nodes.Text("; " if len(found) else "In the kernel: ")
        found += nodes.literal(text=f"{symbol}()")
        for version in versions(symbol, stand):
            address = sources.identifier(symbol, version)
            found += nodes.Text(", ")
            found += nodes.reference(text=version, refuri=address, internal=False)
    return found


class Quotation(LiteralInclude):
    """``literalinclude``, followed by where the quoted function is in the kernel."""

    def run(self) -> list[nodes.Node]:
        """Quote it, and lead to its C."""
        shown = super().run()
        _, filename = self.env.relfn2path(self.arguments[0])
        file = Path(filename).resolve()
        if "pyobject" in self.options and file.is_relative_to(ROOT):
            path = file.relative_to(ROOT).as_posix()
            stand = quoted(path, self.options["pyobject"])
            if stand:
                shown.append(line(stand))
        return shown


def setup(app: Sphinx) -> dict[str, Any]:
    """Put it in the place of Sphinx's own."""
    app.add_directive("literalinclude", Quotation, override=True)
    return {"parallel_read_safe": True}
