"""The stage in the page: drawn as Python says, moved by hand, and the same as ever."""

import base64
import random
from pathlib import Path

import pytest

from tlbkit.observe.tests.support import CPUS, PAGES
from tlbkit.show.stage import Stage, board_state
from tlbkit.show.stage.board import moments
from tlbkit.show.stage.page import content
from tlbkit.show.stage.telling import cell
from tlbkit.show.stage.tests.support import small, taped

PICTURES = Path(__file__).parent / "pictures"
PHONE = {"width": 390, "height": 844}
DEEDS = ("read", "write", "none", "r", "rw", "fork", "exit", "unmap")

CELLS = """form => [...form.querySelectorAll('.cell')].map(cell => [
  cell.parentNode.dataset.row, +cell.dataset.first, +cell.dataset.last,
  cell.dataset.said])"""
CONTRAST = """form => {
  const canvas = document.createElement("canvas").getContext("2d", {
    willReadFrequently: true,
  });
  const light = (colour) => {
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((v) => {
      v /= 255;
      return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const box = form.querySelector(".tlbkit-board svg");
  const look = (name, text) => {
    const kind = text ? "text" : "rect";
    const made = document.createElementNS("http://www.w3.org/2000/svg", kind);
    made.setAttribute("class", name);
    box.append(made);
    const { fill } = getComputedStyle(made);
    made.remove();
    return light(fill);
  };
  const pairs = ["read", "write", "other"].map((n) => [look(`on-${n}`, true), look(n)]);
  pairs.push([look("on-sign", true), look("sign")]);
  const paper = light(getComputedStyle(form).backgroundColor);
  for (const name of ["label", "quiet", "note", "struck-text"]) {
    pairs.push([look(name, true), paper]);
  }
  return pairs.map(([a, b]) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05));
}"""
APART = """async ([one, other]) => {
  const width = 90;
  const look = async (png) => {
    const image = new Image();
    image.src = `data:image/png;base64,${png}`;
    await image.decode();
    const canvas = document.createElement("canvas");
    canvas.width = width;
    canvas.height = Math.round((image.height / image.width) * width);
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.imageSmoothingQuality = "high";
    context.drawImage(image, 0, 0, canvas.width, canvas.height);
    return context.getImageData(0, 0, canvas.width, canvas.height).data;
  };
  const [here, there] = [await look(one), await look(other)];
  if (here.length !== there.length) return 255;
  let sum = 0;
  for (let i = 0; i < here.length; i++) sum += Math.abs(here[i] - there[i]);
  return sum / here.length;
}"""


@pytest.fixture
def page(sample, visit):
    """Return the page of stages, drawn."""
    visit.page.goto(f"{sample.address}/book/stage.html")
    visit.page.wait_for_selector(".tlbkit-stage[data-live] button:enabled")
    yield visit.page
    assert visit.clean()


def stage(page, number=0):
    """Return one stage of the page."""
    return page.locator(".tlbkit-stage").nth(number)


def load(form, shown):
    """Give a stage other films."""
    form.evaluate("(form, given) => form.tlbkit.load(given)", content(shown))


def go(form, tick):
    """Move to where both stop, and return where each film stands then."""
    return form.evaluate(
        "(f, n) => { f.tlbkit.go(n); return f.tlbkit.ticks()[n].at }", tick
    )


def expected(tape, moment):
    """Return the cells of a moment by row, as Python has them."""
    stops = [0, *(last + 1 for _, last in moments(tape))]
    slots = board_state(tape, stops[moment])
    return {
        ("/".join(map(str, slot[:-1])), slot[-1]): cell(what)
        for slot, what in slots.items()
        if slot[0] in {"page", "tlb"}
    }


def drawn(form):
    """Return the cells that are drawn, column by column."""
    return {
        (row, column): said
        for row, first, last, said in form.evaluate(CELLS)
        for column in range(first, last + 1)
        if said != "nothing"
    }


def test_cells_are_those_of_python_forwards_and_backwards(page):
    """At random moments of random recordings the board is what Python says it is."""
    form = stage(page, 1)
    chance = random.Random(350)
    for _ in range(6):
        steps = [
            (chance.choice(DEEDS), chance.randrange(PAGES), chance.randrange(CPUS))
            for _ in range(8)
        ]
        _, tape = taped(steps, "neoverse-n1")
        load(form, Stage("by chance", {"v6.19": tape}))
        last = form.evaluate("form => form.tlbkit.ticks().length - 1")
        there = [chance.randint(0, last) for _ in range(8)]
        for tick in [0, *there, last, *reversed(there), 0]:
            (moment,) = go(form, tick)
            assert drawn(form) == expected(tape, moment)


def test_two_kernels_go_in_step_until_they_differ(page):
    """Both stand at one moment up to the first difference, then each at its time."""
    form = stage(page)
    load(form, shown := Stage("two", {v: small(v) for v in ("v6.17", "v6.19")}))
    first = shown.differs[0][0]
    ticks = form.evaluate("form => form.tlbkit.ticks()")
    assert all(tick["at"][0] == tick["at"][1] for tick in ticks[: first + 1])
    assert any(tick["at"][0] != tick["at"][1] for tick in ticks[first:])
    times = [tick["time"] for tick in ticks]
    assert times == sorted(times)


def test_keys_move_and_the_address_follows(page):
    """Arrows, Home, End and n do what their names say; a link leads back there."""
    form = stage(page)
    form.focus()
    slider = form.locator("[name=at]")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert slider.input_value() == "2"
    page.keyboard.press("ArrowLeft")
    assert slider.input_value() == "1"
    assert page.url.endswith("#fork-reuse?at=1")
    page.keyboard.press("n")
    differs = int(slider.input_value())
    assert differs > 1
    said = form.locator(".tlbkit-happened").all_inner_texts()
    assert said[0] != said[1]
    page.keyboard.press("End")
    assert slider.input_value() == slider.get_attribute("max")
    page.evaluate("n => { location.hash = `#fork-reuse?at=${n}` }", differs)
    page.wait_for_function(
        "([form, n]) => form.elements.at.value === String(n)",
        arg=[form.element_handle(), differs],
    )


def test_the_time_line_is_dragged(page):
    """A press on the time line goes to the moment under it, a drag along."""
    form = stage(page)
    box = form.locator(".tlbkit-line").bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] / 3, middle)
    page.mouse.down()
    there = int(form.locator("[name=at]").input_value())
    page.mouse.move(box["x"] + box["width"] / 2, middle, steps=4)
    page.mouse.up()
    assert 0 < there < int(form.locator("[name=at]").input_value())


def test_it_plays_only_when_asked(page):
    """Nothing moves by itself; Play moves, and Pause stops it."""
    form = stage(page)
    slider = form.locator("[name=at]")
    before = slider.input_value()
    page.wait_for_timeout(300)
    assert slider.input_value() == before
    form.locator("[name=speed]").select_option("fast")
    form.locator("[data-do=play]").click()
    page.wait_for_function(
        "([form, was]) => form.elements.at.value !== was",
        arg=[form.element_handle(), before],
    )
    form.locator("[data-do=play]").click()
    stopped = slider.input_value()
    page.wait_for_timeout(300)
    assert slider.input_value() == stopped


def test_a_cell_gives_its_bits(page):
    """A click tells all that is known of a page, down to the descriptor."""
    form = stage(page)
    form.locator("[data-row='page/0'] .cell").first.click()
    bits = form.locator(".tlbkit-bits").first.inner_text()
    assert bits.startswith("the tables, page 0:")
    assert "descriptor 0x" in bits


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_letters_can_be_read(page, theme):
    """Every kind of text keeps 4.5:1 on what it stands on."""
    page.emulate_media(color_scheme=theme)
    page.wait_for_function(f"document.documentElement.dataset.theme === '{theme}'")
    assert min(stage(page).evaluate(CONTRAST)) >= 4.5


def test_pictures_have_names_and_ids_are_unique(page):
    """Whoever does not see it hears what has happened, from one place each."""
    form = stage(page)
    go(form, 5)
    for number, said in enumerate(form.locator(".tlbkit-happened").all_inner_texts()):
        picture = form.locator(".tlbkit-board svg[role=img]").nth(number)
        assert picture.get_attribute("aria-label") == said
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))


def test_a_step_is_answered_at_once(page):
    """On 64 pages and 8 CPUs a step takes a tenth of what a reader notices."""
    form = stage(page)
    shown = Stage("fork-reuse", pages=64, cpus=8, threads=8)
    load(form, shown)
    took = form.evaluate(
        """form => {
          const took = [];
          for (let n = 0; n < 120; n++) {
            const begun = performance.now();
            form.tlbkit.go(n, true);
            document.body.offsetHeight;
            took.push(performance.now() - begun);
          }
          return took.sort((a, b) => a - b)[60];
        }"""
    )
    assert took <= 50


def test_it_fits_a_phone(page):
    """No part is wider than the window, and the controls stay in sight."""
    page.set_viewport_size(PHONE)
    page.wait_for_timeout(200)
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


@pytest.mark.parametrize(
    ("name", "number", "tick"),
    [("broadcast", 0, 6), ("spurious", 0, 34), ("hole", 1, 12)],
)
def test_it_looks_as_it_did(page, name, number, tick):
    """A main scene is, but for letters and edges, the picture that is stored."""
    form = stage(page, number)
    page.set_viewport_size({"width": 1280, "height": 900})
    go(form, tick)
    page.wait_for_timeout(400)
    seen = form.locator(".tlbkit-scenes").screenshot()
    stored = PICTURES / f"{name}.png"
    if not stored.exists():
        stored.write_bytes(seen)
        pytest.fail(f"{stored} is new: look at it, and keep it if it is right")
    pictures = [base64.b64encode(p).decode() for p in (seen, stored.read_bytes())]
    assert page.evaluate(APART, pictures) <= 6


def test_a_live_board_follows_the_controls(page):
    """A moved control gives the board the films of the new setting, from this page."""
    form = stage(page, 2)
    assert len(cells_of_tables(form)) == 4
    slider = page.locator(".tlbkit-explorer input[name=pages]")
    slider.press("ArrowLeft")
    page.wait_for_function(
        "form => form.querySelectorAll('[data-row=\"page/0\"] .cell').length === 2",
        arg=form.element_handle(),
        timeout=90_000,
    )
    shown = Stage("unmap", pages=2)
    assert form.locator(".tlbkit-title").inner_text() == shown.title
    last = form.evaluate("form => form.tlbkit.ticks().length - 1")
    assert last == len(shown.films[0]["moments"]) + 1


def cells_of_tables(form):
    """Return the cells of the first row of tables."""
    return form.locator("[data-row='page/0'] .cell").all()
