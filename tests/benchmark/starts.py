"""What the first answer of a page costs its reader, in Chromium.

    python tests/benchmark/starts.py [--page PAGE ...] [SITE ...]

Each SITE is the folder of a built site, `_build/html` if none is named; several are
measured in turn, page by page, so that one run holds before and after. Each page is
opened in a browser of its own and its first explorer is used in three ways: a control
is moved as soon as it can be; after five seconds of looking; and two controls are
moved, which no answer that came with the page knows. Told are the milliseconds from
the move to the frame that shows the answer, and the seconds that all of the browser's
processes computed: from the move on, and from the opening of the page.
"""

import sys
import threading
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
from answers import ANSWER
from playwright.sync_api import ElementHandle, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "book"), str(ROOT / ".ci")]

import environment
import serve

PAGES = (
    "book/machine/tlb.html",
    "book/commits/mprotect.html",
    "book/commits/write-fault.html",
)
LOOKING_S = 5
WANTED_MS, WANTED_S = 1500, 2.0
ENABLED = ".tlbkit-explorer[id] .tlbkit-controls:enabled"
MOVES = """form => [...form.elements]
    .filter((one) => one.type === "range" || one.type === "select-one")
    .map((one) => [one.name, Number(one.value), one.type === "range"
        ? Number(one.max) : one.options.length - 1])
    .filter(([, , end]) => end > 0)
    .map(([name, now, end]) => [name, String(now < end ? now + 1 : now - 1)])"""
SET = """([form, name, value]) => { form.elements[name].value = value; }"""


def computed() -> float:
    """Return the seconds that the browser's processes have computed so far."""
    total = 0.0
    for process in psutil.Process().children(recursive=True):
        try:
            if "chrom" in process.name():
                spent = process.cpu_times()
                total += spent.user + spent.system
        except psutil.NoSuchProcess:
            continue
    return total


@contextmanager
def serving(site: Path) -> Iterator[str]:
    """Serve a site on this machine."""
    handler = partial(serve.Handler, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def use(page: Page, address: str, way: str) -> tuple[float, float, float]:
    """Return milliseconds, seconds from the move on, and seconds from the opening."""
    opened = computed()
    page.goto(address)
    page.wait_for_selector(ENABLED)
    form: ElementHandle | None = page.query_selector(".tlbkit-explorer")
    assert form is not None
    form.scroll_into_view_if_needed()
    if way == "after looking":
        time.sleep(LOOKING_S)
    moves: list[tuple[str, str]] = page.evaluate(MOVES, form)
    if way == "two controls":
        for name, value in moves[1:2]:
            page.evaluate(SET, [form, name, value])
    moved = computed()
    ms: float = page.evaluate(ANSWER, [form, *moves[0]])
    now = computed()
    return ms, now - moved, now - opened


def measure(play: Any, address: str, way: str) -> tuple[float, float, float]:
    """Use a page in a browser that has seen none."""
    browser = play.chromium.launch(executable_path=environment.browser())
    page = browser.new_page()
    page.goto("about:blank")
    found = use(page, address, way)
    browser.close()
    return found


def main() -> None:
    """Print the table."""
    parser = ArgumentParser(description="What the first answer of a page costs.")
    parser.add_argument("sites", nargs="*", type=Path, default=[serve.SITE])
    parser.add_argument("--page", action="append", dest="pages")
    asked = parser.parse_args()
    print(f"wanted: {WANTED_MS} ms, {WANTED_S:.1f} s from the move on")
    heads = f"{'page':32} {'moved':14} {'site':24}"
    print(f"{heads} {'ms':>7} {'s':>6} {'s in all':>9}")
    with sync_playwright() as play:
        for name in asked.pages or PAGES:
            for way in ("at once", "after looking", "two controls"):
                for site in asked.sites:
                    with serving(site) as address:
                        told = measure(play, f"{address}/{name}", way)
                    line = f"{name:32} {way:14} {str(site)[-24:]:24}"
                    print(f"{line} {told[0]:7.0f} {told[1]:6.2f} {told[2]:9.2f}")


if __name__ == "__main__":
    main()
