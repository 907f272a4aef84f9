"""Whatever a page cites stands in the bibliography."""

import re
from pathlib import Path

import pytest

from tlbkit.patches.registry import PATCHES

ROOT = Path(__file__).resolve().parents[2]
BIBLIOGRAPHY = ROOT / "book" / "bibliography.md"
PAGES = sorted(p for p in (ROOT / "book").rglob("*.md") if p != BIBLIOGRAPHY)
CITATIONS = {
    "mail": re.compile(r"[\w.+=-]+@[\w-]+(?:\.[\w-]+)+"),
    "vulnerability": re.compile(r"CVE-\d{4}-\d+"),
    "pull request": re.compile(r"(?<=NVIDIA/NV-Kernels/pull/)\d+"),
    "document": re.compile(r"Documentation/[\w./-]+\.rst"),
}


def listed() -> str:
    """Return what the bibliography names, as text or by way of the registry."""
    sources = [source for patch in PATCHES for source in patch.sources]
    return "\n".join([BIBLIOGRAPHY.read_text("utf-8"), *sources])


@pytest.mark.parametrize("kind", CITATIONS)
def test_what_is_cited_is_listed(kind):
    """A reader finds each mail, record and document that a page cites in one place."""
    known = set(CITATIONS[kind].findall(listed()))
    cited = {
        (page.stem, citation)
        for page in PAGES
        for citation in CITATIONS[kind].findall(page.read_text("utf-8"))
    }
    assert cited
    assert not {(page, what) for page, what in cited if what not in known}


def test_what_is_listed_is_cited():
    """The bibliography names no vulnerability that nothing in the book rests on."""
    listed_here = CITATIONS["vulnerability"].findall(BIBLIOGRAPHY.read_text("utf-8"))
    used = "\n".join(page.read_text("utf-8") for page in PAGES)
    used += "\n".join(source for patch in PATCHES for source in patch.sources)
    assert not {cve for cve in listed_here if cve not in used}
