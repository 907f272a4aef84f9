"""Quotations of the kernel's parts: each leads to the C that it stands for."""

import re
from pathlib import Path

import kernel_quotes
import pytest
from docutils import nodes

from tlbkit import sources

ROOT = Path(__file__).resolve().parents[2]
KERNEL = ("tlbkit/linux/", "tlbkit/patches/")
QUOTED = sorted(
    {
        (path.resolve().relative_to(ROOT).as_posix(), name)
        for page in (ROOT / "book").rglob("*.md")
        for file, options in re.findall(
            r"\{literalinclude\} (\S+)\n((?::.*\n)*)", page.read_text("utf-8")
        )
        for name in re.findall(r":pyobject: (\S+)", options)
        if (path := page.parent / file)
    }
)
LEADING = [one for one in QUOTED if one[0].startswith(KERNEL)]


@pytest.mark.parametrize(("path", "name"), LEADING)
def test_a_quoted_kernel_function_leads_to_its_c(path, name):
    """What has the name of a kernel function is followed by its name and its releases.

    What is the model's alone leads nowhere: the kernel has no function of that name.
    """
    stand = kernel_quotes.quoted(path, name)
    symbol = name.rpartition(".")[2].rstrip("_")
    known = {one for each in sources.stands() for one in each.symbols}
    if stand is None:
        assert not {symbol, f"__{symbol}"} & known, "it says no Source:"
        return
    line = kernel_quotes.line(stand)
    leads = [link["refuri"] for link in line.findall(nodes.reference)]
    assert len(leads) >= len(stand.symbols)
    for one in stand.symbols:
        assert f"{one}()" in line.astext()
        assert any(lead.endswith(f"/ident/{one}") for lead in leads)


def test_most_quotations_lead_somewhere():
    """That nothing is found would be a fault of the search, and not of the book."""
    found = [one for one in LEADING if kernel_quotes.quoted(*one)]
    assert len(found) > 0.8 * len(LEADING) > 0
