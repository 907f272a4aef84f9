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


@dataclass(frozen=True)
class Build:
    """A strict build of a book, under way."""

    target: Path
    process: subprocess.Popen[bytes]

    @classmethod
    def of(cls, source: Path, target: Path) -> "Build":
        """Begin to build the book at *source*; the site goes below *target*."""
        tool = Path(sys.executable).parent / "jupyter-book"
        options = ["-W", "--keep-going", "-n", "--path-output", str(target)]
        with (target / "build.log").open("wb") as log:
            process = subprocess.Popen(
                [str(tool), "build", str(source), *options],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "TLBKIT_SITE_LIVE": "on"},
            )
        return cls(target, process)

    def site(self) -> Path:
        """Wait for the end and return the folder of the site."""
        failed = self.process.wait()
        assert not failed, (self.target / "build.log").read_text("utf-8")[-8000:]
        return self.target / "_build" / "html"


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
def builds(tmp_path_factory, request) -> Iterator[dict[str, Build]]:
    """Begin all builds at once: a sample with the book's style, and the book.

    A site that `serve.py` has built from the same sources is taken as it is.
    """
    request.getfixturevalue("browser")  # nothing is built where there is none
    source = tmp_path_factory.mktemp("sample")
    shutil.copytree(SAMPLE, source / "book")
    (source / "_toc.yml").write_text(PAGES, "utf-8")
    shutil.copy(ROOT / "_config.yml", source)
    for own in ("_ext", "_static"):
        (source / "book" / own).symlink_to(ROOT / "book" / own)
    builds = {"sample": Build.of(source, source)}
    if not serve.is_current():
        builds["book"] = Build.of(ROOT, tmp_path_factory.mktemp("book"))
    yield builds
    for build in builds.values():
        build.process.kill()
        build.process.wait()


@pytest.fixture(scope="session")
def site(builds) -> Iterator[Site]:
    """Return the book's own site."""
    book = builds.get("book")
    yield from serving(serve.SITE if book is None else book.site())


@pytest.fixture(scope="session")
def sample(builds) -> Iterator[Site]:
    """Return the sample's site."""
    yield from serving(builds["sample"].site())


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
