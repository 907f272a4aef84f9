"""Imports between the rooms of the package point down, and a run needs no guests."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "tlbkit"

# Each room may use those after it in its own row, and nothing else of the package.
BELOW = {
    "commands": {"show", "lab", "explore", "observe", "patches", "linux", "arm64"},
    "show": {"lab", "explore", "observe", "patches", "linux", "arm64"},
    "lab": {"explore", "observe", "patches", "linux", "arm64"},
    "explore": {"patches", "linux", "arm64"},
    "observe": {"patches", "linux", "arm64"},
    "patches": {"linux", "arm64"},
    "linux": {"arm64"},
    "arm64": set(),
}
# What a room may use from outside; NumPy is for what has columns.
GUESTS = {
    "commands": set(),
    "show": {"bokeh", "ipywidgets", "jupyter_bokeh", "IPython", "numpy"},
    "lab": {"numpy", "pyarrow"},
    "explore": {"greenlet", "numpy"},
    "observe": {"numpy"},
    "arm64": {"numpy"},
}
HEAVY = {"numpy", "greenlet", "bokeh", "ipywidgets", "jupyter_bokeh", "IPython"}


def modules(room: str) -> list[Path]:
    """Return the modules of a room without its tests."""
    return sorted(
        path
        for path in (PACKAGE / room).rglob("*.py")
        if "tests" not in path.relative_to(PACKAGE).parts
    )


def imported(path: Path) -> Iterator[str]:
    """Yield the full name of whatever a module imports, wherever in it."""
    name = path.relative_to(ROOT).with_suffix("").parts
    package = name[:-1]
    for node in ast.walk(ast.parse(path.read_text("utf-8"), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            source = ".".join((*above, *filter(None, [node.module])))
            yield from (f"{source}.{alias.name}" for alias in node.names)


def rooms_used(path: Path) -> set[str]:
    """Return the rooms that a module imports from."""
    parts = (name.split(".") for name in imported(path))
    return {p[1] for p in parts if p[0] == "tlbkit" and p[1] in BELOW}


def test_every_folder_of_the_package_is_a_room():
    """A new folder has to be given its place among the arrows."""
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert folders - {"tests"} == set(BELOW)


@pytest.mark.parametrize("room", BELOW)
def test_arrows_point_down(room):
    """A room imports itself and the rooms below it, never one above or beside it."""
    wrong = {
        str(path.relative_to(ROOT)): sorted(up)
        for path in modules(room)
        if (up := rooms_used(path) - BELOW[room] - {room})
    }
    assert not wrong


def test_relative_imports_are_seen(tmp_path, monkeypatch):
    """The arrows cannot be evaded by dots."""
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    module = tmp_path / "tlbkit" / "arm64" / "sly.py"
    module.parent.mkdir(parents=True)
    module.write_text("from ..linux.mm import rmap\nfrom .. import lab\n")
    assert rooms_used(module) == {"linux", "lab"}


@pytest.mark.parametrize("room", BELOW)
def test_guests_stay_in_their_rooms(room):
    """Outside the standard library, a room imports only what it is there for."""
    known = sys.stdlib_module_names | {"tlbkit"} | GUESTS.get(room, set())
    strangers = {
        str(path.relative_to(ROOT)): sorted(guests)
        for path in modules(room)
        if (guests := {name.split(".")[0] for name in imported(path)} - known)
    }
    assert not strangers


def test_the_public_face_does_not_show():
    """`import tlbkit` reaches no figure and no widget."""
    assert "show" not in rooms_used(PACKAGE / "__init__.py")


RUN = ["-m", "tlbkit", "run", "mprotect", "--set", "pages=2", "--json"]


def test_a_run_needs_only_the_standard_library():
    """A scenario runs where no package at all is installed."""
    subprocess.run([sys.executable, "-S", *RUN], cwd=ROOT, check=True)


def test_a_run_loads_nothing_heavy():
    """Where packages are installed, a run leaves them alone, so it starts at once."""
    script = (
        "import runpy, sys\n"
        f"sys.argv = {RUN[1:]!r}\n"
        "try: runpy.run_module('tlbkit', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        f"sys.exit(', '.join({HEAVY!r} & sys.modules.keys()) or 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.returncode, done.stderr


def own_imports(path: Path) -> set[str]:
    """Return the modules of the package that a module imports, for types or at work."""
    found = set()
    for name in imported(path):
        module = ROOT.joinpath(*name.split("."))
        if module.with_suffix(".py").is_file():
            found.add(name)
        elif module.parent.with_suffix(".py").is_file():
            found.add(name.rpartition(".")[0])
    return found


# In a kernel everybody knows everybody: its parts call each other by the kernel's name.
@pytest.mark.parametrize("room", sorted(BELOW.keys() - {"linux", "show"}))
def test_no_two_modules_of_a_room_import_each_other(room):
    """Whatever a module imports can be understood without it."""
    uses = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): own_imports(path)
        for path in modules(room)
    }
    while leaves := {name for name, used in uses.items() if not used & uses.keys()}:
        for name in leaves:
            del uses[name]
    assert not uses, f"these import each other in a circle: {sorted(uses)}"
