"""What a page says of itself to others: search engines, and those who pass it on."""

from html import escape
from typing import Any

from docutils import nodes

LONGEST = 200
"""Letters of a description that others show."""


def description(doctree: nodes.document) -> str:
    """Return the first paragraph that says what a page is about, cut at a word."""
    texts = (
        " ".join(paragraph.astext().split())
        for paragraph in doctree.findall(nodes.paragraph)
        if isinstance(paragraph.parent, nodes.section)
    )
    text = next((text for text in texts if len(text) > LONGEST // 4), "")
    if len(text) <= LONGEST:
        return text
    return text[:LONGEST].rpartition(" ")[0].rstrip(",;:") + " …"


def tags(title: str, text: str, page: str, base: str, picture: str) -> str:
    """Return the elements of a page's head.

    Args:
        title: The page's own.
        text: What it is about.
        page: Its address within the site.
        base: The site's public address; empty if it is not known, and then pictures,
            which others can only load by their whole address, are left out.
        picture: The preview's address within the site.
    """
    said = {"og:type": "article", "og:title": title, "og:description": text}
    if base:
        said |= {"og:url": base + page, "og:image": base + picture}
    elements = [f'<meta name="description" content="{escape(text)}">'] if text else []
    elements += [
        f'<meta property="{name}" content="{escape(value)}">'
        for name, value in said.items()
        if value
    ]
    if base:
        elements.append('<meta name="twitter:card" content="summary_large_image">')
    return "\n".join(elements)


def sitemap(base: str, pages: list[str]) -> str:
    """Return the list of all pages for search engines."""
    places = "".join(f"<url><loc>{escape(base + page)}</loc></url>\n" for page in pages)
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n'
        f"{places}</urlset>\n"
    )


def not_found(title: str, root: str) -> str:
    """Return the page for an address that leads nowhere.

    It is shown at any depth, so that it holds its style itself, and leads home by the
    site's whole path.
    """
    book = escape(title)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Not here: {book}</title>
<style>
body {{ max-width: 36rem; margin: 15vh auto; padding: 0 1rem;
  font: 1.1rem/1.5 system-ui; }}
</style>
</head>
<body>
<main>
<h1>There is no such page</h1>
<p>No translation for this address: the page has moved, or never was.</p>
<p><a href="{root}book/intro.html">{book}</a></p>
<p><a href="{root}search.html">Search</a></p>
</main>
</body>
</html>
"""


def base_of(repository: str | None) -> str:
    """Return the address that GitHub's pages of a repository have, or nothing.

    >>> base_of("https://github.com/Owner/book")
    'https://owner.github.io/book/'
    """
    parts = (repository or "").split("/")
    if len(parts) != len(["https:", "", "github.com", "owner", "name"]):
        return ""
    return f"https://{parts[3].lower()}.github.io/{parts[4]}/"


def untitled_cells(body: str) -> str:
    """Return *body* with header cells that say nothing as cells that head nothing.

    >>> untitled_cells('<th class="head"><p></p></th>')
    '<td class="head"></td>'
    """
    empty: Any = ('<th class="head"><p></p></th>', '<td class="head"></td>')
    return body.replace(*empty)
