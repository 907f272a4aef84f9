"""What every page of the site promises, by day and by night, on a desk and a phone."""

from axe_playwright_python.sync_playwright import Axe

PHONE = {"width": 390, "height": 844}

CONTRAST = """
() => {
  const canvas = document
    .createElement("canvas")
    .getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = (colour) => {
    const [r, g, b] = rgba(colour).map((v) => {
      v /= 255;
      return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const paper = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor;
      if (rgba(colour)[3] === 255) return colour;
    }
    return "white";
  };
  const own =
    ".tlbkit-explorer *, .tlbkit-player *, .highlight-diff .gd, .highlight-diff .gi";
  return [...document.querySelectorAll(own)]
    .filter((e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()))
    .filter((e) => e.tagName !== "SCRIPT" && e.offsetParent)
    .map((e) => {
      const pair = [light(getComputedStyle(e).color), light(paper(e))];
      const [a, b] = pair.sort((x, y) => y - x);
      return [e.textContent.trim().slice(0, 40), (a + 0.05) / (b + 0.05)];
    })
    .filter(([, ratio]) => ratio < 4.5);
}
"""
INK = "el => getComputedStyle(el).getPropertyValue('--tlbkit-ink').trim()"
FIGURE_INK = """
() => Bokeh.documents.flatMap((d) => [...d._all_models.values()])
  .filter((m) => m.tags?.includes("ink")).map((m) => m.text_color.value)
"""


def settle(page):
    """Wait until the page and its figures are there."""
    page.wait_for_load_state("networkidle")
    figures = page.locator(".tlbkit-figure")
    for figure in figures.all():
        figure.locator("canvas").first.wait_for()


def names(page):
    """Return role and accessible name of everything a reader can operate."""
    session = page.context.new_cdp_session(page)
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    operated = {"slider", "combobox", "button", "link", "checkbox", "textbox"}
    return [
        (node["role"]["value"], node.get("name", {}).get("value", "").strip())
        for node in nodes
        if not node.get("ignored") and node["role"]["value"] in operated
    ]


def overflow(page):
    """Return how many pixels the page is wider than the window."""
    return page.evaluate("document.documentElement.scrollWidth - innerWidth")


LONG = 8000
"""Elements of a page whose contrasts take axe minutes: a list of the API."""

ALIKE = [
    "article dl.py:nth-of-type(n+3)",
    "article tbody tr:nth-child(n+5)",
    "li.toc-h2 li:nth-child(n+5)",
]
"""What such a page repeats: of definitions, rows and entries the first are checked."""


def violations(page, *rules):
    """Return what axe finds on a page by these rules, or by all: the rule, and where.

    It does not load the styles a second time: it looks for what a style imports beside
    the page, and the browser complains of what is not there.
    """
    options = {"resultTypes": ["violations"], "preload": False}
    if rules:
        options["runOnly"] = {"type": "rule", "values": list(rules)}
    size = page.evaluate("document.querySelectorAll('*').length")
    context = {"exclude": [[part] for part in ALIKE]} if size > LONG else None
    found = Axe().run(page, context=context, options=options).response
    return [
        (rule["id"], node["target"], node["failureSummary"])
        for rule in found["violations"]
        for node in rule["nodes"]
    ]


def check(visit, address):
    """Open one page and hold it to everything a page promises."""
    page = visit.page
    page.emulate_media(color_scheme="light")
    page.set_viewport_size({"width": 1280, "height": 900})
    page.goto(address)
    settle(page)
    assert page.locator("h1").count()
    assert not [role for role, name in names(page) if not name], address
    assert page.evaluate(CONTRAST) == []
    assert violations(page) == [], address

    page.emulate_media(color_scheme="dark")
    page.wait_for_function("document.documentElement.dataset.theme === 'dark'")
    page.wait_for_timeout(500)  # colours fade over to the other theme
    assert page.evaluate(CONTRAST) == []
    assert violations(page, "color-contrast") == [], address
    if page.locator(".tlbkit-figure").count():
        ink = page.locator(".tlbkit-explorer").first.evaluate(INK)
        assert set(page.evaluate(FIGURE_INK)) == {ink}

    page.set_viewport_size(PHONE)
    page.wait_for_timeout(100)
    assert overflow(page) <= 0, address
    assert visit.clean(), (address, visit.complaints, visit.foreign)
