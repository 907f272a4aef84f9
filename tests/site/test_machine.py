"""The explorers of the machine, in the pages: text, ticks, boxes and their tables."""

import json

import pytest

from tlbkit import lab


@pytest.fixture(scope="module")
def chapters(site, browser):
    """Return how to open a chapter on the machine, with its first explorer awake."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    opened = {}

    def chapter(name, fragment=""):
        if fragment or name not in opened:
            page = context.new_page()
            page.goto(f"{site.address}/book/machine/{name}.html{fragment}")
            page.wait_for_selector(".tlbkit-explorer[id] .tlbkit-controls:enabled")
            if fragment:
                return page
            opened[name] = page
        return opened[name]

    yield chapter
    context.close()


def explorer(page, name):
    """Return the first explorer of that name on a page."""
    return page.locator(f"#try-{name}")


def asked(form):
    """Return what the controls stand at, as Python calls it."""
    spec = json.loads(form.locator("script").inner_text())
    found = {}
    for parameter in spec["parameters"]:
        control = form.locator(f"[name={parameter['name']}]")
        choices = parameter["choices"]
        if not choices:
            found[parameter["name"]] = control.input_value()
        elif control.get_attribute("type") == "checkbox":
            found[parameter["name"]] = choices[control.is_checked()]
        else:
            found[parameter["name"]] = choices[int(control.evaluate("e => e.value"))]
    return found


def answered(form):
    """Wait until the controls are answered."""
    form.page.wait_for_function(
        "f => !f.hasAttribute('aria-busy') && !/when this page was built|Starting/"
        ".test(f.textContent)",
        arg=form.element_handle(),
        timeout=60_000,
    )


def agrees(form, name):
    """Hold table, words and boxes of an explorer to the same question asked here."""
    answer = lab.find_exploration(name).answer(asked(form))
    rows = [
        line.locator("th, td").all_inner_texts()
        for line in form.locator("tbody tr").all()
    ]
    assert rows == [list(row) for row in answer.rows]
    assert form.locator(".tlbkit-text").inner_text() == answer.text
    boxes = form.locator(".tlbkit-fields").first.locator("li")
    if boxes.count():
        assert boxes.locator("span").all_inner_texts() == answer.columns["field"]
        assert boxes.locator("small").all_inner_texts() == answer.columns["bits"]
        marked = [box.get_attribute("class") == "chosen" for box in boxes.all()]
        assert marked == [bool(one) for one in answer.columns["chosen"]]


def write(form, name, text):
    """Write a text into a control by keyboard, and send it."""
    form.locator(f"input[name={name}]").focus()
    form.page.keyboard.press("Control+A")
    form.page.keyboard.press("Delete")
    form.page.keyboard.type(text)
    form.page.keyboard.press("Enter")
    answered(form)


def test_an_address_is_written_by_keyboard(chapters):
    """Enter sends what is written, and the walk of that address is shown."""
    form = explorer(chapters("translation"), "walk")
    write(form, "va", "0xffff_ffff_8000_1000")
    form.locator("input[name=opened]").press("End")
    answered(form)
    assert asked(form)["va"] == "0xffff_ffff_8000_1000"
    agrees(form, "walk")
    assert "TTBR1_EL1" in form.inner_text()


def test_typing_asks_nothing_until_it_is_sent(chapters):
    """Half an address is no question."""
    form = explorer(chapters("translation"), "walk")
    shown = form.locator(".tlbkit-text").inner_text()
    form.locator("input[name=va]").focus()
    form.page.keyboard.type("zz")
    form.page.wait_for_timeout(100)
    assert form.locator(".tlbkit-text").inner_text() == shown
    form.page.keyboard.press("Control+A")
    form.page.keyboard.type("0xffff_b7e3_1234")
    form.page.keyboard.press("Tab")
    answered(form)
    agrees(form, "walk")


@pytest.mark.parametrize(
    ("field", "text", "said"),
    [
        ("va", "over there", "write a number"),
        ("tcr", "XYZ=1", "sets no field"),
        ("tcr", "T0SZ=9", "this CPU allows"),
    ],
)
def test_what_cannot_be_is_said_in_the_page(chapters, field, text, said):
    """A wrong text is answered by a sentence, and the numbers stay as they were."""
    form = explorer(chapters("translation"), "walk")
    before = form.locator("tbody").inner_text()
    right = form.locator(f"input[name={field}]").input_value()
    write(form, field, text)
    assert said in form.locator(".tlbkit-text").inner_text()
    assert "last setting that was answered" in form.inner_text()
    assert form.locator("tbody").inner_text() == before
    write(form, field, right)
    agrees(form, "walk")


def test_bits_are_set_with_the_space_bar(chapters):
    """Each tick is one bit; the answers are the machine's."""
    form = explorer(chapters("permissions"), "permissions")
    for name in ("ap2", "hd", "uxn"):
        before = asked(form)
        form.locator(f"input[name={name}]").focus()
        form.page.keyboard.press("Space")
        answered(form)
        changed = {key for key, value in asked(form).items() if value != before[key]}
        assert changed == {name}
        agrees(form, "permissions")


@pytest.mark.parametrize(
    ("chapter", "name", "control"),
    [
        ("staleness", "tlbi", "operation"),
        ("staleness", "stale", "change"),
        ("barriers", "litmus", "test"),
        ("tlb", "tlb", "pattern"),
        ("cost", "flush", "way"),
    ],
)
def test_menus_are_answered_by_the_machine(chapters, chapter, name, control):
    """A menu moved by arrow keys asks the page's own tlbkit."""
    form = explorer(chapters(chapter), name)
    menu = form.locator(f"select[name={control}]")
    at = menu.evaluate("e => e.selectedIndex")
    menu.focus()
    form.page.keyboard.press("ArrowDown")
    answered(form)
    assert menu.evaluate("e => e.selectedIndex") == at + 1
    agrees(form, name)


def test_a_litmus_test_of_ones_own_runs_in_the_page(chapters):
    """What is written into the fields is judged, and mistakes are answered in words."""
    form = explorer(chapters("barriers"), "own-litmus")
    write(form, "p0", "pte(x) := A; DSB; TLBI.local(x); DSB; flag := 1")
    agrees(form, "own-litmus")
    assert "Allowed" in form.locator(".tlbkit-text").inner_text()
    write(form, "p0", "pte(x) = A")
    assert "none of these forms" in form.locator(".tlbkit-text").inner_text()


def test_a_link_holds_text_and_ticks(chapters):
    """Opened again, the address of a setting restores what was written and ticked."""
    page = chapters("translation", "#try-walk?va=0x1000&granule=64K&tcr=TBI0%3D1")
    form = explorer(page, "walk")
    answered(form)
    linked = {"va": "0x1000", "granule": "64K", "tcr": "TBI0=1"}
    assert linked.items() <= asked(form).items()
    agrees(form, "walk")
    page = chapters("permissions", "#try-permissions?ap2=on&hd=off")
    form = explorer(page, "permissions")
    answered(form)
    assert (asked(form)["ap2"], asked(form)["hd"]) == ("on", "off")
    agrees(form, "permissions")
