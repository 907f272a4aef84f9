"""The site, built as it is published and opened in a real browser."""

import functools
import http.server
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import environment
import pytest
import serve
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = Path(__file__).parent / "sample"
PAGES = """\
format: jb-book
root: book/sample
chapters:
  - file: book/players
  - file: book/stage
  - file: book/game
  - file: book/trace
"""
HERE = "127.0.0.1"


@dataclass(frozen=True)
class Site:
    """A built site and where it is served."""

    folder: Path
    address: str

    def pages(self) -> list[str]:
        """Return the addresses of all pages of the book, and of the search."""
        found = [*(self.folder / "book").rglob("*.html"), self.folder / "search.html"]
        return [
            f"{self.address}/{p.relative_to(self.folder).as_posix()}" for p in found
        ]


@dataclass
class Visit:
    """A page under watch: what it complained of, and what it asked of others."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)

    def watch(self, page: Page) -> None:
        """Write down every error of *page*."""
        page.on(
            "console",
            lambda said: (
                self.complaints.append(said.text)
                if said.type in {"error", "warning"}
                else None
            ),
        )
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def clean(self) -> bool:
        """Tell whether the console stayed clean and no other host was asked."""
        return not self.complaints and not self.foreign


def built(source: Path) -> Path:
    """Build the book at *source*, strictly and live, and return its site's folder."""
    tool = Path(sys.executable).parent / "jupyter-book"
    done = subprocess.run(
        [str(tool), "build", str(source), "-W", "--keep-going", "-n"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        env={**os.environ, "TLBKIT_SITE_LIVE": "on"},
        check=False,
    )
    assert not done.returncode, done.stdout[-8000:]
    return source / "_build" / "html"


def serving(folder: Path) -> Iterator[Site]:
    """Serve *folder* on this machine while the tests run."""
    handler = functools.partial(serve.Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer((HERE, 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield Site(folder, f"http://{HERE}:{server.server_port}")
        server.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Return Chromium; where there is none, the test is skipped."""
    found = environment.browser()
    if found is None:
        pytest.skip("no Chromium is installed (Debian: apt-get install chromium)")
    root = getattr(os, "geteuid", lambda: 1)() == 0
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=found, args=["--no-sandbox"] if root else []
        )
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def site(browser) -> Iterator[Site]:
    """Return the book's own site, built by its own command where it is not current."""
    del browser  # nothing is built where there is none
    if not serve.is_current():
        command = [sys.executable, str(ROOT / "book" / "serve.py"), "--build-only"]
        subprocess.run(command, check=True)
    yield from serving(serve.SITE)


@pytest.fixture(scope="session")
def sample(browser, tmp_path_factory) -> Iterator[Site]:
    """Return the site of a sample with the book's style."""
    del browser  # nothing is built where there is none
    source = tmp_path_factory.mktemp("sample")
    shutil.copytree(SAMPLE, source / "book")
    (source / "_toc.yml").write_text(PAGES, "utf-8")
    shutil.copy(ROOT / "_config.yml", source)
    for own in ("_ext", "_static"):
        (source / "book" / own).symlink_to(ROOT / "book" / own)
    yield from serving(built(source))


@pytest.fixture
def context(browser) -> Iterator[BrowserContext]:
    """Return a fresh browser profile."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    yield context
    context.close()


@pytest.fixture
def visit(context) -> Visit:
    """Return a page that may talk to this machine only, and is watched."""
    visit = Visit(context.new_page())
    visit.watch(visit.page)

    def guard(route: Any) -> None:
        if urlsplit(route.request.url).hostname == HERE:
            route.continue_()
        else:
            visit.foreign.append(route.request.url)
            route.abort()

    context.route("**/*", guard)
    return visit
