"""The glossary's text beside each of its words, wherever a page uses one."""

import re
from collections.abc import Iterator, Mapping
from html import escape

from docutils import nodes

_LINK = re.compile(
    r'<a class="reference internal"(?= href="[^"#]*#term-)( href="[^"#]*#(term-[^"]+)")'
)


def told(glossary: nodes.document) -> Iterator[tuple[str, str]]:
    """Yield the name of each term's anchor, and what the glossary says of it."""
    for item in glossary.findall(nodes.definition_list_item):
        text = " ".join(
            " ".join(part.astext().split()) for part in item.findall(nodes.paragraph)
        )
        for term in item.findall(nodes.term):
            yield from ((anchor, text) for anchor in term["ids"])


def beside(body: str, terms: Mapping[str, str]) -> str:
    """Return *body* with the glossary's text at each link that leads there.

    >>> link = '<a class="reference internal" href="g.html#term-x">x</a>'
    >>> beside(link, {"term-x": "X."})
    '<a class="reference internal" data-term="X." href="g.html#term-x">x</a>'
    """

    def link(found: re.Match[str]) -> str:
        text = terms.get(found[2])
        if text is None:
            return found[0]
        return f'<a class="reference internal" data-term="{escape(text)}"{found[1]}'

    return _LINK.sub(link, body)
