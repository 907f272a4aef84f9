"""A directive that lists the kernel's functions by file, and how ours differ."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.domains.std import StandardDomain
from sphinx.util.docutils import SphinxDirective

from tlbkit import sources

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sphinx.application import Sphinx


def label(kernel_file: str) -> str:
    """Return the name by which a chapter refers to the part of a kernel file.

    >>> label("mm/userfaultfd.c")
    'kernel-file-mm-userfaultfd-c'
    """
    return "kernel-file-" + re.sub(r"[^a-z0-9]+", "-", kernel_file.lower()).strip("-")


def rows(stands: Sequence[sources.Stand]) -> Iterator[tuple[str, str, str]]:
    """Yield, for each function, the kernel's names, the Python and what differs."""
    for stand in stands:
        names = ", ".join(
            f"`{name}() <{sources.identifier(name, sources.VERSIONS[-1])}>`__"
            for name in stand.symbols
        )
        python = f":py:obj:`~{stand.python}`" if stand.public else f"``{stand.name}``"
        yield names, python, stand.deviates or "the same"


def lines(files: Sequence[sources.KernelFile]) -> Iterator[str]:
    """Yield the page as reStructuredText, a part for each kernel file."""
    for one in files:
        yield from ("", f".. _{label(one.file)}:", "", f".. rubric:: {one.file}", "")
        same = sum(not stand.deviates for stand in one.stands)
        compared = f" Compared with {one.compared}." if one.compared else ""
        functions = (
            "1 function" if len(one.stands) == 1 else f"{len(one.stands)} functions"
        )
        yield f"{functions}, {same} the same.{compared}"
        yield from ("", ".. list-table::", "   :header-rows: 1", "   :widths: 35 25 40")
        yield ""
        for cells in (("in the kernel", "here", "what differs"), *rows(one.stands)):
            for i, cell in enumerate(cells):
                yield f"   {'- ' if i else '* - '}{cell}".replace("   - ", "     - ")
        yield ""


class KernelFunctions(SphinxDirective):
    """``.. kernel-functions::``: what stands for which kernel function."""

    def run(self) -> list[nodes.Node]:
        """List them, file after file."""
        found = nodes.container()
        files = sources.files()
        self.state.nested_parse(StringList(list(lines(files)), source=""), 0, found)
        # In a page of Markdown this is a document of its own, whose labels are lost.
        known = self.env.get_domain("std")
        assert isinstance(known, StandardDomain)
        for one in files:
            name = label(one.file)
            known.note_hyperlink_target(name, self.env.docname, name, one.file)
        return [found]


def setup(app: Sphinx) -> dict[str, Any]:
    """Add the directive."""
    app.add_directive("kernel-functions", KernelFunctions)
    return {"parallel_read_safe": True}
