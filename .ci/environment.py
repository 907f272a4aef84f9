"""Make the environment that the book and the tests run in, once, and find it again.

It needs Python and nothing else. `book/serve.py` and `tests/run.py` call it; by hand,
`python3 .ci/environment.py` makes it too and prints its interpreter's path.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - the sentence is for older Pythons
    raise SystemExit(
        f"This needs Python 3.11 or newer, and {sys.executable} is older. Install a "
        f"newer one and start this with it, for example: python3.13 {sys.argv[0]}"
    )

import argparse
import contextlib
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

if sys.platform != "win32":
    import fcntl

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache"
LOG = CACHE / "pip.log"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

UNREACHABLE = (
    "name resolution|getaddrinfo|NewConnectionError|ConnectTimeout|ReadTimeout"
    "|Network is unreachable|ProxyError|SSLError|Max retries exceeded"
)
# What pip prints, and what then helps. The first match speaks.
REMEDIES = {
    "No space left": (
        "The disk is full; the environment needs about 1 GB. Free some and run the "
        "same command again."
    ),
    UNREACHABLE: (
        "The package index could not be reached. Connect to the network (behind a "
        "proxy, set HTTPS_PROXY) and run the same command again."
    ),
    "No matching distribution|from versions: none": (
        "A package has no ready-made file for this Python and system. The promise is "
        "CPython 3.11 to 3.14 on 64-bit Linux, macOS or Windows; start the command "
        "with one of them."
    ),
}


@dataclass(frozen=True)
class Layer:
    """What one of the commands needs installed."""

    contents: str
    minutes: str
    requirements: tuple[str, ...]


LAYERS = {
    "book": Layer("the book's tools", "1", ("-r", "requirements.txt")),
    "test": Layer(
        "the tools of the book and the tests",
        "1 to 2",
        ("-r", "requirements.txt", "-e", ".[test]"),
    ),
}


def say(line: str) -> None:
    """Tell the user what happens; standard output is kept for answers."""
    print(line, file=sys.stderr, flush=True)


def prepare(name: str, *, fresh: bool = False) -> Path:
    """Return the interpreter of an environment that holds the layer *name*.

    It is made at the first call, which needs the network, and found again until the
    requirements change, so that a repeated call costs milliseconds.
    """
    folder = home()
    with alone():
        if fresh:
            shutil.rmtree(folder, ignore_errors=True)
        if not (folder / f"{name}.ready").exists():
            _install(folder, name)
    return _interpreter(folder)


def home() -> Path:
    """Return the folder that belongs to this Python, this place and these pins."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    parts = (
        str(ROOT),  # an environment cannot be moved
        sys.base_prefix,
        sys.version,
        (ROOT / "requirements.txt").read_text("utf-8"),
        (ROOT / ".ci" / "constraints.txt").read_text("utf-8"),
        json.dumps([project["build-system"], project["project"]]),
    )
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]
    return CACHE / f"python{sys.version_info[0]}.{sys.version_info[1]}-{key}"


def variables(python: Path) -> dict[str, str]:
    """Return the environment variables under which *python*'s tools run."""
    foreign = ("PYTHONHOME", "PYTHONPATH")  # they would mix in another's packages
    inherited = {k: v for k, v in os.environ.items() if k not in foreign}
    path = os.pathsep.join((str(python.parent), os.environ.get("PATH", "")))
    return inherited | {"PATH": path, "VIRTUAL_ENV": str(python.parent.parent)}


def browser() -> str | None:
    """Return the path of the Chromium that is named, or else of an installed one."""
    named = os.environ.get("TLBKIT_CHROMIUM")
    return named or next(filter(None, map(shutil.which, BROWSERS)), None)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Let one command at a time set up or build, where the system can lock a file."""
    CACHE.mkdir(exist_ok=True)
    with (CACHE / "lock").open("w") as file:
        if sys.platform != "win32":
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say("Waiting for another command that sets up or builds here.")
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def launch(main: Callable[[], int]) -> None:
    """Run a script's *main* and end the process with its answer."""
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        say("\nStopped. The same command goes on from here.")
        sys.exit(130)


def _interpreter(folder: Path) -> Path:
    if sys.platform == "win32":
        return folder / "Scripts" / "python.exe"
    return folder / "bin" / "python"


def _install(folder: Path, name: str) -> None:
    layer = LAYERS[name]
    say(
        f"Installing {layer.contents} in {folder.relative_to(ROOT)}: about "
        f"{layer.minutes} min and 1 GB, once."
    )
    start = time.monotonic()
    if not any(folder.glob("*.ready")):
        shutil.rmtree(folder, ignore_errors=True)  # the rest of a stopped attempt
        _make(folder)
    _pip(folder, layer.requirements)
    (folder / f"{name}.ready").touch()
    for old in CACHE.glob(folder.name.partition("-")[0] + "-*"):
        if old != folder:
            shutil.rmtree(old, ignore_errors=True)
    say(f"Installed in {time.monotonic() - start:.0f} s.")


def _make(folder: Path) -> None:
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if not all(map(importlib.util.find_spec, ("venv", "ensurepip"))):
        raise SystemExit(
            f"{sys.executable} cannot make environments: its module venv or ensurepip "
            f"is missing. On Debian and Ubuntu: sudo apt install python{version}-venv"
        )
    made = subprocess.run(
        [sys.executable, "-m", "venv", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        raise SystemExit(
            f"Python's venv could not make {folder}:\n{made.stdout}{made.stderr}"
        )


def _pip(folder: Path, requirements: tuple[str, ...]) -> None:
    command = (str(_interpreter(folder)), "-m", "pip", "install", "--no-input")
    # Wheels only: a missing one is better said than compiled for ten minutes.
    options = ("--only-binary=:all:", "--disable-pip-version-check")
    with LOG.open("w", encoding="utf-8") as log:
        done = subprocess.run(
            [*command, *options, *requirements],
            cwd=ROOT,
            env=variables(_interpreter(folder)),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode:
        text = LOG.read_text("utf-8", errors="replace")
        raise SystemExit("\n".join((*text.splitlines()[-8:], "", remedy(text))))


def remedy(text: str) -> str:
    """Return the sentence that helps against the failure that pip's *text* tells."""
    for signs, sentence in REMEDIES.items():
        if re.search(signs, text):
            return sentence
    return f"pip failed; all that it said is in {LOG.relative_to(ROOT)}."


def main() -> int:
    """Make the environment and print the path of its interpreter."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("layer", nargs="?", choices=sorted(LAYERS), default="test")
    parser.add_argument("--fresh", action="store_true", help="make it anew")
    arguments = parser.parse_args()
    print(prepare(arguments.layer, fresh=arguments.fresh))
    return 0


if __name__ == "__main__":
    launch(main)
