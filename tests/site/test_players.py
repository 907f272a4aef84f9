"""The players in the page: by button, by key, by link, and without a script."""

import json

import pytest

from tlbkit.observe.recording import Link


@pytest.fixture
def page(sample, visit):
    """Return the page of players, brought to life."""
    visit.page.goto(f"{sample.address}/book/players.html")
    visit.page.wait_for_selector(".tlbkit-player[id] button:enabled")
    yield visit.page
    assert visit.clean()


def player(page, number):
    """Return one player of the page."""
    return page.locator(".tlbkit-player").nth(number)


def said(form):
    """Return what the status line says."""
    return form.locator("[role=status]").inner_text()


def do(form, what):
    """Press a button by what it does."""
    form.locator(f"[data-do={what}]").click()


def shown(form, take=0):
    """Return the state that a player shows, by label; what is gone is nothing."""
    rows = form.locator(".tlbkit-take").nth(take).locator("tr")
    return {
        row.locator("th").inner_text(): row.locator("td").evaluate(
            "cell => cell.firstChild.textContent"
        )
        for row in rows.all()
        if row.locator("td").evaluate("cell => cell.firstChild.textContent")
        != "nothing"
    }


def test_steps_forth_and_back_show_the_same(page):
    """The state at a position is the same from before and from behind."""
    form = player(page, 1)
    form.focus()
    page.keyboard.press("Home")
    there = [shown(form)]
    longest = int(form.locator("[name=at]").get_attribute("max"))
    for _ in range(longest):
        page.keyboard.press("ArrowRight")
        there.append(shown(form))
    assert f"Step {longest} of {longest}." in said(form)
    assert len({str(state) for state in there}) > 3
    for position in range(longest - 1, -1, -1):
        page.keyboard.press("ArrowLeft")
        assert shown(form) == there[position]
    assert "At the start." in said(form)


def test_a_change_is_marked_and_says_what_was(page):
    """A line that the last step changed has a mark and its value of before."""
    form = player(page, 1)
    form.focus()
    page.keyboard.press("Home")
    for _ in range(30):
        do(form, "step")
        if form.locator("tr.changed").count():
            break
    changed = form.locator("tr.changed").first
    assert " was " in changed.inner_text()


def test_the_first_difference_is_where_both_part(page):
    """At the first difference the two say different things, and before it the same."""
    form = player(page, 0)
    do(form, "differ")
    assert " — " in said(form)
    do(form, "back")
    assert " — " not in said(form)


def test_functions_are_stepped_over_and_out_of(page):
    """Over goes past all steps of a function, back over returns, out leaves it."""
    form = player(page, 1)
    form.focus()
    page.keyboard.press("Home")
    page.keyboard.press("Shift+ArrowRight")
    over = form.locator("[name=at]").input_value()
    assert int(over) > 1
    page.keyboard.press("Shift+ArrowLeft")
    assert form.locator("[name=at]").input_value() == "0"
    film = json.loads(form.locator("script").text_content())["films"][0]
    _, first, last, _ = max(film["groups"], key=lambda group: group[3])
    for _ in range(first):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("o")
    assert form.locator("[name=at]").input_value() == str(last + 1)


def test_the_address_follows_the_step(page):
    """Clicks, keys and buttons leave an address that leads there, and no history."""
    form = player(page, 1)
    before = page.evaluate("history.length")
    form.locator("li[data-step='4']").click()
    assert said(form).startswith("Step 5 of")
    assert Link.parse(page.url) == Link("one-mprotect", 7, 5)
    form.focus()
    page.keyboard.press("ArrowRight")
    assert Link.parse(page.url).step == 6
    do(form, "back")
    assert Link.parse(page.url).step == 5
    assert page.evaluate("history.length") == before
    assert page.evaluate("document.activeElement.dataset.do") == "back"


def test_an_address_shows_its_step(page, sample):
    """Opened or typed, an address shows its step, said by the status line."""
    page.goto(f"{sample.address}/book/sample.html")
    page.goto(f"{sample.address}/book/players.html{Link('one-mprotect', 7, 5)}")
    page.wait_for_selector(".tlbkit-player[id] button:enabled")
    form = player(page, 1)
    assert said(form).startswith("Step 5 of")
    assert "At the start." in said(player(page, 0))
    page.evaluate(f"location.hash = '{Link('one-mprotect', 7, 2)}'")
    page.wait_for_function(
        "document.querySelectorAll('.tlbkit-player [role=status]')[1]"
        ".textContent.startsWith('Step 2 of')"
    )
    step = form.locator("[name=at]")
    assert step.get_attribute("aria-valuetext").startswith("after step 2 of")


def test_an_address_of_another_run_says_so(page, sample):
    """A seed that this recording is not of is named, and the start is shown."""
    page.goto(f"{sample.address}/book/sample.html")
    page.goto(f"{sample.address}/book/players.html{Link('one-mprotect', 8, 5)}")
    page.wait_for_selector(".tlbkit-player[id] button:enabled")
    assert said(player(page, 1)).startswith("Step 3 of")
    assert "asks for seed 8" in said(player(page, 1))


def test_the_reader_schedules_by_keys(page):
    """Numbers choose who goes on, u undoes, and the end says what it means."""
    form = player(page, 2)
    form.focus()
    page.keyboard.press("2")
    assert "writes without the lock" in said(form)
    page.keyboard.press("1")
    assert "A rule is broken: a lost write." in said(form)
    assert form.locator(".tlbkit-path li").count() == 2
    page.keyboard.press("u")
    assert "A rule is broken" not in said(form)
    page.keyboard.press("r")
    assert "The start." in said(form)
    page.keyboard.press("1")
    assert form.locator("[data-flow='1']").is_disabled()
    assert "waits for the lock" in form.locator("[data-flow='1']").inner_text()
    page.keyboard.press("1")
    assert "Done: all is well." in said(form)
    assert page.url.endswith("#two-cpus-and-a-lock?path=00")
    page.keyboard.press("w")
    assert "A rule is broken" in said(form)


def test_a_way_can_be_linked_to(page, sample):
    """A link with a path takes its steps."""
    page.goto(f"{sample.address}/book/sample.html")
    page.goto(f"{sample.address}/book/players.html#two-cpus-and-a-lock?path=10")
    page.wait_for_selector(".tlbkit-player[id] button:enabled")
    assert "A rule is broken" in said(player(page, 2))


def test_without_a_script_all_steps_stand_there(sample, browser):
    """Without JavaScript the steps and the state can be read, and buttons are off."""
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{sample.address}/book/players.html")
    form = player(page, 1)
    assert form.locator("li[data-step]").count() > 5
    assert form.locator("tr").count() > 0
    assert form.locator("[data-do=step]").is_disabled()
    context.close()


def test_players_fit_a_phone(page):
    """On a phone nothing is wider than the screen."""
    page.set_viewport_size({"width": 360, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
