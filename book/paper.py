"""Print the whole book: one PDF with contents, page numbers and links.

    python3 book/paper.py

It builds the site if need be, puts all chapters into one page, has Chromium print it,
asks the print where each part stands, and prints again with these numbers in the
contents. Answers are open, boards stand as they are at the start, and what only moves
is left out. The reference is on the site, as it is for looking things up.
"""

import argparse
import io
import os
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / ".ci"))

import environment
import serve
from environment import ROOT, say

if TYPE_CHECKING:
    from bs4 import BeautifulSoup, Tag
    from playwright.sync_api import Page, ViewportSize

TARGET = ROOT / "_build" / "html" / "tlbkit.pdf"
TOGETHER = "paper.html"
LEFT_OUT = "book/reference/"
UNPRINTABLE = ".headerlink, .toctree-wrapper, [data-pagefind-meta], .tlbkit-trace"
"""What no script needs; the style leaves out what only moves."""

SHEET: "ViewportSize" = {"width": 642, "height": 960}
"""What is printed of an A4 sheet, in the pixels of a style sheet."""

FOOTER = (
    '<div style="width:100%;font:8pt sans-serif;color:#555;text-align:center">'
    '<span class="pageNumber"></span></div>'
)


@dataclass(frozen=True)
class Entry:
    """A line of the contents: where it leads, what it says, how deep it stands."""

    place: str
    text: str
    depth: int


@dataclass(frozen=True)
class Book:
    """All chapters as one page, and what its contents list."""

    title: str
    head: str
    body: str
    entries: tuple[Entry, ...]


def main() -> int:
    """Print the book into _build/html/tlbkit.pdf."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.parse_args()
    python = environment.prepare("test")
    if Path(sys.prefix).resolve() != python.parent.parent.resolve():
        variables = environment.variables(python)
        again = [str(python), __file__]
        return subprocess.run(again, env=variables, check=False).returncode
    with environment.alone():
        serve.build(python, live=True, everything=False)
    print_book()
    say(f"Printed: {TARGET.relative_to(ROOT)}")
    return 0


def chapters() -> Iterator[tuple[str, str]]:
    """Yield the pages to print in reading order, each with the part that it opens."""
    import yaml  # noqa: PLC0415 - only the environment has it

    contents = yaml.safe_load((ROOT / "_toc.yml").read_text("utf-8"))
    yield "", contents["root"]
    for part in contents["parts"]:
        opens = part["caption"]
        for chapter in part["chapters"]:
            if not chapter["file"].startswith(LEFT_OUT):
                yield opens, chapter["file"]
                opens = ""


def slug(page: str) -> str:
    """Return the name of a page's place in the print.

    >>> slug("book/machine/tlb")
    'machine-tlb'
    """
    return page.removeprefix("book/").replace("/", "-")


def leads(href: str, page: str, printed: frozenset[str]) -> str | None:
    """Return where a link of *page* leads in the print, or None if out of it.

    >>> printed = frozenset({"book/glossary"})
    >>> leads("../glossary.html#term-TLB", "book/machine/tlb", printed)
    '#glossary--term-TLB'
    """
    target, _, anchor = href.partition("#")
    if "://" in target:
        return None
    parts: list[str] = []
    for part in (PurePosixPath(page).parent / target).parts if target else ():
        parts = parts[:-1] if part == ".." else [*parts, part]
    led = "/".join(parts).removesuffix(".html") if target else page
    if led not in printed:
        return None
    return f"#{slug(led)}--{anchor}" if anchor else f"#{slug(led)}"


def chapter(soup: "BeautifulSoup", page: str, printed: frozenset[str]) -> "Tag":
    """Return what is printed of a page, its places and links named for the whole."""
    article = soup.select_one("article.bd-article")
    if article is None:
        raise SystemExit(f"{page} has no text; build the book anew: serve.py --fresh")
    for unwanted in article.select(UNPRINTABLE):
        unwanted.decompose()
    for answer in article.select("details"):
        if not answer.find_parent(
            class_="cell_output"
        ):  # there they are tables of data
            answer["open"] = ""
    for named in article.select("[id]"):
        named["id"] = f"{slug(page)}--{named['id']}"
    for link in article.select("a[href]"):
        if place := leads(str(link["href"]), page, printed):
            link["href"] = place
        elif "://" not in str(link["href"]):
            link.unwrap()  # to the reference, which is on the site
    article.name = "section"
    article["id"] = slug(page)
    article["class"] = "bd-article printed"
    return article


def bind(site: Path) -> Book:
    """Put all chapters of the built *site* into one page."""
    from bs4 import BeautifulSoup  # noqa: PLC0415 - only the environment has it

    order = list(chapters())
    printed = frozenset(page for _, page in order)
    heads: dict[str, None] = {}
    bodies, entries, title = [], [], ""
    for part, page in order:
        path = site / f"{page}.html"
        soup = BeautifulSoup(path.read_text("utf-8"), "html.parser")
        up = "../" * page.count("/")
        for wanted in soup.select(
            'link[rel="stylesheet"], script[src*="bokeh"], script[src*="explorer"],'
            ' script[src*="player"], script[src*="stage-"], script[src*="mathjax"]'
        ):
            for name in ("src", "href"):
                if name in wanted.attrs:
                    wanted[name] = str(wanted[name]).removeprefix(up)
            heads[str(wanted)] = None
        if part:
            entries.append(Entry(slug(page), part, 0))
        text = chapter(soup, page, printed)
        for heading in text.select("h1, h2"):
            place = heading.find_parent("section")
            where = str(place["id"]) if place else slug(page)
            depth = 1 if heading.name == "h1" else 2
            entries.append(Entry(where, heading.get_text(), depth))
            title = title or heading.get_text()
        bodies.append(str(text))
    return Book(title, "\n".join(heads), "\n".join(bodies), tuple(entries))


def version() -> str:
    """Return the release that is printed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return f"tlbkit {project['version']}"


def together(book: Book, numbers: dict[str, int]) -> str:
    """Return the book as HTML, with the pages' *numbers* in its contents."""
    lines = "".join(
        f'<li class="depth{entry.depth}"><a href="#{entry.place}">'
        f"<span>{escape(entry.text)}</span>"
        f"<span>{numbers.get(entry.place, '') if entry.depth else ''}</span></a></li>"
        for entry in book.entries
    )
    return (
        '<!doctype html><html lang="en" data-theme="light" data-mode="light">'
        f'<head><meta charset="utf-8"><title>{escape(book.title)}</title>{book.head}'
        '<link rel="stylesheet" href="_static/paper.css"></head><body>'
        f'<header class="title"><p>{escape(book.title)}</p>'
        f"<p>The tlbkit authors</p><p>{version()}</p></header>"
        f'<nav class="contents"><h1>Contents</h1><ol>{lines}</ol></nav>'
        f"<main>{book.body}</main></body></html>"
    )


def pages_of(pdf: bytes, places: frozenset[str]) -> dict[str, int]:
    """Return the number of the page on which each place of the print stands."""
    import pypdf  # noqa: PLC0415 - only the environment has it

    reader = pypdf.PdfReader(io.BytesIO(pdf))
    found = {}
    for name, destination in reader.named_destinations.items():
        place = name.removeprefix("/")
        number = reader.get_destination_page_number(destination)
        if place in places and number is not None:
            found[place] = number + 1
    return found


def settle(page: "Page", address: str) -> None:
    """Wait until the boards and figures of the whole book are drawn."""
    page.goto(address, wait_until="load", timeout=120_000)
    page.wait_for_function(
        "[...document.querySelectorAll('.tlbkit-figure')].every(f => f.children.length)"
        " && [...document.querySelectorAll('.tlbkit-stage .tlbkit-board')]"
        ".every(b => b.children.length)",
        timeout=120_000,
    )
    page.wait_for_timeout(1000)  # and the formulas are set


def print_book() -> None:
    """Print twice: once to learn the numbers, once with them."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - see above

    book = bind(serve.SITE)
    places = frozenset(entry.place for entry in book.entries)
    sheet = serve.SITE / TOGETHER
    chromium = environment.browser()
    if chromium is None:
        raise SystemExit(
            "Chromium prints the book, and none is installed (Debian: apt-get install "
            "chromium). TLBKIT_CHROMIUM can name one that is elsewhere."
        )
    root = getattr(os, "geteuid", lambda: 1)() == 0
    numbers: dict[str, int] = {}
    with serve.listen(0) as server, sync_playwright() as play:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser = play.chromium.launch(
            executable_path=chromium, args=["--no-sandbox"] if root else []
        )
        # Figures take the width that they have when they are drawn.
        page = browser.new_page(viewport=SHEET, device_scale_factor=2)
        page.emulate_media(media="print", color_scheme="light")
        for _ in range(2):
            sheet.write_text(together(book, numbers), "utf-8")
            settle(page, f"http://127.0.0.1:{server.server_port}/{TOGETHER}")
            pdf = page.pdf(
                prefer_css_page_size=True,
                display_header_footer=True,
                header_template="<span></span>",
                footer_template=FOOTER,
                print_background=True,
                outline=True,
                tagged=True,
            )
            numbers = pages_of(pdf, places)
        browser.close()
        server.shutdown()
    sheet.unlink()
    TARGET.write_bytes(pdf)


if __name__ == "__main__":
    environment.launch(main)
