"""The two commands of the README help where they cannot go on."""

import http.client
import importlib.util
import json
import re
import threading

import environment
import pytest
import serve


@pytest.fixture
def clone(monkeypatch, tmp_path):
    """Stand in a clone that has no environment yet."""
    for name in ("requirements.txt", ".ci/constraints.txt", "pyproject.toml"):
        copy = tmp_path / name
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes((environment.ROOT / name).read_bytes())
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    monkeypatch.setattr(environment, "CACHE", tmp_path / ".cache")
    return tmp_path


@pytest.mark.parametrize(
    ("said", "helps"),
    [
        ("OSError: [Errno 28] No space left on device", "disk is full"),
        ("NewConnectionError(': Temporary failure in name resolution')", "network"),
        ("[Errno 11001] getaddrinfo failed", "network"),
        ("ERROR: No matching distribution found for numpy==2.4.6", "3.11 to 3.14"),
        ("something nobody foresaw", "pip.log"),
    ],
)
def test_a_failed_installation_says_what_helps(said, helps):
    """Each known failure of pip has its sentence; an unknown one, a place to look."""
    assert helps in environment.remedy(said)


def test_a_failed_network_is_told_before_its_consequence():
    """Without a network pip ends with a missing package, which is not the cause."""
    said = "NewConnectionError ... ERROR: No matching distribution found for bokeh"
    assert "network" in environment.remedy(said)


@pytest.mark.usefixtures("clone")
def test_a_missing_venv_is_named(monkeypatch):
    """Debian splits venv from Python: the sentence names the package to install."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(SystemExit, match=r"apt install python3\.\d+-venv"):
        environment.prepare("book")


def test_requirements_make_the_environment(clone):
    """Another requirement is another environment; another lint rule is not."""
    before = environment.home()
    with (clone / "pyproject.toml").open("a") as file:
        file.write("\n[tool.other]\nkey = 1\n")
    assert environment.home() == before
    with (clone / "requirements.txt").open("a") as file:
        file.write("other\n")
    assert environment.home() != before


def test_a_taken_port_gives_way(capfd):
    """The second server takes the next free port and says so."""
    with serve.listen(0) as first, serve.listen(first.server_port) as second:
        assert second.server_port > first.server_port
        assert f"taking {second.server_port}" in capfd.readouterr().err


def test_an_impossible_port_is_refused():
    """Where no port can be opened, the sentence names the way out."""
    with pytest.raises(SystemExit, match="--port"):
        serve.listen(70000)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.mjs", "text/javascript"), ("a.wasm", "application/wasm")],
)
def test_pages_get_what_a_browser_runs(monkeypatch, tmp_path, name, kind):
    """Scripts and WebAssembly have their types, and are asked for again next time."""
    (tmp_path / name).touch()
    monkeypatch.setattr(serve, "SITE", tmp_path)
    with serve.listen(0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port)
        connection.request("GET", f"/{name}")
        answer = connection.getresponse()
        connection.close()
        server.shutdown()
    assert answer.headers["Content-Type"] == kind
    assert answer.headers["Cache-Control"] == "no-cache"


def test_a_failed_build_shows_its_warnings():
    """However long the output, its warnings are shown, and the log is named."""
    output = [
        "\x1b[91mx.md:1: WARNING: no such target\x1b[39;49;00m",
        *["reading"] * 100,
        "exit",
    ]
    shown = serve.complaint("\n".join(output))
    assert shown.startswith("x.md:1: WARNING: no such target\n")
    assert "reading" not in shown
    assert re.search(r"_build/build\.log", shown)


def test_a_build_without_pyodide_says_how_to_go_without():
    """Only where the page's own Python could not be had is it offered to leave it."""
    failed = "Extension error: Pyodide 1.2 could not be fetched (no network)"
    assert "--no-live" in serve.complaint(failed)
    assert failed in serve.complaint(failed)
    assert "--no-live" not in serve.complaint("WARNING: unknown document")


def test_the_digest_covers_what_the_book_is_made_of():
    """A change of a chapter, a module or the configuration is a new book."""
    names = {path.relative_to(environment.ROOT).as_posix() for path in serve.sources()}
    assert {"pyproject.toml", "book/serve.py", "tlbkit/errors.py"} <= names
    assert not [name for name in names if name.startswith(("_build", ".cache"))]


def test_the_book_takes_the_place_of_its_front_page(tmp_path):
    """One address serves what stands there now, and the whole book once it is built."""
    for name in ("front", "book"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text(name)
    shown = serve.Shown(tmp_path / "front")
    with serve.listen(0, shown) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        found = []
        for folder in ("front", "book"):
            shown.folder = tmp_path / folder
            connection = http.client.HTTPConnection("127.0.0.1", server.server_port)
            connection.request("GET", "/a.txt")
            found.append(connection.getresponse().read().decode())
            connection.close()
        server.shutdown()
    assert found == ["front", "book"]


def test_a_build_tells_how_far_it_is(monkeypatch, tmp_path):
    """All that a build says is kept, and its status is handed on."""
    tool = tmp_path / "jupyter-book"
    tool.write_text("#!/bin/sh\necho 'reading sources... [ 50%] book/a'\nexit 3\n")
    tool.chmod(0o755)
    monkeypatch.setattr(serve, "LOG", tmp_path / "build.log")
    assert serve.run(tmp_path / "python", [], {}) == 3
    kept = (tmp_path / "build.log").read_text()
    found = serve.PROGRESS.search(kept)
    assert found
    assert found.groups() == ("reading sources", "50", "book/a")


def test_the_slowest_pages_are_listed_first(monkeypatch, tmp_path):
    """The times of the last build are told by phase, then by page, slowest first."""
    told = {"phases": {"reading": 9.0}, "pages": {"a": 1.0, "b": 2.0}}
    monkeypatch.setattr(serve, "TIMES", tmp_path / "times.json")
    assert "nothing was built" in next(iter(serve.times()))
    serve.TIMES.write_text(json.dumps(told))
    lines = [line.split() for line in serve.times()]
    assert [line[0] for line in lines[1:]] == ["9.0", "2.0", "1.0"]
