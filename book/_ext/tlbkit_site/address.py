"""Where the project lives in public: the one place is ``pyproject.toml``.

Everything that names the repository (its button, the launch button, the edit links)
follows from ``[project.urls] Repository``. A build that runs in a hosted workflow uses
the repository it runs for, so that a fork's site leads to the fork.
"""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

BINDER = "https://mybinder.org"
BRANCH = "main"


def repository(
    project: Path, environment: Mapping[str, str] = os.environ
) -> str | None:
    """Return the repository's public address, or None where it is not known."""
    server = environment.get("GITHUB_SERVER_URL")
    name = environment.get("GITHUB_REPOSITORY")
    if server and name:
        return f"{server}/{name}"
    urls = tomllib.loads(project.read_text("utf-8"))["project"].get("urls", {})
    address = urls.get("Repository")
    return str(address).rstrip("/") if address else None


def theme_options(address: str | None) -> dict[str, Any]:
    """Return the theme options that follow from the address."""
    if address is None:
        return {
            "use_repository_button": False,
            "use_edit_page_button": False,
            "use_issues_button": False,
            "launch_buttons": {},
        }
    return {
        "repository_url": address,
        "repository_branch": BRANCH,
        "path_to_docs": "",
        "use_repository_button": True,
        "use_edit_page_button": True,
        "use_issues_button": True,
        "launch_buttons": {
            "notebook_interface": "jupyterlab",
            "binderhub_url": BINDER,
        },
    }
