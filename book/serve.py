"""Build the book, with warnings as errors, and serve it on this machine.

    python3 book/serve.py

It makes its own environment, builds what has changed since the last time, and serves
the result until Ctrl-C. It needs Python 3.11 or newer and, the first time, a network.
The first time, the front page is built alone and served at once, and the rest of the
book takes its place when it is built.
"""

import argparse
import hashlib
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / ".ci"))

import environment
from environment import ROOT, say

SITE = ROOT / "_build" / "html"
STAMP = ROOT / "_build" / "built.json"
LOG = ROOT / "_build" / "build.log"
TIMES = ROOT / "_build" / "times.json"
FRONT = ROOT / "_build" / "front"
PORTS_TRIED = 20
SLOWEST = 15
PROGRESS = re.compile(r"([a-z ]+)\.\.\. \[ *(\d+)%\] (\S+)")
"""A line of Sphinx that tells how far it is."""


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves the site's files quietly, each with the type that a browser demands."""

    # A system's own table may call these something that a browser refuses to run.
    extensions_map = http.server.SimpleHTTPRequestHandler.extensions_map | {
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
    }

    def end_headers(self) -> None:
        """Have the browser ask again each time: the next build changes the files."""
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing: the console is for what the reader can act on."""


@dataclass
class Shown:
    """What is served now; it may change while the server runs."""

    folder: Path


class Server(http.server.ThreadingHTTPServer):
    """A server that never shares a port with another program."""

    allow_reuse_address = sys.platform != "win32"  # there it would mean sharing
    daemon_threads = True


def main() -> int:
    """Build the book and serve it on localhost."""
    arguments = parse()
    if arguments.lab:
        return lab(environment.prepare("test", fresh=arguments.fresh))
    python = environment.prepare("book", fresh=arguments.fresh)
    if arguments.build_only or SITE.exists():
        with environment.alone():
            build(python, live=arguments.live, everything=arguments.fresh)
        if not arguments.build_only:
            with listen(arguments.port) as server:
                serve(server)
    else:
        return begin(python, live=arguments.live, port=arguments.port)
    if arguments.times:
        print("\n".join(times()))
    return 0


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument(
        "--port",
        type=int,
        default=8000,
        help="where to serve (8000); a port in use gives way to the next free one",
    )
    parser.add_argument(
        "--build-only", action="store_true", help="build, and do not serve"
    )
    parser.add_argument(
        "--no-live",
        dest="live",
        action="store_false",
        help="leave out the Python that runs in the page; its pages say so",
    )
    parser.add_argument(
        "--lab",
        action="store_true",
        help="open the chapters as notebooks in JupyterLab, as Binder does; no build",
    )
    parser.add_argument(
        "--times",
        action="store_true",
        help="after the build, list what took longest",
    )
    parser.add_argument(
        "--fresh", action="store_true", help="make the environment and the book anew"
    )
    return parser.parse_args()


def build(python: Path, *, live: bool, everything: bool) -> None:
    """Bring the site up to date; a warning stops the build.

    Sphinx knows what a change touches. It tells a warning only once, however: after a
    build that failed, all is built again, so that no warning is missed.
    """
    wanted = {"tools": str(python), "live": live, "sources": fingerprint()}
    built = json.loads(STAMP.read_text("utf-8")) if STAMP.exists() else {}
    if built == wanted and not everything:
        say("The book is up to date.")
        return
    if everything or built.get("tools") != wanted["tools"]:
        shutil.rmtree(ROOT / "_build", ignore_errors=True)
    say(f"Building {'what changed' if SITE.exists() else 'the book: about 5 min'}.")
    start = time.monotonic()
    STAMP.unlink(missing_ok=True)
    LOG.parent.mkdir(exist_ok=True)
    setting = {"TLBKIT_SITE_LIVE": "on" if live else "off"}
    if run(python, [".", "-W", "--keep-going", "-n"], setting):
        raise SystemExit(complaint(LOG.read_text("utf-8", errors="replace")))
    STAMP.write_text(json.dumps(wanted), "utf-8")
    say(f"Built in {time.monotonic() - start:.0f} s.")


def run(python: Path, arguments: list[str], setting: dict[str, str]) -> int:
    """Run Jupyter Book, keep what it says in the log, and tell how far it is."""
    told = ""
    with (
        LOG.open("w", encoding="utf-8") as log,
        subprocess.Popen(
            [python.parent / "jupyter-book", "build", *arguments],
            cwd=ROOT,
            env=environment.variables(python) | setting,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        ) as build,
    ):
        assert build.stdout is not None  # it is a pipe
        for line in build.stdout:
            log.write(line)
            found = PROGRESS.search(re.sub(r"\x1b\[[\d;]*m", "", line))
            if found and sys.stderr.isatty():
                told = f"{found[1].strip()}: {found[2]} % {found[3]}"[:79]
                print(f"\r{told:79}", end="", file=sys.stderr, flush=True)
    if told:
        print(f"\r{'':79}\r", end="", file=sys.stderr, flush=True)
    return build.returncode


def lab(python: Path) -> int:
    """Open JupyterLab, set up by Binder's own script, and wait until it ends."""
    home = environment.CACHE / "jupyter"
    places = {f"JUPYTER_{name}_DIR": str(home / name) for name in ("CONFIG", "DATA")}
    variables = environment.variables(python) | places
    setting = ["set-default-viewer", "markdown", "myst"]  # as postBuild has it
    tools = python.parent
    subprocess.run([tools / "jupytext-config", *setting], env=variables, check=True)
    say("Opening JupyterLab (Ctrl-C ends); its chapters are in book.")
    command = [
        str(tools / "jupyter-lab"),
        "--LabApp.default_url=/lab/tree/book/intro.md",
    ]
    return subprocess.run(command, cwd=ROOT, env=variables, check=False).returncode


def begin(python: Path, *, live: bool, port: int) -> int:
    """Serve the front page as soon as it is built, and the book when that is."""
    failed: list[str] = []
    with environment.alone():
        front(python, live=live)
    shown = Shown(FRONT / "_build" / "html")
    with listen(port, shown) as server:

        def rest() -> None:
            try:
                with environment.alone():
                    build(python, live=live, everything=False)
            except SystemExit as error:
                failed.append(str(error))
                server.shutdown()
            else:
                shown.folder = SITE
                say("All of it is there: load the page again.")

        threading.Thread(target=rest, daemon=True).start()
        serve(server, "its first page now, the rest when it is built")
    if failed:
        raise SystemExit(failed[0])
    return 0


def front(python: Path, *, live: bool) -> None:
    """Build the front page alone. What it says of others leads nowhere yet."""
    say("Building the front page.")
    contents = (ROOT / "_toc.yml").read_text("utf-8")
    FRONT.mkdir(parents=True, exist_ok=True)
    toc = FRONT / "_toc.yml"
    toc.write_text(
        "".join(re.findall(r"^(?:format|root):.*\n", contents, re.MULTILINE))
    )
    setting = {"TLBKIT_SITE_LIVE": "on" if live else "off", "TLBKIT_SITE_FRONT": "on"}
    arguments = [".", "--toc", str(toc), "--path-output", str(FRONT)]
    if run(python, arguments, setting):
        raise SystemExit(complaint(LOG.read_text("utf-8", errors="replace")))


def times() -> Iterator[str]:
    """Yield what took longest in the last build, in lines."""
    if not TIMES.exists():
        yield "No times are known: nothing was built yet."
        return
    told = json.loads(TIMES.read_text("utf-8"))
    yield f"{'seconds':>8}  what"
    for name, seconds in told["phases"].items():
        yield f"{seconds:8.1f}  {name}"
    slowest = sorted(told["pages"].items(), key=lambda page: -page[1])
    for page, seconds in slowest[:SLOWEST]:
        yield f"{seconds:8.1f}  reading and running {page}"


def is_current() -> bool:
    """Tell whether the site stands there, live, built from the sources as they are."""
    if not STAMP.exists():
        return False
    built = json.loads(STAMP.read_text("utf-8"))
    return bool(built["live"]) and built["sources"] == fingerprint()


def fingerprint() -> str:
    """Return a digest of all that the book may be made of."""
    digest = hashlib.sha256()
    for path in sources():
        name = path.relative_to(ROOT).as_posix()
        digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def sources() -> Iterator[Path]:
    """Yield the files that the book may be made of, in a fixed order."""
    skipped = {"__pycache__", "_build", "build", "dist", "jupyter_execute"}
    for folder, folders, files in os.walk(ROOT):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".")
            and not name.endswith(".egg-info")
            and name not in skipped
        )
        yield from (Path(folder, name) for name in sorted(files))


def complaint(text: str) -> str:
    """Return what matters of the failed build's output *text*."""
    text = re.sub(r"\x1b\[[\d;]*m", "", text)  # Sphinx colours even what goes to a file
    lines = text.splitlines()
    marked = [line for line in lines if re.search(r"WARNING|ERROR|Error:", line)]
    shown = "\n".join(dict.fromkeys(marked[:40])) or "\n".join(lines[-20:])
    hint = (
        " Without the page's own Python: python3 book/serve.py --no-live"
        if "Pyodide" in text
        else ""
    )
    return (
        f"{shown}\n\nThe book was not built; all that the build said is in "
        f"{LOG.relative_to(ROOT)}.{hint}"
    )


def serve(server: Server, what: str = "the book") -> None:
    """Serve until the user stops it."""
    say(f"Serving {what} at http://localhost:{server.server_port}/ (Ctrl-C ends)")
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        say("")


def listen(port: int, shown: Shown | None = None) -> Server:
    """Return a server on *port*, or on the next one that is free."""
    place = shown or Shown(SITE)

    def handler(*request: Any) -> Handler:
        return Handler(*request, directory=str(place.folder))

    for candidate in range(port, port + PORTS_TRIED):
        try:
            server = Server(("127.0.0.1", candidate), handler)
        except (OSError, OverflowError):
            continue
        if candidate != port:
            say(f"Port {port} is in use; taking {server.server_port}.")
        return server
    raise SystemExit(
        f"No port from {port} to {port + PORTS_TRIED - 1} can be opened; name another "
        f"with --port, or let the system choose one with --port 0."
    )


if __name__ == "__main__":
    environment.launch(main)
