"""What the book's own Sphinx extension decides, without building a book."""

import io
import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import docutils.core
import pytest
from docutils import nodes
from hypothesis import given
from hypothesis import strategies as st
from tlbkit_site import address, answers, head, node, pyodide, snapshot, terms
from tlbkit_site.bundle import bundle, fingerprint, sources

from tlbkit.show import Explorer
from tlbkit.show.bridge import reply
from tlbkit.show.page import html

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "tlbkit"


@given(st.lists(st.binary(), max_size=4), st.lists(st.binary(), max_size=4))
def test_fingerprints_are_equal_only_for_equal_contents(a, b):
    """Contents that differ, or are divided differently, get different names."""
    assert (fingerprint(*a) == fingerprint(*b)) == (a == b)


def test_the_bundle_is_the_package():
    """The archive holds every module and its data, their exact text, and no test."""
    with zipfile.ZipFile(io.BytesIO(bundle(PACKAGE))) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    assert held == {
        path.relative_to(ROOT).as_posix(): path.read_bytes()
        for kind in ("*.py", "*.litmus")
        for path in PACKAGE.rglob(kind)
        if "tests" not in path.parts[len(PACKAGE.parts) :]
    }


def test_the_bundle_is_always_the_same(tmp_path):
    """Neither the clock nor the order of a folder shows in the archive."""
    copy = tmp_path / "tlbkit"
    for path in reversed(sources(PACKAGE)):
        target = copy / path.relative_to(PACKAGE)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    assert bundle(copy) == bundle(PACKAGE)


def test_the_bundle_follows_the_sources(tmp_path):
    """A changed module gives another archive, a changed test does not."""
    package = tmp_path / "tlbkit"
    (package / "tests").mkdir(parents=True)
    (package / "a.py").write_text("A = 1\n")
    first = bundle(package)
    (package / "tests" / "test_a.py").write_text("assert False\n")
    assert bundle(package) == first
    (package / "a.py").write_text("A = 2\n")
    assert bundle(package) != first


def project(tmp_path, urls=""):
    """Write a pyproject.toml and return its path."""
    path = tmp_path / "pyproject.toml"
    path.write_text(f'[project]\nname = "x"\n{urls}')
    return path


def test_the_address_comes_from_the_project(tmp_path):
    """A hosted workflow knows where it runs; elsewhere pyproject.toml says it."""
    named = project(tmp_path, '[project.urls]\nRepository = "https://github.com/a/b/"')
    runner = {"GITHUB_SERVER_URL": "https://github.com", "GITHUB_REPOSITORY": "c/d"}
    assert address.repository(named, runner) == "https://github.com/c/d"
    assert address.repository(named, {}) == "https://github.com/a/b"
    unnamed = project(tmp_path)
    assert address.repository(unnamed, runner) == "https://github.com/c/d"
    assert address.repository(unnamed, {}) is None


def test_buttons_follow_the_address():
    """With an address pages lead to it and to Binder; without one to neither."""
    options = address.theme_options("https://github.com/a/b")
    assert options["repository_url"] == "https://github.com/a/b"
    assert options["launch_buttons"]["notebook_interface"] == "jupyterlab"
    assert options["launch_buttons"]["binderhub_url"]
    assert options["use_edit_page_button"]
    assert options["use_issues_button"]
    without = address.theme_options(None)
    assert not without["launch_buttons"]
    assert "repository_url" not in without


def archive_of(files):
    """Return a package archive as npm makes them."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def npm(monkeypatch):
    """Replace npm by one that delivers what the test puts into its list."""
    delivery: list[bytes] = []
    calls: list[list[str]] = []

    def run(command, cwd, **_):
        calls.append(command)
        if not delivery:
            raise subprocess.CalledProcessError(1, command, "", "npm error offline\n")
        (Path(cwd) / "pyodide.tgz").write_bytes(delivery[0])

    monkeypatch.setattr(node, "command", lambda *_: (["npm"], {}))
    monkeypatch.setattr(subprocess, "run", run)
    return delivery, calls


@pytest.fixture
def pinned(tmp_path, monkeypatch):
    """Pin an archive of the test's own and return it."""
    content = archive_of({name: name.encode() for name in pyodide.FILES})
    path = tmp_path / "pinned.tgz"
    path.write_bytes(content)
    monkeypatch.setattr(pyodide, "INTEGRITY", pyodide._integrity(path))
    return content


def test_the_archive_is_fetched_once(tmp_path, npm, pinned):
    """The cache answers from the second time on."""
    delivery, calls = npm
    delivery.append(pinned)
    cache = tmp_path / "cache"
    first = pyodide.archive(cache)
    assert pyodide.archive(cache) == first
    assert len(calls) == 1
    assert [path.name for path in cache.iterdir()] == [first.name]


def test_a_spoilt_cache_is_fetched_anew(tmp_path, npm, pinned):
    """What lies in the cache is believed only if its checksum is right."""
    delivery, calls = npm
    delivery.append(pinned)
    pyodide.archive(tmp_path).write_bytes(b"spoilt")
    assert pyodide.archive(tmp_path).read_bytes() == pinned
    assert len(calls) == 2


def test_a_wrong_archive_is_refused(tmp_path, npm, pinned):
    """An archive with another checksum stops the build and is not kept."""
    delivery, _ = npm
    delivery.append(pinned + b"more")
    with pytest.raises(pyodide.PyodideUnavailableError, match="checksum"):
        pyodide.archive(tmp_path)
    assert not list(tmp_path.glob("pyodide*")), "kept in spite of it"


@pytest.mark.usefixtures("pinned", "npm")
def test_an_archive_that_cannot_be_had_is_said(tmp_path):
    """The last word of npm reaches whoever reads the build."""
    with pytest.raises(pyodide.PyodideUnavailableError, match="offline"):
        pyodide.archive(tmp_path)


def test_pages_get_what_they_need_of_it(tmp_path, pinned):
    """Exactly the files that a page loads are unpacked."""
    archive = tmp_path / "a.tgz"
    archive.write_bytes(pinned)
    pyodide.unpack(archive, tmp_path / "out")
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == {
        name: name.encode() for name in pyodide.FILES
    }


def page_of(*forms):
    """Return the HTML of a page that holds these explorers, and one stage."""
    stage = '<form class="tlbkit-stage" data-name="x" data-follows="unmap"></form>'
    return "<main>" + "".join(html(form) for form in forms) + stage + "</main>"


def test_what_one_move_leads_to_comes_with_the_page(tmp_path):
    """Each choice of each control has its answer, and it is the page's Python's own."""
    explorer = Explorer("mprotect", pages=8)
    kept = tmp_path / "answers-1.json"
    told = answers.answers({"a": page_of(explorer)}, kept)
    choices = [len(p.choices) - 1 for p in explorer.scenario.controls]
    assert len(told["mprotect"]) == 1 + sum(choices)
    for setting, said in told["mprotect"].items():
        names = [parameter.name for parameter in explorer.scenario.controls]
        params = dict(zip(names, json.loads(setting), strict=True))
        request = {"scenario": "mprotect", "params": params, "stage": False}
        assert said == json.loads(reply(json.dumps(request)))
    assert answers.answers({"a": page_of(explorer)}, kept) == told


def test_a_stage_gets_what_it_shows(tmp_path):
    """Where a stage follows a scenario, its answers hold what the stage draws."""
    page = page_of(Explorer("mprotect"), Explorer("unmap"))
    told = answers.answers({"a": page}, tmp_path / "answers-1.json")
    assert all("stage" in said for said in told["unmap"].values())
    assert not any("stage" in said for said in told["mprotect"].values())


def test_answers_of_an_older_package_are_not_kept(tmp_path):
    """The cache holds one state of the package."""
    answers.answers({"a": page_of()}, tmp_path / "answers-1.json")
    answers.answers({"a": page_of()}, tmp_path / "answers-2.json")
    assert [path.name for path in tmp_path.iterdir()] == ["answers-2.json"]


def test_a_snapshot_that_cannot_be_made_is_said(tmp_path, monkeypatch, pinned):
    """What the page's Python says when it does not start reaches whoever builds."""
    (tmp_path / f"pyodide-{pyodide.VERSION}.tgz").write_bytes(pinned)
    says = 'import sys; sys.exit("no such module: tlbkit")'
    command = ([sys.executable, "-c", says], dict(os.environ))
    monkeypatch.setattr(node, "command", lambda *_: command)
    with pytest.raises(snapshot.SnapshotError, match="no such module"):
        snapshot.started(tmp_path, b"", "1")
    assert not list(tmp_path.glob("snapshot-*"))


def test_one_snapshot_is_kept(tmp_path, monkeypatch, pinned):
    """It is made once for a state of the package, and the one before goes."""
    (tmp_path / f"pyodide-{pyodide.VERSION}.tgz").write_bytes(pinned)
    makes = (
        "import sys; open(sys.argv[-1], 'wb').write(open(sys.argv[-2], 'rb').read())"
    )
    command = ([sys.executable, "-c", makes], dict(os.environ))
    monkeypatch.setattr(node, "command", lambda *_: command)
    assert snapshot.started(tmp_path, b"old", "1").read_bytes() == b"old"
    made = snapshot.started(tmp_path, b"new", "2")
    assert list(tmp_path.glob("snapshot-*")) == [made]
    assert snapshot.started(tmp_path, b"other", "2").read_bytes() == b"new"


def parsed(text):
    """Return the document that a page's source makes."""
    settings = {"doctitle_xform": False}  # as Sphinx has it
    return docutils.core.publish_doctree(text, settings_overrides=settings)


@given(st.lists(st.from_regex(r"[a-z]{1,30}", fullmatch=True)))
def test_descriptions_fit_and_end_at_a_word(some):
    """What others show of a page is not longer than they show, and cuts no word."""
    words = " ".join(["about", *some, *["flushes"] * 20])
    told = head.description(parsed(f"Title\n=====\n\nA part\n------\n\n{words}\n"))
    assert len(told) <= head.LONGEST + 2
    whole = told.removesuffix(" …")
    assert words.startswith(whole)
    assert whole == words or words[len(whole)] == " "


def test_a_page_says_whole_addresses_or_none():
    """Others load a picture by its whole address; without one it is left out."""
    known = head.tags("T", "text & more", "a.html", "https://x/", "p.png")
    assert 'content="https://x/a.html"' in known
    assert 'content="https://x/p.png"' in known
    assert "text &amp; more" in known
    unknown = head.tags("T", "text", "a.html", "", "p.png")
    assert "p.png" not in unknown
    assert 'name="description" content="text"' in unknown


def test_the_sitemap_lists_each_page_once():
    """Search engines find every page under the site's public address."""
    listed = head.sitemap("https://x/y/", ["a.html", "b/c.html"])
    assert re.findall("<loc>(.*?)</loc>", listed) == [
        "https://x/y/a.html",
        "https://x/y/b/c.html",
    ]


def test_links_to_the_glossary_carry_its_text():
    """Each link to a term tells what the term means; others stay as they are."""
    glossary = parsed("TLB\n  It holds *translations*.\n")
    (item,) = glossary.findall(nodes.term)
    item["ids"].append("term-TLB")
    known = dict(terms.told(glossary))
    assert known == {"term-TLB": "It holds translations."}
    other = '<a class="reference internal" href="tlb.html#reach">reach</a>'
    link = '<a class="reference internal" href="../glossary.html#term-TLB">TLB</a>'
    said = terms.beside(other + link, known)
    assert said.startswith(other)
    assert said.count("data-term=") == 1


STYLES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ("book/_static", "tlbkit/show")
    for path in (ROOT / folder).rglob("*.css")
)


@pytest.mark.parametrize("name", STYLES)
def test_a_style_closes_what_it_opens(name):
    """No block swallows the rules after it: a browser would not say so."""
    style = re.sub(r"/\*.*?\*/", "", (ROOT / name).read_text("utf-8"), flags=re.DOTALL)
    depth = 0
    for line in style.splitlines():
        starts_a_rule = re.match(r"[@.#:a-z*\[].*\{$", line)
        assert not (starts_a_rule and depth), line
        depth += line.count("{") - line.count("}")
    assert depth == 0
