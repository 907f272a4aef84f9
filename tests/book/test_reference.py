"""The reference part: no module of the package is without a page."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    page.stem: page.read_text("utf-8") for page in (ROOT / "book/reference").iterdir()
}
PACKAGES = sorted(path.parent.name for path in ROOT.glob("tlbkit/*/__init__.py"))


@pytest.mark.parametrize("package", PACKAGES)
def test_each_package_has_a_page(package):
    """Every folder of the package is documented, with all modules below it."""
    assert f"package-reference:: tlbkit.{package}\n" in PAGES[package]


def test_each_module_at_the_top_has_a_page():
    """So is every module that lies in no folder, but for those that start it."""
    modules = {path.stem for path in ROOT.glob("tlbkit/*.py")}
    named = set(re.findall(r"automodule:: tlbkit\.(\w+)", "".join(PAGES.values())))
    assert modules - {"__init__", "__main__"} == named


def test_each_page_is_in_the_contents():
    """No page of the reference is out of the reader's reach."""
    contents = (ROOT / "_toc.yml").read_text("utf-8")
    for name in PAGES:
        assert f"file: book/reference/{name}\n" in contents
