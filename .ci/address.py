"""Write the addresses that follow from the repository's own into README.md.

The repository's address stands in pyproject.toml, under [project.urls], and nowhere
else. After a change there:

    python3 .ci/address.py
"""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
BEGIN = "<!-- made by .ci/address.py from pyproject.toml -->\n"
END = "<!-- end of what is made -->\n"

UNKNOWN = (
    "The addresses of the site and of Binder stand here once `pyproject.toml` names "
    "the\nrepository's own.\n"
)


def links(pyproject: str) -> str:
    """Return the README's lines about the addresses that *pyproject* leads to."""
    urls = tomllib.loads(pyproject)["project"].get("urls", {})
    if "Repository" not in urls:
        return UNKNOWN
    parts = re.fullmatch(r"https://github\.com/([^/]+)/([^/]+)", urls["Repository"])
    if parts is None:
        raise SystemExit(
            "pyproject.toml, [project.urls]: Repository should be "
            f"https://github.com/OWNER/NAME, not {urls['Repository']}"
        )
    repository, owner, name = parts.group(0, 1, 2)
    site = f"https://{owner.lower()}.github.io/{name}/"
    binder = f"https://mybinder.org/v2/gh/{owner}/{name}/main?urlpath=lab/tree/book"
    checks = f"{repository}/actions/workflows/checks.yml"
    return (
        f"The site: <{site}>\n\n"
        f"[![Binder](https://mybinder.org/badge_logo.svg)]({binder})\n"
        f"[![Checks]({checks}/badge.svg)]({checks})\n"
    )


def renewed(readme: str, pyproject: str) -> str:
    """Return the text of the README with the addresses of today."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{links(pyproject)}{END}{after}"


if __name__ == "__main__":
    made = renewed(
        README.read_text("utf-8"), (ROOT / "pyproject.toml").read_text("utf-8")
    )
    README.write_text(made, "utf-8")
