"""How long a reader waits for an answer in the page, in Chromium.

    python tests/benchmark/answers.py [PAGE ...]

Needs the built site (`python3 book/serve.py --build-only`) and Chromium. Every control
of every explorer is put to its end, the others where the page has them; then all are
put to their ends. A wait goes from the control's event to the frame that shows the
answer, and the median of the rounds counts; each round is a page opened anew. Wanted
are 150 ms for each control. That all stand at their ends at once is told beside it.
"""

import sys
import threading
from argparse import ArgumentParser
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

from playwright.sync_api import Browser, ElementHandle, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "book"), str(ROOT / ".ci")]

import environment
import serve

ROUNDS = 3
WANTED_MS = 150
LIVE = """form => !form.hasAttribute("aria-busy")
    && ["live", "kept"].includes(form.dataset.answer)"""
ANSWER = """([form, name, value]) => new Promise((done) => {
    const control = form.elements[name];
    const start = performance.now();
    const watch = new MutationObserver(() => {
        if (form.hasAttribute("aria-busy")) return;
        watch.disconnect();
        requestAnimationFrame(() => done(performance.now() - start));
    });
    watch.observe(form, {attributeFilter: ["aria-busy"]});
    control.value = value;
    control.dispatchEvent(new Event("input", {bubbles: true}));
    control.dispatchEvent(new Event("change", {bubbles: true}));
})"""
CONTROLS = """form => [...form.elements]
    .filter((one) => one.type === "range" || one.type === "select-one")
    .map((one) => [one.name, one.value,
        one.type === "range" ? one.max : one.options[one.options.length - 1].value])
    .filter(([name, now, end]) => now !== end)"""


def waits(page: Page, form: ElementHandle) -> dict[str, float]:
    """Return the wait in ms for each control of an explorer, by name, and for all."""

    def put(name: str, value: str) -> float:
        waited: float = page.evaluate(ANSWER, [form, name, value])
        return waited

    controls: list[tuple[str, str, str]] = page.evaluate(CONTROLS, form)
    if not controls:
        return {}
    put(controls[0][0], controls[0][1])  # brings Python into the page, and no more
    page.wait_for_function(LIVE, arg=form, timeout=120_000)
    found = {}
    for name, here, there in controls:
        found[name] = put(name, there)
        put(name, here)
    for name, _, there in controls[:-1]:
        put(name, there)
    found["all at their ends"] = put(controls[-1][0], controls[-1][2])
    return found


def measure(browser: Browser, address: str) -> dict[tuple[str, str], list[float]]:
    """Return the waits of all rounds, by explorer and control."""
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for _ in range(ROUNDS):
        with browser.new_context() as context:
            page = context.new_page()
            page.goto(address)
            for form in page.query_selector_all(".tlbkit-explorer"):
                name: Any = form.get_attribute("id")
                for control, waited in waits(page, form).items():
                    found[name, control].append(waited)
    return found


def main() -> None:
    """Print the table of all pages, or of those that are named."""
    parser = ArgumentParser(description="How long a reader waits for an answer.")
    parser.add_argument("pages", nargs="*", help="such as book/kernel/fork.html")
    asked = parser.parse_args()
    site = ROOT / "_build" / "html"
    pages = asked.pages or [
        path.relative_to(site).as_posix()
        for path in sorted((site / "book").rglob("*.html"))
        if 'class="tlbkit-explorer' in path.read_text("utf-8")
    ]
    if not pages:
        raise SystemExit("no page is built: python3 book/serve.py --build-only")
    server = serve.listen(0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"{'page':48} {'explorer':24} {'control':20} {'ms':>6}  want")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=environment.browser())
        for name in pages:
            address = f"http://127.0.0.1:{server.server_port}/{name}"
            for (explorer, control), ms in measure(browser, address).items():
                want = f"<= {WANTED_MS}" if " " not in control else ""
                print(f"{name:48} {explorer:24} {control:20} {median(ms):6.0f}  {want}")
        browser.close()
    server.shutdown()


if __name__ == "__main__":
    main()
