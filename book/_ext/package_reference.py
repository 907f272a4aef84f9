"""A directive that documents every module of a package, so that none is forgotten."""

from __future__ import annotations

import ast
import inspect
import pkgutil
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

REFERENCE = "book/reference/"
"""The folder of the pages that use the directive."""

LONG = 1000
"""Characters of a value that are no longer read, but scrolled past."""


def modules_of(package: str) -> Iterator[str]:
    """Yield the names of a package and of all modules below it that are not tests."""
    yield package
    path = import_module(package).__path__
    for found in pkgutil.walk_packages(path, f"{package}."):
        if "tests" not in found.name.split("."):
            yield found.name


def options_of(module: ModuleType) -> list[str]:
    """Return autodoc's options for a module.

    What a package passes on is documented where it is at home. A table of hundreds of
    lines tells its reader nothing: a module that has one shows no values.
    """
    if hasattr(module, "__path__"):
        return []
    assigned = (
        target.id
        for statement in ast.parse(inspect.getsource(module)).body
        if isinstance(statement, ast.Assign | ast.AnnAssign)
        for target in ast.walk(statement)
        if isinstance(target, ast.Name) and isinstance(target.ctx, ast.Store)
    )
    long = any(len(repr(getattr(module, name, None))) > LONG for name in assigned)
    return ["   :members:", *(["   :no-value:"] if long else [])]


class PackageReference(SphinxDirective):
    """``.. package-reference:: tlbkit.arm64``: every module, every public member."""

    required_arguments: ClassVar[int] = 1

    def run(self) -> list[nodes.Node]:
        """Let autodoc document module after module."""
        lines: list[str] = []
        for name in modules_of(self.arguments[0]):
            lines += [f".. rubric:: {name}", ""]
            lines += [f".. automodule:: {name}", *options_of(import_module(name)), ""]
        found = nodes.container()
        self.state.nested_parse(StringList(lines, source=""), 0, found)
        return [found]


def words_stay_words(
    _app: Sphinx,
    _env: BuildEnvironment,
    node: nodes.Element,
    content: nodes.Element,
) -> nodes.Element | None:
    """Leave what a docstring says of a type in words as text.

    Docstrings describe types for people ("a frame number"), and the build would take
    each word for a class. In chapters a reference that leads nowhere stays an error.
    """
    return content if node.get("refdoc", "").startswith(REFERENCE) else None


def setup(app: Sphinx) -> dict[str, Any]:
    """Add the directive."""
    app.add_directive("package-reference", PackageReference)
    app.connect("missing-reference", words_stay_words)
    return {"parallel_read_safe": True}
