"""The game and the gallery in the page: played to the end, narrowed, and opened."""

import pytest

from tlbkit.lab.gallery import levels, verdicts
from tlbkit.show.film import slug

HARMED = [one.point for one in verdicts.gallery() if one.harm is not None]
OPENED = 12
"""So many replays are watched to their end."""


@pytest.fixture
def page(sample, visit):
    """Return the page of game and gallery, brought to life."""
    visit.page.goto(f"{sample.address}/book/game.html")
    visit.page.wait_for_selector(".tlbkit-game .tlbkit-thread button:enabled")
    yield visit.page
    assert visit.clean()


def open_level(page, name):
    """Open a level and wait until it is there."""
    title = levels.find(name).title
    page.locator(f".tlbkit-game [data-level='{name}']").click()
    page.wait_for_function(
        "title => document.querySelector('.tlbkit-play .tlbkit-title').textContent"
        " === title",
        arg=title,
    )


def told(page):
    """Return what the level says of how it went."""
    return page.locator(".tlbkit-game .tlbkit-told").inner_text()


def path(page, name):
    """Return the shortest way to win, as the page has it."""
    return page.evaluate(
        """async name => {
          const src = [...document.scripts].find(one => one.src.includes("/game-")).src;
          return (await (await fetch(new URL(`game/${name}.json`, src))).json()).path;
        }""",
        name,
    )


@pytest.mark.parametrize("level", levels.LEVELS, ids=lambda one: one.name)
def test_every_level_is_played_to_its_end(page, level):
    """By the recorded way it is won with all stars, or said to be impossible."""
    open_level(page, level.name)
    form = page.locator(".tlbkit-game")
    form.focus()
    if level.reason:
        page.keyboard.press("n")
        assert level.reason in told(page)
    else:
        way = path(page, level.name)
        for flow in way[:-1]:
            page.keyboard.press(str(flow + 1))
            assert "Won" not in told(page)
        page.keyboard.press(str(way[-1] + 1))
        assert "Won" in told(page)
        assert "the fewest there are" in told(page)
    assert (
        "★★★"
        in page.locator(f".tlbkit-levels [data-level='{level.name}']").inner_text()
    )


def test_steps_are_taken_back_and_progress_is_forgotten(page):
    """Undo leads to the state before; what was won is kept until it is forgotten."""
    form = page.locator(".tlbkit-game")
    form.focus()
    before = form.locator(".tlbkit-board").inner_html()
    page.keyboard.press("1")
    assert form.locator(".tlbkit-board").inner_html() != before
    page.keyboard.press("u")
    assert form.locator(".tlbkit-path li").count() == 0
    page.keyboard.press("w")
    assert "It was shown to you" in told(page)
    assert "0 of" in form.locator(".tlbkit-progress").inner_text()
    page.keyboard.press("r")
    page.keyboard.press("n")
    assert "That cost a star" in told(page)
    for flow in path(page, levels.LEVELS[0].name):
        page.keyboard.press(str(flow + 1))
    assert "1 of" in form.locator(".tlbkit-progress").inner_text()
    page.reload()
    page.wait_for_selector(".tlbkit-game .tlbkit-thread button")
    assert "1 of" in form.locator(".tlbkit-progress").inner_text()
    form.locator("[data-do=forget]").click()
    assert "0 of" in form.locator(".tlbkit-progress").inner_text()


def test_an_address_leads_to_a_state(page, sample):
    """A link with a level and a way shows that state."""
    level = levels.LEVELS[2]
    way = "".join(map(str, path(page, level.name)))
    page.goto(f"{sample.address}/book/sample.html")
    page.goto(f"{sample.address}/book/game.html#{level.name}?path={way}")
    page.wait_for_selector(".tlbkit-game .tlbkit-told.won")
    assert level.title in page.locator(".tlbkit-play .tlbkit-title").inner_text()


def test_each_point_has_a_file_of_its_own():
    """No two points of the gallery are spelt alike in an address."""
    points = [one.point for one in verdicts.gallery()]
    assert len({slug(point) for point in points}) == len(points)


@pytest.mark.parametrize("point", HARMED[:: max(len(HARMED) // OPENED, 1)])
def test_a_point_opens_its_replay(page, point):
    """Opened from the list a replay is drawn, and ends in harm and in safety."""
    page.locator(f"[data-open='{slug(point)}']").click()
    stage = page.locator(".tlbkit-opened .tlbkit-stage[data-live]")
    stage.wait_for()
    assert stage.locator(".cell").count()
    stage.focus()
    page.keyboard.press("End")
    assert stage.locator(".tlbkit-scene.harm").count() == 1
    assert stage.locator(".tlbkit-scene.safe").count() == 1


def test_the_list_is_narrowed(page):
    """Menus and words leave what fits, and say how many that is."""
    gallery = page.locator(".tlbkit-gallery")
    every = gallery.locator("li:visible").count()
    gallery.locator("[name=kind]").select_option("IPI")
    few = gallery.locator("li:visible").count()
    assert 0 < few < every
    assert f"{few} of" in gallery.locator("[role=status]").inner_text()
    gallery.locator("[name=kind]").select_option("")
    gallery.locator("[name=history]").check()
    assert 0 < gallery.locator("li:visible").count() < every


def test_game_and_gallery_fit_a_phone(page):
    """On a phone nothing is wider than the screen."""
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
