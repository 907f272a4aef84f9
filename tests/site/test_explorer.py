"""The explorer in the page: moved by keyboard, answered by the package itself."""

import json
import re
import time

import pytest

from tlbkit import lab

PAGES = "pages"


@pytest.fixture
def page(sample, visit):
    """Return the sample page with its figures drawn."""
    visit.page.goto(f"{sample.address}/book/sample.html")
    ready(visit.page)
    return visit.page


@pytest.fixture(scope="module")
def live(sample, browser):
    """Return a sample page whose Python runs already; its settings are of the past."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{sample.address}/book/sample.html")
    ready(page)
    move_two(explorer(page))
    answered(explorer(page), ("live",))
    yield page
    context.close()


def ready(page):
    """Wait until the explorers of a page can be used."""
    page.wait_for_selector(".tlbkit-explorer[id] .tlbkit-controls:enabled")
    page.wait_for_function(
        "[...document.querySelectorAll('.tlbkit-figure')].every(f => f.children.length)"
    )


def explorer(page, number=0):
    """Return one explorer of a page."""
    return page.locator(".tlbkit-explorer").nth(number)


def slider(form, name=PAGES):
    """Return one slider of an explorer."""
    return form.locator(f"input[name={name}]")


def state(form):
    """Return what the status line says about Python."""
    return form.locator(".tlbkit-state").inner_text()


def answered(form, how=("kept", "live")):
    """Wait for an answer, and for one that came about in a certain way."""
    form.page.wait_for_function(
        "([f, how]) => !f.hasAttribute('aria-busy') && how.includes(f.dataset.answer)",
        arg=[form.element_handle(), list(how)],
        timeout=60_000,
    )


def move_two(form):
    """Move two controls at once, which no answer that came with the page knows."""
    form.evaluate(
        """form => {
          const [a, b] = [...form.elements].filter((e) => e.type === "range");
          for (const one of [a, b]) one.value = Number(one.value) ? 0 : one.max;
          b.dispatchEvent(new Event("input", {bubbles: true}));
        }"""
    )


def settings(form):
    """Return what the controls of an explorer stand at."""
    spec = json.loads(form.locator("script").inner_text())
    return {
        p["name"]: p["choices"][
            int(form.locator(f"[name={p['name']}]").evaluate("el => el.value"))
        ]
        for p in spec["parameters"]
    }


def rows(form):
    """Return the numbers on the page."""
    lines = form.locator("tbody tr").all()
    return [line.locator("th, td").all_inner_texts() for line in lines]


def drawn(form):
    """Return what the figures of an explorer draw, by source."""
    return form.evaluate(
        """form => Object.assign({}, ...Bokeh.documents
          .filter(d => form.contains(Bokeh.index.get_by_id(d.roots()[0].id)?.el))
          .flatMap(d => [...d._all_models.values()])
          .filter(m => m.type === "ColumnDataSource")
          .map(m => ({[m.name]: Object.fromEntries(
            Object.entries(m.data).map(([k, v]) => [k, [...v]]))})))"""
    )


def agrees(form):
    """Hold an explorer to the same run in this Python."""
    answer = lab.find("mprotect").asked(settings(form))
    assert rows(form) == [list(row) for row in answer.rows]
    assert form.locator(".tlbkit-text").inner_text() == answer.text


def test_built_numbers_are_the_same(page):
    """Before Python runs in the page, it shows what Python answered at build time."""
    for number in range(2):
        form = explorer(page, number)
        agrees(form)
        assert "when this page was built" in state(form)


def test_the_slider_moves_by_keyboard_and_the_numbers_agree(page, visit):
    """Tab reaches the slider, arrows move it, and tlbkit in the page answers."""
    form = explorer(page)
    form.evaluate("f => { f.tabIndex = -1; f.focus(); }")
    page.keyboard.press("Tab")
    assert slider(form).evaluate("el => el === document.activeElement")
    outline = slider(form).evaluate("el => getComputedStyle(el).outlineStyle")
    assert outline == "solid"
    before = settings(form)
    page.keyboard.press("ArrowRight")
    answered(form)
    assert settings(form) != before
    agrees(form)
    for key in ("Home", "End", "ArrowLeft"):
        page.keyboard.press(key)
        page.wait_for_timeout(300)
        answered(form)
        agrees(form)
    assert slider(form).evaluate("el => el === document.activeElement")
    assert visit.clean(), visit.complaints


def test_answers_of_one_move_come_with_the_page(sample, context, visit):
    """Where no Python can be had one control still moves, and the numbers are right."""
    context.route("**/worker.js*", lambda route: route.abort())
    visit.page.goto(f"{sample.address}/book/sample.html")
    ready(visit.page)
    form = explorer(visit.page)
    for key in ("ArrowRight", "End", "Home"):
        slider(form).press(key)
        answered(form, ("kept",))
        agrees(form)


def test_two_moved_controls_are_answered_by_python(live):
    """What no file knows is computed in the page, and is the same as here."""
    form = explorer(live)
    move_two(form)
    answered(form, ("live",))
    agrees(form)
    assert re.search(r"in \d+ ms", state(form))


def test_a_reset_brings_the_first_setting_back(live):
    """One button leads back to the setting that the page was built with."""
    form = explorer(live)
    form.locator("[data-do=reset]").click()
    answered(form)
    assert settings(form)["pages"] == 64
    agrees(form)


def test_a_link_is_copied(sample, browser):
    """The button puts the address of this very setting on the clipboard."""
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.goto(f"{sample.address}/book/sample.html")
    ready(page)
    slider(explorer(page)).press("End")
    answered(explorer(page))
    explorer(page).locator("[data-do=link]").click()
    page.wait_for_function("/link is copied/.test(document.body.textContent)")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == page.url
    assert re.search(r"#try-mprotect\?pages=1024&", copied)
    context.close()


def test_menus_ask_too(live):
    """Every control of the scenario changes the answer, not only the first."""
    form = explorer(live)
    menu = form.locator("select").first
    menu.focus()
    live.keyboard.press("ArrowDown")
    answered(form)
    agrees(form)


def test_two_explorers_live_side_by_side(live):
    """Each explorer draws its own figures and answers for its own controls."""
    first, second = explorer(live), explorer(live, 1)
    assert first.get_attribute("id") != second.get_attribute("id")
    untouched, drawing = rows(first), drawn(first)
    assert drawing != drawn(second)
    slider(second).press("End")
    answered(second)
    agrees(second)
    assert rows(first) == untouched
    assert drawn(first) == drawing
    assert drawn(second) != drawing


def test_figures_draw_the_answer(live):
    """After a move the figure holds the data of that answer."""
    form = explorer(live)
    slider(form).press("End")
    answered(form)
    columns = lab.find("mprotect").asked(settings(form)).columns
    pairs = drawn(form)["pairs"]
    assert pairs["before"] == columns["before"]
    assert pairs["after"] == columns["after"]


def test_answers_come_fast_and_none_is_lost(live):
    """Moves made while Python is busy are merged; the last one is always shown."""
    form = explorer(live)
    for key in ["ArrowRight"] * 4 + ["ArrowLeft"] * 9 + ["ArrowRight"] * 3:
        slider(form).press(key)
    answered(form)
    agrees(form)


def test_a_link_reproduces_a_state(live, context):
    """The address holds the settings, and opening it again restores them."""
    form = explorer(live, 1)
    slider(form).press("End")
    slider(form).press("ArrowLeft")
    live.wait_for_url(re.compile(r"#try-mprotect-2\?.*pages=512"))
    again = context.new_page()
    again.goto(live.url)
    ready(again)
    other = explorer(again, 1)
    answered(other)
    assert settings(other) == settings(form)
    agrees(other)
    assert "when this page was built" in state(explorer(again, 0))


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("pages=3", "The link asks for pages=3; allowed are 1, 2, 4"),
        ("wheels=4", "The link asks for wheels, which is not a setting here."),
    ],
)
def test_a_wrong_link_is_refused_in_words(sample, visit, query, sentence):
    """A link with a setting that does not exist says so and changes nothing."""
    page = visit.page
    page.goto(f"{sample.address}/book/sample.html#try-mprotect?{query}")
    ready(page)
    form = explorer(page)
    assert sentence in form.locator(".tlbkit-text").inner_text()
    assert settings(form)["pages"] == 64
    assert visit.clean()


def test_errors_of_python_are_sentences(sample, context, visit):
    """What Python refuses is shown in words; the next move works again."""

    def spoilt(route):
        response = route.fetch()
        page = response.text().replace('"choices":[1,2,', '"choices":[1,-7,')
        route.fulfill(response=response, body=page)

    context.route("**/sample.html", spoilt)
    page = visit.page
    page.goto(f"{sample.address}/book/sample.html")
    ready(page)
    form = explorer(page)
    slider(form).press("Home")
    slider(form).press("ArrowRight")
    page.wait_for_function(
        "/last setting that was answered/.test(document.body.textContent)",
        timeout=60_000,
    )
    said = form.locator(".tlbkit-text").inner_text()
    assert "-7" in said
    assert "Traceback" not in said
    assert "tlbkit-wrong" in form.get_attribute("class")
    slider(form).press("ArrowRight")
    answered(form)
    agrees(form)
    assert visit.clean()


def test_python_waits_until_somebody_looks(sample, visit):
    """A page whose explorer is out of sight loads no Python; one in sight does."""
    asked = []
    visit.page.on("request", lambda request: asked.append(request.url))
    visit.page.add_init_script(
        "addEventListener('DOMContentLoaded', () => { const s = "
        "document.createElement('style'); s.textContent = "
        "'h1 { margin-bottom: 5000px !important; }'; document.head.append(s); })"
    )
    visit.page.goto(f"{sample.address}/book/sample.html")
    ready(visit.page)
    visit.page.wait_for_timeout(2500)
    assert not [url for url in asked if "pyodide" in url or "tlbkit-" in url]
    explorer(visit.page).scroll_into_view_if_needed()
    visit.page.wait_for_event("worker", timeout=30_000)
    move_two(explorer(visit.page))
    answered(explorer(visit.page), ("live",))
    assert visit.clean()


def test_readers_see_how_much_of_python_has_come(sample, visit, context):
    """While files are under way the state tells their part, and it grows."""

    def slowly(route):
        time.sleep(2)
        route.continue_()

    context.route("**/*.memory", slowly)
    visit.page.goto(f"{sample.address}/book/sample.html")
    ready(visit.page)
    move_two(explorer(visit.page))
    visit.page.wait_for_function(
        "/Starting Python in this page: [1-9]\\d? %/.test(document.body.textContent)"
    )
    answered(explorer(visit.page), ("live",))


def test_a_python_that_does_not_start_is_said(sample, context, visit):
    """Where Python cannot be loaded the page says why and keeps its numbers."""
    context.route("**/*.wasm", lambda route: route.abort())
    page = visit.page
    page.goto(f"{sample.address}/book/sample.html")
    ready(page)
    form = explorer(page)
    shown = rows(form)
    move_two(form)
    page.wait_for_function(
        "/Python cannot answer/.test(document.body.textContent)", timeout=60_000
    )
    assert rows(form) == shown
    assert not form.get_attribute("aria-busy")


def test_a_site_without_live_python_says_what_it_lacks(sample, context, visit):
    """Built without Pyodide, figures and numbers are there and the controls are off."""

    def without(route):
        response = route.fetch()
        page = re.sub(r'data-package="[^"]*"', 'data-live="off"', response.text())
        route.fulfill(response=response, body=page)

    context.route("**/sample.html", without)
    page = visit.page
    page.goto(f"{sample.address}/book/sample.html")
    page.wait_for_function("/without live Python/.test(document.body.textContent)")
    form = explorer(page)
    assert form.locator(".tlbkit-figure canvas").count()
    assert slider(form).is_disabled()
    agrees(form)


def test_everything_is_text_without_javascript(sample, browser):
    """Without scripts the settings, the table and the reading are there."""
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{sample.address}/book/sample.html")
    form = explorer(page)
    answer = lab.find("mprotect").answer({})
    text = form.inner_text()
    assert answer.text in text
    assert "need JavaScript" in text
    assert [cell for row in answer.rows for cell in row if cell not in text] == []
    assert slider(form).is_disabled()
    context.close()


def test_the_status_line_is_announced(page):
    """Answers arrive in a status region, which screen readers read out."""
    for number in range(2):
        status = explorer(page, number).get_by_role("status")
        assert status.count() == 1
        assert status.inner_text().strip()
