"""What the repository says about itself holds, and says it in one place."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import address
import pytest
import serve
import yaml

import tlbkit

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text("utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
PROJECT_TEXT = (ROOT / "pyproject.toml").read_text("utf-8")
PROJECT = tomllib.loads(PROJECT_TEXT)
WORKFLOWS = {
    path.name: yaml.safe_load(path.read_text("utf-8"))
    for path in sorted((ROOT / ".github" / "workflows").glob("*.yml"))
}
JOBS = {
    f"{name}: {job}": content
    for name, workflow in WORKFLOWS.items()
    for job, content in workflow["jobs"].items()
}
# Text that people wrote, wherever it stands.
WRITTEN = [
    path
    for path in [
        *serve.sources(),
        *(ROOT / ".ci").iterdir(),
        *(ROOT / ".github").rglob("*.yml"),
    ]
    if path.suffix
    in {"", ".cff", ".css", ".js", ".json", ".md", ".py", ".toml", ".txt", ".yml"}
    and path.is_file()
    and path.name != ".git"  # a linked work tree holds a file of this name
]


def pythons() -> list[str]:
    """Return the Python versions that the package promises."""
    prefix = "Programming Language :: Python :: "
    return [
        line.removeprefix(prefix)
        for line in PROJECT["project"]["classifiers"]
        if line.startswith(prefix)
    ]


def test_promised_pythons_agree():
    """Package, tools, workflow and README promise the same Pythons."""
    first, *_, last = pythons()
    assert PROJECT["project"]["requires-python"] == f">={first}"
    assert PROJECT["tool"]["mypy"]["python_version"] == first
    assert PROJECT["tool"]["ruff"]["target-version"] == f"py{first.replace('.', '')}"
    matrix = WORKFLOWS["checks.yml"]["jobs"]["everything"]["strategy"]["matrix"]
    assert matrix["python"] == pythons()
    assert f"Python {first} or newer ({first} to {last} are tested)" in README
    assert f"Python {first} to {last}" in (ROOT / "requirements.txt").read_text()
    checked = f"sys.version_info < ({first.replace('.', ', ')})"
    assert checked in (ROOT / ".ci" / "environment.py").read_text("utf-8")


def test_workflows_set_up_a_promised_python():
    """No job runs on a Python that the package does not promise."""
    for name, job in JOBS.items():
        for step in job.get("steps", []):
            version = step.get("with", {}).get("python-version", "${{ matrix.python }}")
            assert version in (*pythons(), "${{ matrix.python }}"), name


def test_actions_are_pinned():
    """An action is named by its full version, so that a run repeats."""
    for name, job in JOBS.items():
        for step in [job, *job.get("steps", [])]:
            used = step.get("uses", "./")
            pinned = used.startswith("./") or re.search(r"@v\d+\.\d+\.\d+$", used)
            assert pinned, f"{name}: {used}"


@pytest.mark.parametrize("name", WORKFLOWS)
def test_workflows_may_do_little(name):
    """By default a workflow reads; it yields to a newer run; its jobs end."""
    workflow = WORKFLOWS[name]
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["concurrency"]["group"]
    for job in workflow["jobs"].values():
        assert "uses" in job or job["timeout-minutes"] <= 30
        writes = "write" in job.get("permissions", {}).values()
        assert not writes or name == "publish.yml"


def commands(text: str) -> set[str]:
    """Return the scripts that a page tells its reader to start."""
    return set(re.findall(r"python3 ((?:\.ci|book|tests)/\S+\.py)", text))


@pytest.mark.parametrize("script", sorted(commands(README) | commands(CONTRIBUTING)))
def test_named_commands_exist(script):
    """Each command that a page names is there and explains itself."""
    if script == ".ci/address.py":  # it takes no argument and writes the README
        assert (ROOT / script).exists()
        return
    help_ = [sys.executable, str(ROOT / script), "--help"]
    done = subprocess.run(help_, check=True, capture_output=True, text=True)
    assert "usage" in done.stdout


def test_the_readme_has_the_two_commands():
    """One command serves the book, one runs the tests; both stand in one block."""
    (block,) = re.findall(r"```sh\n(python3 book/.*?)```", README, re.DOTALL)
    started = [line.partition("#")[0].strip() for line in block.splitlines()]
    assert started == ["python3 book/serve.py", "python3 tests/run.py"]


@pytest.mark.parametrize("text", [README, CONTRIBUTING], ids=["README", "CONTRIBUTING"])
def test_links_lead_somewhere(text):
    """Each link and picture inside the repository is there."""
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)|src=\"([^\"]+)\"", text)
    inside = [a or b for a, b in targets if "://" not in (a or b)]
    assert [target for target in inside if not (ROOT / target).exists()] == []


def test_folders_of_the_map():
    """The README's map names every room of the package."""
    rooms = {path.parent.name for path in (ROOT / "tlbkit").glob("*/__init__.py")}
    named = set(re.findall(r"^\| \[`tlbkit/(\w+)/`\]", README, re.MULTILINE))
    assert named == rooms - {"tests"}


def test_the_version_is_one():
    """Whoever cites the package, or asks it, is told the version that it is."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == PROJECT["project"]["version"] == tlbkit.__version__


def test_the_address_is_one():
    """The public address stands in pyproject.toml; the README's follows from it."""
    assert address.renewed(README, PROJECT_TEXT) == README
    known = PROJECT["project"].get("urls", {}).get("Repository")
    others = [p for p in WRITTEN if p.name not in {"pyproject.toml", "README.md"}]
    assert not known or not [p for p in others if known in p.read_text("utf-8")]


def test_addresses_follow():
    """Site, Binder and badges are made from the repository's address alone."""
    made = address.links(
        '[project]\n[project.urls]\nRepository = "https://github.com/Ann/tlb"'
    )
    assert "<https://ann.github.io/tlb/>" in made
    assert "https://mybinder.org/v2/gh/Ann/tlb/main?" in made
    assert "https://github.com/Ann/tlb/actions/workflows/checks.yml" in made
    with pytest.raises(SystemExit, match="OWNER/NAME"):
        address.links('[project]\n[project.urls]\nRepository = "https://x.org"')


def test_pins_agree():
    """What requirements.txt and the extras pin, the constraints pin the same way."""

    def pins(lines: list[str]) -> dict[str, str]:
        found = re.findall(r"^([\w.-]+)==(\S+)$", "\n".join(lines), re.MULTILINE)
        return {name.lower().replace("_", "-"): version for name, version in found}

    extras = PROJECT["project"]["optional-dependencies"]
    wanted = pins((ROOT / "requirements.txt").read_text().splitlines())
    wanted |= pins(extras["test"])
    everything = pins((ROOT / ".ci" / "constraints.txt").read_text().splitlines())
    assert wanted.items() <= everything.items()
    assert pins(extras["bench"])["unicorn"] == wanted["unicorn"]


def test_no_machine_is_named():
    """No file holds a path of the machine that it was written on."""
    path = re.compile(r"(?<![\w./:-])/(?:root|home|Users|work|opt)/\w+")
    found = {
        str(file.relative_to(ROOT)): path.findall(file.read_text("utf-8"))
        for file in WRITTEN
    }
    assert not {name: paths for name, paths in found.items() if paths}


def test_the_checks_can_be_started():
    """The script of all checks is executable and is well-formed bash."""
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    subprocess.run(["bash", "-n", str(script)], check=True)
