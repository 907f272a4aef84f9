"""What holds of the site as a whole, and of pages that show what few chapters do."""

import re

import pytest
from looks import check, settle


def test_the_sample_opens_clean(sample, visit):
    """What no chapter may show yet, two explorers and a formula, holds too."""
    check(visit, f"{sample.address}/book/sample.html")


def test_the_root_leads_to_the_book(site, visit):
    """Whoever opens the site's bare address arrives at its first page."""
    visit.page.goto(f"{site.address}/")
    visit.page.wait_for_url(re.compile(r"/book/intro\.html$"))
    assert visit.clean()


def test_pages_ask_nothing_of_other_hosts_even_in_their_source(site):
    """No script, style or picture stands in a page with another host's address."""
    asked = re.compile(
        r"<(?:script|img|iframe|source)[^>]*\ssrc=[\"'](?:https?:)?//|"
        r"<link[^>]*rel=[\"'](?:stylesheet|preload|icon)[\"'][^>]*href=[\"'](?:https?:)?//"
    )
    pages = list(site.folder.rglob("*.html"))
    assert [p.name for p in pages if asked.search(p.read_text("utf-8"))] == []


def test_formulas_are_set_here(sample, visit):
    """MathJax works from the parts that the site carries, and speaks to readers."""
    page = visit.page
    page.goto(f"{sample.address}/book/sample.html")
    page.wait_for_selector("mjx-container mjx-assistive-mml", state="attached")
    settle(page)
    assert visit.clean()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_removed_and_added_lines_differ(sample, visit, theme):
    """In a diff, removed and added lines stand on papers of their own."""
    page = visit.page
    page.emulate_media(color_scheme=theme)
    page.goto(f"{sample.address}/book/sample.html")
    paper = "el => getComputedStyle(el).backgroundColor"
    removed = page.locator(".highlight-diff .gd").first.evaluate(paper)
    added = page.locator(".highlight-diff .gi").first.evaluate(paper)
    assert len({removed, added, "rgba(0, 0, 0, 0)"}) == 3
