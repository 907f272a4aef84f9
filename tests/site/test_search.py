"""The search: what people type leads to the chapter that explains it."""

import pytest

QUERIES = [
    ("TLBI", "machine/staleness"),
    ("pte_needs_flush", "commits/mprotect"),
    ("local flush", "machine/cost"),
    ("contpte", "commits/write-fault"),
    ("tlb shootdown", "machine/x86-and-guests"),
    ("how much does a flush cost", "machine/cost"),
]


def results(page, site, query):
    """Type a query into the search page, and return what is found, in order."""
    page.goto(f"{site.address}/search.html")
    field = page.locator(".tlbkit-search input")
    field.fill(query)
    field.press("Enter")
    page.wait_for_selector(".tlbkit-results li")
    page.wait_for_function(
        "/page/.test(document.querySelector('[role=status]').innerText)"
    )
    return [
        (
            entry.locator("h2 a").evaluate(
                "a => a.pathname.replace(/^.book.|.html$/g, '')"
            ),
            entry.locator(".tlbkit-kind").inner_text().strip(),
        )
        for entry in page.locator(".tlbkit-results > li").all()
    ]


@pytest.mark.parametrize(("query", "chapter"), QUERIES)
def test_chapters_come_before_the_reference(site, visit, query, chapter):
    """What explains the thing is among the first; the places to look up follow."""
    found = results(visit.page, site, query)
    assert found[0][1] == "chapter"
    assert (chapter, "chapter") in found[:3]
    kinds = [kind for _, kind in found]
    assert kinds == sorted(kinds)  # "chapter" is before "reference"
    assert visit.clean(), (visit.complaints, visit.foreign)


def test_what_is_nowhere_is_said(site, visit):
    """A search that finds nothing ends, and says so."""
    visit.page.goto(f"{site.address}/search.html?q=xyzzyxyzzy")
    visit.page.get_by_text("No pages for “xyzzyxyzzy”.").wait_for()
    assert visit.clean(), (visit.complaints, visit.foreign)


def test_a_word_tells_what_the_glossary_says_of_it(site, visit):
    """A pointer or the keyboard on a term shows its text; no page grows wider by it."""
    page = visit.page
    page.goto(f"{site.address}/book/machine/tlb.html")
    term = page.locator("a[data-term]").first
    term.focus()
    shown = term.evaluate("a => getComputedStyle(a, '::after').content")
    assert term.get_attribute("data-term")[:20] in shown
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
