"""Which kernel function each function of `tlbkit.linux` stands for, and how it differs.

A function that stands for one of the kernel says so in its docstring. ``Source:`` names
the file and the function, ``Deviates:`` each difference and why it may be there::

    Source: mm/userfaultfd.c, move_pages_ptes()

    Deviates: swap entries of devices are refused, since the model has no such memory.

What is only the model's says ``Source: none`` and what it is for instead; said of a
class or a module, that holds for all that it contains. The docstrings are read from the
source files, and nothing is imported.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tlbkit.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PACKAGE: Final = Path(__file__).resolve().parent
"""The folder of the package."""

VERSIONS: Final = ("v6.17", "v6.19")
"""The releases in whose source a reader is led to a function."""

OURS: Final = "none"
"""What stands in place of a kernel file where there is none."""

_SECTION: Final = re.compile(r"^(Source|Deviates): *", re.MULTILINE)
_FILE: Final = re.compile(r"[\w./-]+\.[chS]|[\w-]+(?:/[\w.-]+)*/")
_NAME: Final = re.compile(r"\w+(?=\(\))")
_COMPARED: Final = re.compile(r"^Compared with: *(.+?)\.?$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Stand:
    """One function of the model, and what it stands for.

    Attributes:
        python: Its dotted name, such as ``tlbkit.linux.mm.mprotect.Mprotect.f``.
        path: The file, from the folder that holds the package.
        line: Where its definition begins.
        file: The kernel file, such as ``mm/mprotect.c``; `OURS` if it is the model's
            alone; empty if it does not say.
        symbols: The kernel's names; a C function has one, a Python one may do the work
            of several.
        deviates: What differs and why, a sentence or more.
        before: Hash of the commit before which it stood so; empty for today's body.
    """

    python: str
    path: str
    line: int
    file: str
    symbols: tuple[str, ...]
    deviates: str = ""
    before: str = ""

    @property
    def name(self) -> str:
        """The function's own name in Python."""
        return self.python.rpartition(".")[2]

    @property
    def public(self) -> bool:
        """Whether others may call it."""
        return not self.name.startswith("_")

    @property
    def says(self) -> bool:
        """Whether it tells what it stands for."""
        return bool(self.file)


@dataclass(frozen=True, slots=True)
class KernelFile:
    """What the model has of one kernel file.

    Attributes:
        file: Such as ``mm/mprotect.c``.
        compared: The versions it was compared with, and when; empty if nothing says so.
        stands: Its functions, in the order of the Python files.
    """

    file: str
    compared: str
    stands: tuple[Stand, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a kernel function is found: here, in what tests and explains it, and in C.

    Attributes:
        stand: The function that stands for it.
        tests: Files of tests in which its name stands.
        chapters: Pages of the book in which it does.
        c: Version -> address of an identifier search in the kernel's own source.
    """

    stand: Stand
    tests: tuple[str, ...]
    chapters: tuple[str, ...]
    c: dict[str, str]

    def to_json(self) -> dict[str, object]:
        """Give it as plain strings, numbers, lists and dictionaries."""
        return {
            "symbols": list(self.stand.symbols),
            "kernel_file": self.stand.file,
            "python": self.stand.python,
            "path": self.stand.path,
            "line": self.stand.line,
            "before": self.stand.before,
            "deviates": self.stand.deviates,
            "tests": list(self.tests),
            "chapters": list(self.chapters),
            "c": dict(self.c),
        }


@dataclass(slots=True)
class _Room:
    """One Python file while it is read."""

    module: str
    path: str
    kernel_file: str
    before: str
    found: list[Stand] = field(default_factory=list)


def kernel_file(path: Path) -> str:
    """Return the kernel file for which a module of `tlbkit.linux` stands by its place.

    A folder of the name of a C file holds that file in parts; what lies in ``include``
    is a header.

    >>> kernel_file(PACKAGE / "linux/mm/mprotect.py")
    'mm/mprotect.c'
    >>> kernel_file(PACKAGE / "linux/arch/arm64/include/asm/tlb.py")
    'arch/arm64/include/asm/tlb.h'
    """
    parts = list(path.relative_to(PACKAGE / "linux").with_suffix("").parts)
    if parts[-1] == "__init__" or _is_in_parts(path.parent):
        parts.pop()
    name = "/".join(parts).replace("asm_generic", "asm-generic")
    name = name.replace("pgtable_generic", "pgtable-generic")
    name = name.replace("pgtable_hwdef", "pgtable-hwdef")
    return f"{name}.{'h' if 'include' in parts else 'c'}"


def _is_in_parts(folder: Path) -> bool:
    """Tell whether a folder stands for one C file: its package brings a class."""
    init = folder / "__init__.py"
    return init.is_file() and "class " in init.read_text("utf-8")


@cache
def stands() -> tuple[Stand, ...]:
    """Return every function of the kernel's parts, and of what they were before."""
    return tuple(
        stand
        for folder in ("linux", "patches")
        for path in sorted((PACKAGE / folder).rglob("*.py"))
        if "tests" not in path.parts
        for stand in _read(path)
    )


def files() -> tuple[KernelFile, ...]:
    """Return what the model has of each kernel file, sorted by the file's name.

    Old bodies are not among it: what they stand for is in today's function.
    """
    rows: dict[str, list[Stand]] = {}
    for stand in stands():
        if stand.says and stand.file != OURS and not stand.before:
            rows.setdefault(stand.file, []).append(stand)
    said = _compared()
    return tuple(
        KernelFile(file, _compared_as(file, rows[file], said), tuple(rows[file]))
        for file in sorted(rows)
    )


def _compared_as(file: str, rows: Sequence[Stand], said: dict[str, str]) -> str:
    """Return what a kernel file was compared with, as the modules of its parts say.

    What stands in a header, or is a part of another file, was compared with the module
    that it is in.
    """
    if file in said:
        return said[file]
    rooms = {kernel_file(PACKAGE.parent / stand.path) for stand in rows}
    return "; ".join(sorted({said[room] for room in rooms if room in said}))


def silent() -> tuple[Stand, ...]:
    """Return the public functions that do not say what they stand for."""
    return tuple(s for s in stands() if s.public and not s.says and not s.before)


def find(symbol: str) -> tuple[Stand, ...]:
    """Find the functions that stand for a kernel function, today's first.

    Args:
        symbol: The kernel's name, or the Python one where there is no other.

    Raises:
        InputError: No function stands for it; names that look like it are given.
    """
    wanted = symbol.removesuffix("()")
    hits = [s for s in stands() if wanted in s.symbols]
    names = {s.name for s in hits} or {wanted}
    # An older body may leave its source to today's, whose name it bears.
    hits += [s for s in stands() if s.name in names and not s.symbols]
    if hits:
        return tuple(sorted(hits, key=lambda s: bool(s.before)))
    # Imported here, since what a page runs never asks for a name that is not there.
    from difflib import get_close_matches  # noqa: PLC0415

    known = sorted({name for s in stands() for name in (*s.symbols, s.name)})
    near = get_close_matches(wanted, known, n=5)
    raise InputError(
        f"nothing here stands for {symbol!r}"
        + (f"; did you mean {', '.join(near)}?" if near else "")
    )


def where(symbol: str) -> tuple[Place, ...]:
    """Tell where a kernel function is found, today's body first.

    Tests outside of the package and the book are found in a clone only; an installed
    package has neither.

    Raises:
        InputError: No function stands for it.
    """
    root = PACKAGE.parent
    tests = sorted({*PACKAGE.rglob("test_*.py"), *root.glob("tests/**/test_*.py")})
    pages = sorted(root.glob("book/**/*.md"))
    places = []
    for stand in find(symbol):
        names = tuple(dict.fromkeys((*stand.symbols, stand.name)))
        places.append(
            Place(
                stand,
                _mention(names, tests),
                _mention(names, pages),
                {v: identifier(names[0], v) for v in VERSIONS} if stand.symbols else {},
            )
        )
    return tuple(places)


def identifier(symbol: str, version: str) -> str:
    """Return the address of a search for an identifier in the source of a version."""
    return f"https://elixir.bootlin.com/linux/{version}/A/ident/{symbol}"


def _mention(names: Sequence[str], among: Sequence[Path]) -> tuple[str, ...]:
    """Return the files in whose text one of the names stands as a word."""
    word = re.compile(rf"\b(?:{'|'.join(map(re.escape, names))})\b")
    root = PACKAGE.parent
    return tuple(
        path.relative_to(root).as_posix()
        for path in among
        if word.search(path.read_text("utf-8"))
    )


def _read(path: Path) -> Iterator[Stand]:
    """Read what each function of one file says."""
    tree = ast.parse(path.read_text("utf-8"))
    inside = path.relative_to(PACKAGE.parent)
    of_linux = inside.parts[1] == "linux"
    room = _Room(
        module=".".join(inside.with_suffix("").parts),
        path=inside.as_posix(),
        kernel_file=kernel_file(path) if of_linux else "",
        before="" if of_linux else _commit(tree),
    )
    if not of_linux and not room.before:
        return iter(())
    module_says = ast.get_docstring(tree) or ""
    _walk(room, tree, "", ours=_is_ours(module_says))
    return iter(room.found)


def _commit(tree: ast.Module) -> str:
    """Return the hash of the commit that a module of `tlbkit.patches` holds, if any."""
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg in {"commit", "of"}:
            value = node.value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                return value.value[:12]
    return ""


def _walk(room: _Room, node: ast.AST, prefix: str, *, ours: bool) -> None:
    """Note each function below a module or a class."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef):
            said = ast.get_docstring(child) or ""
            _walk(room, child, f"{prefix}{child.name}.", ours=ours or _is_ours(said))
        elif (
            isinstance(child, ast.FunctionDef)
            and not child.name.startswith("__")
            and not _is_setter(child)
        ):
            room.found.append(_stand(room, child, prefix, ours=ours))


def _is_setter(node: ast.FunctionDef) -> bool:
    """Tell whether a function sets a property, of which the getter says all."""
    return any(
        isinstance(mark, ast.Attribute) and mark.attr == "setter"
        for mark in node.decorator_list
    )


def _stand(room: _Room, node: ast.FunctionDef, prefix: str, *, ours: bool) -> Stand:
    """Make the entry of one function."""
    said = _sections(ast.get_docstring(node) or "")
    file, symbols = "", ()
    source = said.get("Source")
    if source is None:
        file = OURS if ours else ""
    elif source.startswith(OURS):
        file = OURS
    else:
        named = _FILE.match(source)
        file = named[0] if named else room.kernel_file
        symbols = tuple(dict.fromkeys(_NAME.findall(source))) or (node.name,)
    return Stand(
        python=f"{room.module}.{prefix}{node.name}",
        path=room.path,
        line=node.lineno,
        file=file,
        symbols=symbols,
        deviates=said.get("Deviates", ""),
        before=room.before,
    )


def _sections(docstring: str) -> dict[str, str]:
    """Cut the ``Source:`` and ``Deviates:`` of a docstring out, each as one line."""
    found: dict[str, str] = {}
    marks = list(_SECTION.finditer(docstring))
    ends = [*(mark.start() for mark in marks[1:]), len(docstring)]
    for mark, end in zip(marks, ends, strict=False):
        text = docstring[mark.end() : end]
        # A section ends with its paragraph, or where the next of its kind begins.
        paragraph = " ".join(text.split("\n\n", 1)[0].split())
        found[mark[1]] = f"{found.get(mark[1], '')} {paragraph}".strip()
    return found


def _is_ours(docstring: str) -> bool:
    """Tell whether a class or module says that it is the model's alone."""
    return _sections(docstring).get("Source", "").startswith(OURS)


def _compared() -> dict[str, str]:
    """Return, by kernel file, what its modules say they were compared with."""
    found: dict[str, str] = {}
    for path in sorted((PACKAGE / "linux").rglob("*.py")):
        if "tests" not in path.parts:
            said = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
            for match in _COMPARED.finditer(said):
                found.setdefault(kernel_file(path), match[1])
    return found
