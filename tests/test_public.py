"""The public face: what can be imported from the top, and that it is what it says."""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import tlbkit

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("name", tlbkit.__all__)
def test_each_public_name_is_there_and_documented(name):
    """It can be imported, it has a docstring, and the package's text names it."""
    found = getattr(tlbkit, name)
    assert found.__doc__
    assert f"`{name}`" in (tlbkit.__doc__ or "")
    assert name in dir(tlbkit)


def test_what_types_say_is_what_is_there():
    """The imports that a type checker reads name the same objects."""
    tree = ast.parse((ROOT / "tlbkit/__init__.py").read_text("utf-8"))
    told = {
        alias.name: str(node.module)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        and (node.module or "").startswith("tlbkit.")
        for alias in node.names
    }
    assert sorted(told) == sorted(tlbkit.__all__)
    for name, module in told.items():
        if name != "explore":
            assert getattr(tlbkit, name) is getattr(import_module(module), name)


def test_the_search_is_a_name_at_the_top():
    """`explore` finds what `tlbkit.explore.search.explore` finds."""
    from tlbkit.explore.search import explore  # noqa: PLC0415 - beside the other
    from tlbkit.explore.tests.support import process_world  # noqa: PLC0415 - as above

    scenario = process_world("munmap", without={"dsb ish in flush_tlb_range_"})
    found, same = tlbkit.explore(scenario), explore(scenario)
    assert found.breach
    assert same.breach
    assert (found.runs, found.breach.steps) == (same.runs, same.breach.steps)


def test_an_unknown_name_is_an_attribute_error():
    """As of any other module."""
    with pytest.raises(AttributeError, match="no attribute 'Kernal'"):
        tlbkit.Kernal  # noqa: B018 - to look is to fail


def test_to_import_the_package_loads_nothing():
    """Names are loaded when they are asked for, so a walk of tables needs no kernel."""
    code = "import sys, tlbkit; print([m for m in sys.modules if 'tlbkit.' in m])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
