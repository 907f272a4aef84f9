"""Run all tests: of the package, the book, the site in a browser, the repository.

    python3 tests/run.py

It makes its own environment and hands every argument that is not its own to pytest:
python3 tests/run.py tlbkit/arm64 -k walk. It needs Python 3.11 or newer and, the first
time, a network. Several processes share the tests; with -n0 one runs them all.
"""

import argparse
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / ".ci"))

import environment
from environment import ROOT, say

# The tests that open the site find the browser under this name.
BROWSER = "TLBKIT_CHROMIUM"
IN_A_BROWSER = "tests/site"
# More processes than that would only wait for the longest group; see conftest.py.
SHARED = ("-n", "auto", "--maxprocesses", "4", "--no-loadscope-reorder")


def main() -> int:
    """Run all tests."""
    arguments, handed_on = parse()
    python = environment.prepare("test", fresh=arguments.fresh)
    command = [str(python), "-m", "pytest", *SHARED, *handed_on]
    variables = environment.variables(python)
    if arguments.browser:
        variables[BROWSER] = browser(python)
    else:
        command.append(f"--ignore={IN_A_BROWSER}")
        say(f"Leaving out {IN_A_BROWSER}, which opens the site in a browser.")
    say("Running the tests: about 20 min for all of them, on two cores.")
    return subprocess.run(command, cwd=ROOT, env=variables, check=False).returncode


def parse() -> tuple[argparse.Namespace, list[str]]:
    """Read the command line: what is ours, and what goes on to pytest."""
    parser = argparse.ArgumentParser(
        description=main.__doc__,
        epilog="All other arguments go to pytest, for example: tlbkit/arm64 -k walk -x",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--no-browser",
        dest="browser",
        action="store_false",
        help=f"leave out {IN_A_BROWSER}, which needs Chromium",
    )
    parser.add_argument(
        "--fresh", action="store_true", help="make the environment anew"
    )
    return parser.parse_known_args()


def browser(python: Path) -> str:
    """Return the path of a Chromium: the one named, an installed one, or a new one."""
    return environment.browser() or downloaded(python)


def downloaded(python: Path) -> str:
    """Return the path of Playwright's own Chromium, fetching it if it is not there."""
    ask = (
        "from playwright.sync_api import sync_playwright as p\n"
        "with p() as it: print(it.chromium.executable_path)"
    )
    tools = environment.variables(python)
    answer = subprocess.run(
        [str(python), "-c", ask], env=tools, capture_output=True, text=True, check=True
    )
    path = answer.stdout.strip()
    if not Path(path).exists():
        say("Fetching Chromium for the tests of the site: about 170 MB, once.")
        fetch = [str(python), "-m", "playwright", "install", "chromium"]
        if subprocess.run(fetch, env=tools, check=False).returncode:
            raise SystemExit(
                "Chromium could not be fetched. Install it (Debian: sudo apt install "
                f"chromium), or name one in {BROWSER}, or leave its tests out: "
                "python3 tests/run.py --no-browser"
            )
    return path


if __name__ == "__main__":
    environment.launch(main)
