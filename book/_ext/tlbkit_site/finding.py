"""The search: an index that the page reads piece by piece, made by Pagefind."""

import subprocess
import sys
from pathlib import Path

from sphinx.errors import ExtensionError

REFERENCE = ("book/reference/", "book/glossary", "book/proof/real-kernels")
"""Where readers look things up; what explains them is found before these."""


def kind(page: str) -> str:
    """Tell what a page is to somebody who searches.

    >>> kind("book/reference/linux"), kind("book/machine/tlb")
    ('reference', 'chapter')
    """
    return "reference" if page.startswith(REFERENCE) else "chapter"


def index(site: Path) -> None:
    """Write the index of *site* into it."""
    options = {
        "--site": str(site),
        "--glob": "book/**/*.html",
        "--root-selector": "article.bd-article",
        "--exclude-selectors": ".headerlink, .tlbkit-controls, .tlbkit-actions",
        "--include-characters": "_",
    }
    words = [word for option in options.items() for word in option]
    done = subprocess.run(
        [sys.executable, "-m", "pagefind", *words],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ExtensionError(f"Pagefind made no index:\n{done.stdout}{done.stderr}")
    for unused in site.glob("pagefind/pagefind-*ui.*"):
        unused.unlink()
