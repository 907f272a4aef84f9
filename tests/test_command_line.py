"""The command line: what it prints, and how it refuses."""

import ast
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tlbkit import __version__, lab
from tlbkit.__main__ import main
from tlbkit.arm64.models import MODELS, PROPERTIES
from tlbkit.lab.gallery import judge, verdicts
from tlbkit.lab.gallery.programme import PROGRAMME
from tlbkit.lab.sequence import EXAMPLES
from tlbkit.observe.lines import parse
from tlbkit.patches import registry

ROOT = Path(__file__).resolve().parents[1]


def answer(capsys, *arguments):
    """Run the command line and return what it printed, as JSON."""
    assert main([*arguments, "--json"]) == 0
    out, error = capsys.readouterr()
    assert not error
    return json.loads(out)


def lines(capsys, *arguments):
    """Run the command line and return the lines that it printed."""
    assert main(arguments) == 0
    out, error = capsys.readouterr()
    assert not error
    return out.splitlines()


# -- run -------------------------------------------------------------------------------


def test_a_run_prints_what_the_package_says(capsys):
    """The JSON is that of the same run in Python."""
    printed = answer(
        capsys,
        *("run", "mprotect", "--set", "pages=64", "--kernel", "v6.17"),
        *("--cpu", "neoverse-n1", "--cpus", "4"),
    )
    params = {"pages": 64, "cpus": 4}
    variant = lab.Variant("v6.17")
    same = lab.run(lab.find("mprotect"), params, variant, "neoverse-n1")
    assert printed == same.to_json()
    assert printed["counts"]["tlbi"] == {"VALE1IS": 64}
    assert printed["counts"]["dsb"] == {"ishst": 1, "ish": 1, "nshst": 0, "nsh": 0}


@pytest.mark.parametrize(
    ("options", "flushes"),
    [
        (["--kernel", "v6.17"], 1),
        (["--kernel", "v6.19"], 0),
        ([], 0),
        (["--without", "c320dbb7c80d"], 1),
        (["--kernel", "pr350"], 0),
        (["--kernel", "pr350", "--without", "c320dbb7c80d"], 1),
        (["--set", "change=rw-ro"], 1),
    ],
)
def test_64_pages_on_each_kernel(capsys, options, flushes):
    """64 pages none->rw flush once without the commit, and never with it."""
    printed = answer(capsys, "run", "mprotect", "--set", "pages=64", *options)
    assert printed["counts"]["dsb"]["ish"] == flushes
    assert sum(printed["counts"]["tlbi"].values()) == flushes


def test_a_commit_may_be_left_out_more_than_once(capsys):
    """`--without` repeats."""
    options = ["--without", "c320dbb7c80d", "--without", "cb1fa2e99955"]
    printed = answer(capsys, "run", "mprotect", *options)
    assert "without c320dbb7c80d, cb1fa2e99955" in printed["text"]


def test_a_commit_may_be_put_in(capsys):
    """`--with` adds a commit to a kernel, and what comes with it is told."""
    printed = answer(capsys, "run", "mprotect", "--kernel", "v6.17", "--with", "c320d")
    assert printed["counts"]["completing_dsb"] == 0
    assert "v6.17 with c320dbb7c80d" in printed["text"]
    printed = answer(capsys, "run", "mprotect", "--kernel", "v6.17", "--with", "cb1fa")
    assert "79301c7d605a is there as well" in printed["text"]


def test_a_machine_of_ones_own(capsys):
    """Properties follow the name of a CPU model, and do what they say."""
    options = ["--kernel", "v6.17", "--set", "pages=1"]
    once, twice = (
        answer(capsys, "run", "mprotect", *options, "--cpu", f"cortex-a76{more}")
        for more in ("", ",repeat_tlbi")
    )
    assert once["counts"]["tlbi"] == {"VALE1IS": 1}
    assert twice["counts"]["tlbi"] == {"VALE1IS": 2}
    assert twice["cpu"] == "cortex-a76,repeat_tlbi"


def test_a_kernel_with_settings(capsys):
    """`--tune` makes them before the scenario begins, and the result has them."""
    options = ["run", "unmap", "--set", "pages=512", "--tune", "thp=always"]
    printed = answer(capsys, *options)
    assert printed["tuning"] == {"thp": "always"}
    plain = answer(capsys, *options[:-2])
    assert printed["counts"]["tlbi"] != plain["counts"]["tlbi"]


@pytest.mark.parametrize("name", ["events.txt", "events.jsonl"])
def test_a_run_can_be_traced(capsys, tmp_path, name):
    """Each event of the operation is a line, in a new file, as text or as JSON."""
    path = tmp_path / name
    asked = ["run", "mprotect", "--kernel", "v6.17", "--set", "pages=3"]
    printed = answer(capsys, *asked, "--trace", str(path))
    read = parse if path.suffix == ".txt" else json.loads
    events = [read(line) for line in path.read_text().splitlines()]
    issued = Counter(one["op"] for one in events if one["kind"] == "tlbi")
    assert issued == printed["counts"]["tlbi"]
    assert main([*asked, "--trace", str(path)]) == 2
    assert "is there already" in capsys.readouterr().err


def test_cpus_tell_every_property_with_its_source(capsys):
    """All models and properties; of one model, each value and how sure it is."""
    text = "\n".join(lines(capsys, "cpus"))
    for name in (*MODELS, *PROPERTIES):
        assert name in text
    printed = answer(capsys, "cpus")
    assert [one["name"] for one in printed] == list(MODELS)
    for one in printed:
        for told in one["properties"].values():
            assert told.keys() == {"value", "kind", "source"}
            assert told["kind"] in {"measured", "quoted", "assumed"}
    one = answer(capsys, "cpus", "apple-16k,kpti")
    assert one["properties"]["kpti"]["kind"] == "chosen"
    text = "\n".join(lines(capsys, "cpus", "apple-16k,kpti"))
    assert "kpti: chosen: as asked for" in text


def test_a_run_is_a_table_for_people(capsys):
    """Without --json the same numbers stand in tables, and each cost says its kind."""
    text = lines(capsys, "run", "mprotect", "--kernel", "v6.17", "--cpu", "neoverse-n1")
    assert any(line.split() == ["TLBI", "VALE1IS", "64"] for line in text)
    assert any(line.split()[-1] == "calibrated" for line in text if line)
    assert text[-1].startswith("modelled time: ")


# -- list, patches, at -----------------------------------------------------------------


def test_list_names_what_there_is_to_run(capsys):
    """Scenarios, their parameters, explorers, the kernels and the CPU models."""
    text = "\n".join(lines(capsys, "list"))
    for one in lab.EXPLORATIONS.values():
        assert one.title in text
    for scenario in lab.SCENARIOS.values():
        assert scenario.title in text
        for parameter in scenario.parameters:
            assert f"--set {parameter.name}={parameter.default}" in text
    for name in (*registry.KERNELS, "neoverse-v2", "neoverse-n1"):
        assert name in text


def test_patches_are_the_registry(capsys):
    """Every commit of the registry, with its state and its chapter."""
    printed = answer(capsys, "patches")
    assert [one["hash"] for one in printed] == [p.hash for p in registry.PATCHES]
    for one in printed:
        assert one["state"] in {"complete", "registered"}
        assert {"hash", "subject", "series", "kind", "state", "chapter"} <= one.keys()
    assert len(lines(capsys, "patches")) == 2 + len(registry.PATCHES)


def test_a_trace_is_replayed_and_each_commit_told(capsys):
    """The JSON holds the counts of each kernel, and what each commit changes."""
    data = ROOT / "tlbkit/lab/trace/tests/data"
    files = [
        str(data / f"6.17.13.jit.B.{kind}.xz") for kind in ("strace", "perf-script.txt")
    ]
    printed = answer(capsys, "trace", *files, "--commits")
    kernels = printed["kernels"]
    assert (
        kernels["v6.17"]["tlbi_broadcast"] - kernels["v6.19"]["tlbi_broadcast"] == 111
    )
    felt = [one["commit"] for one in printed["commits"] if one["broadcasts_saved"]]
    assert felt == ["c320dbb7c80d"]
    assert printed["lines_used"] == 1
    text = lines(capsys, "trace", *files)
    assert any(line.split() == ["TLBI", "VALE1IS", "526", "447"] for line in text)


def test_where_leads_from_a_kernel_function_to_what_there_is_of_it(capsys):
    """The file and line, the tests, the chapter, and the C by version."""
    printed = answer(capsys, "where", "pte_needs_flush")
    today, before = printed
    assert today["path"] == "tlbkit/linux/arch/arm64/include/asm/tlbflush.py"
    assert before["before"] == "c320dbb7c80d"
    assert "book/commits/mprotect.md" in today["chapters"]
    text = lines(capsys, "where", "pte_needs_flush")
    assert any(f"{today['path']}:{today['line']}" in line for line in text)


@pytest.fixture
def image(tmp_path):
    """A table image with nothing in it, and one probe."""
    path = tmp_path / "image.json"
    parts = {
        "regs": {
            "TCR": "0x5b5103510",
            "MAIR": "0xff",
            "TTBR0": "0x40000000",
            "TTBR1": "0x40000000",
        },
        "memory": [],
        "probes": [{"va": "0x1000", "at": "S1E0R"}],
    }
    path.write_text(json.dumps(parts))
    return str(path)


def test_an_image_is_answered(capsys, image):
    """One answer for each probe, or for each address that is named."""
    missing = {"missing": "0x40000000", "level": 0}
    assert answer(capsys, "at", image) == [missing]
    said = "not in the image: table word 0x40000000 of level 0"
    assert said in lines(capsys, "at", image)[-1]
    assert answer(capsys, "at", image, "0x1000", "0x2000") == [missing, missing]


def test_files_of_memory_are_walked(capsys, tmp_path):
    """A core or raw bytes, with registers from the command line."""
    raw = tmp_path / "raw"
    raw.write_bytes(bytes(4096))
    asked = ["at", "--memory", f"{raw}@0x40000000", "--reg", "TCR=0x5b5103510"]
    asked += ["--reg", "MAIR=0xff", "--reg", "ttbr0=0x40000000", "0x1000"]
    assert answer(capsys, *asked) == [{"fault": "translation", "level": 0}]


def test_dumps_of_page_tables_are_answered(capsys, tmp_path):
    """What debugfs and crash write is told from an image by its text."""
    path = tmp_path / "dump"
    path.write_text(
        "0xffff000000000000-0xffff000000200000  2M PMD RW NX SHD AF BLK UXN MEM/NORMAL"
    )
    (said,) = answer(capsys, "at", str(path), "0xffff000000000000")
    assert said["el1"] == "rw-"
    path.write_text("VIRTUAL PHYSICAL\n1000 (not mapped)\nPGD: ffff800080001000 => 0\n")
    (said,) = answer(capsys, "at", str(path))
    assert (said["fault"], said["level"]) == ("translation", 0)


MESSAGE_PASSING = """
test mp
  P0: x := 1; flag := 1
  P1: r := flag; v := x
  exists P1.r = 1 and P1.v = 0
  expect allowed allowed

test mp+dmbs
  P0: x := 1; DMB; flag := 1
  P1: r := flag; DMB; v := x
  exists P1.r = 1 and P1.v = 0
"""


@pytest.mark.parametrize("options", [[], ["--ets2"]])
def test_litmus_tests_are_judged(capsys, tmp_path, options):
    """One verdict for each test, with an execution for what is allowed."""
    path = tmp_path / "mp.litmus"
    path.write_text(MESSAGE_PASSING)
    loose, ordered = answer(capsys, "litmus", str(path), *options)
    assert (loose["name"], loose["verdict"]) == ("mp", "allowed")
    assert (ordered["name"], ordered["verdict"]) == ("mp+dmbs", "forbidden")
    assert loose["witness"]
    assert ordered["witness"] is None
    assert loose["ets2"] == bool(options)
    text = lines(capsys, "litmus", str(path), *options)
    assert text[2].split()[:3] == ["mp", "allowed", "allowed"]
    assert text[3].split()[:3] == ["mp+dmbs", "forbidden", "-"]
    assert any(line.startswith("  P1: ") for line in text)


def test_the_version_is_told(capsys):
    """`--version` names the package and its version, and ends well."""
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"tlbkit {__version__}\n"


def test_a_range_is_told_with_its_pages(capsys):
    """A run says how many pages the ranges cover, and how many DSBs complete a TLBI."""
    text = lines(capsys, "run", "unmap", "--set", "pages=600")
    told = {tuple(line.rsplit(None, 1)) for line in text if line}
    assert ("pages of TLBI RVALE1IS", "600") in told
    assert ("of all DSBs completing", "2") in told


def test_a_flush_sequence_is_judged(capsys, tmp_path):
    """Harm ends with status 1 and its order; an example may be named as a file."""
    path = tmp_path / "mine.s"
    path.write_text(EXAMPLES["shift"].text.replace("#14", "#12"))
    (good,) = answer(capsys, "sequence", str(path))
    assert good["harm"] is None
    assert main(["sequence", "--json", "shift"]) == 1
    shown = capsys.readouterr()
    (bad,) = json.loads(shown.out)
    assert "writes frame a" in bad["harm"]
    assert shown.err == "tlbkit: shift: harm was found\n"
    text = "\n".join(lines(capsys, "sequence", "one-by-one"))
    assert "no harm found" in text
    assert "takes them as a range" in text


def test_a_patch_of_ones_own_is_tried(capsys, tmp_path):
    """A report for people and JSON for others; what breaks ends with status 1."""
    path = tmp_path / "never.py"
    path.write_text(
        "from tlbkit.linux.arch.arm64.include.asm.tlbflush import TlbFlush\n"
        "class Mine(TlbFlush):\n"
        "    __slots__ = ()\n"
        "    pte_needs_flush = staticmethod(lambda old, new: False)\n"
        "REPLACES = {'tlbflush': Mine}\n"
        "TITLE = 'never flush'\n"
    )
    asked = ["try", str(path), "--programs", "2", "--preemptions", "0"]
    assert main([*asked, "--json"]) == 1
    shown = capsys.readouterr()
    found = json.loads(shown.out)
    assert found["title"] == "never flush"
    assert "meeting protect" in {one["where"] for one in found["breaks"]}
    assert shown.err.startswith("tlbkit: never.py breaks ")
    path.write_text("REPLACES = 1")
    assert main(asked) == 2
    assert "a patch has REPLACES" in capsys.readouterr().err


# -- refusals --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("", "gallery, mutate, meetings or random"),
        ("walk", "list"),
        ("run", "NAME"),
        ("run mprotekt", "there are: mprotect"),
        ("run walk", "is an explorer"),
        ("run mprotect --set pages=0", "a whole number from 1 to 4096"),
        ("run mprotect --set pages=4097", "a whole number from 1 to 4096"),
        ("run mprotect --set pages=many", "a whole number from 1 to 4096"),
        ("run mprotect --set pages", "NAME=VALUE"),
        ("run mprotect --set page=1", "pages, change, cpus, threads"),
        ("run mprotect --set change=up", "none-rw, none-ro, rw-ro"),
        ("run mprotect --set pages=1 --set pages=2", "pages is given twice"),
        ("run mprotect --cpus 0", "a whole number from 1 to 128"),
        ("run mprotect --cpus 4 --set cpus=4", "cpus is given twice"),
        ("run mprotect --kernel v5.4", "v6.17, pr350, v6.18, v6.19, v7.0, fixed"),
        ("run mprotect --cpu pentium", "neoverse-v2, neoverse-v3"),
        ("run mprotect --without beef", "c320dbb7c80d"),
        ("run mprotect --with beef", "c320dbb7c80d"),
        ("run mprotect --kernel v6.18.3", "closest is v6.18"),
        ("run mprotect --cpu neoverse-v2,turbo", "there are page, pa_bits"),
        ("run mprotect --tune thp", "NAME=VALUE"),
        ("run mprotect --tune thp=x", "must be always, madvise or never"),
        ("cpus pentium", "known: neoverse-v2"),
        ("run mprotect --fast", "--fast"),
        ("run mprotect --trace /nowhere/at/all", "/nowhere/at/all: No such file"),
        ("try nowhere.py", "nowhere.py: No such file"),
        ("try nowhere.py --programs -1", "--programs -1: at least 0"),
        ("sequence nowhere.s", "examples are local, no-barrier, shift"),
        ("at nowhere.json", "nowhere.json"),
        ("at", "name one file, or memory with --memory"),
        ("at a b", "name one file"),
        ("at a 0xzz", "write a number"),
        ("at --memory nowhere 0x1", "--reg TCR=VALUE"),
        ("at --memory nowhere", "name addresses in hex"),
        ("at --memory nowhere --reg X=1 0x1", "give each of TCR, MAIR, TTBR0"),
        ("at --memory nowhere a 0x1", "a: with --memory there is no other file"),
        (
            "at --memory nowhere --reg TCR=0x5b5103510 --reg MAIR=1 --reg TTBR0=0 0x1",
            "files[0]: nowhere: No such file",
        ),
        ("litmus nowhere.litmus", "nowhere.litmus"),
    ],
)
def test_what_is_not_allowed_is_one_line(capsys, arguments, said):
    """A wrong name or value ends with status 2 and one line that says what is right."""
    assert main(arguments.split()) == 2
    out, error = capsys.readouterr()
    assert not out
    assert error.count("\n") == 1
    assert said in error


@pytest.mark.parametrize(
    "content", [b"{", b"[]", b"\xff\xfe", b'{"regs": 1}', b"", b"hello", b"\x7fELF"]
)
def test_a_file_that_is_no_image_is_one_line(capsys, tmp_path, content):
    """Whatever is in a file, it is answered or refused in one line."""
    path = tmp_path / "image.json"
    path.write_bytes(content)
    assert main(["at", str(path)]) == 2
    out, error = capsys.readouterr()
    assert not out
    assert error.count("\n") == 1
    assert error.startswith(f"tlbkit: {path}: ")


# -- the process -----------------------------------------------------------------------


def python(*arguments):
    """Run Python as a user would."""
    command = [sys.executable, "-m", "tlbkit", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_process_ends_as_main_does():
    """`python -m tlbkit` exits with main's status."""
    good, bad = python("list"), python("run", "mprotekt")
    assert (good.returncode, good.stderr) == (0, "")
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr.count("\n") == 1


def test_a_reader_who_has_seen_enough_is_no_error():
    """Printing into a closed pipe, as before `| head -1`, is quiet."""
    command = [sys.executable, "-m", "tlbkit", "patches", "--json"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_the_gallery_lists_every_point(capsys):
    """One line a point, for people and for scripts."""
    assert main(["gallery", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {one["verdict"] for one in told} == {"breaks", "argued"}
    keys = {"name", "flow", "verdict", "steps", "chapter"}
    assert all(keys <= one.keys() for one in told)
    assert main(["gallery"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(told) + 2
    for one, line in zip(told, lines[2:], strict=True):
        assert line.startswith(f"{one['name']} ")
        assert line.endswith(one["flow"])


def test_meetings_are_listed(capsys):
    """Each meeting has its line, and its place in what scripts read."""
    assert main(["meetings", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in told] == list(PROGRAMME)
    assert main(["meetings"]) == 0
    lines = capsys.readouterr().out.splitlines()[2:]
    for one, line in zip(told, lines, strict=True):
        assert line.startswith(one["name"])
        assert one["title"] in line


def test_random_walks_have_a_seed(capsys):
    """The same seed tries the same schedules; what breaks one ends with status 1."""
    asked = ["random", "protect", "--runs", "30", "--seed", "7", "--json"]
    assert main(asked) == 0
    once = capsys.readouterr().out
    assert main(asked) == 0
    assert capsys.readouterr().out == once
    (walk,) = json.loads(once)
    assert (walk["meeting"], walk["runs"], walk["error"]) == ("protect", 30, "")
    taken_out = ["--take-out", "dsb ish in flush_tlb_range_"]
    assert main([*asked[:-1], *taken_out]) == 1
    shown = capsys.readouterr()
    assert "can still use" in shown.out
    assert shown.err.startswith("tlbkit: seed 7 breaks 1")
    assert main(["random", "protekt"]) == 2
    assert "close to it: 'protect'" in capsys.readouterr().err


def test_a_mutant_is_judged_anew(capsys, monkeypatch):
    """Only the points named are searched; one that is none is refused."""
    point = "pte_none_mostly in mfill_atomic_install_pte"
    few = {name: PROGRAMME[name] for name in verdicts.find(point).meetings}
    monkeypatch.setattr(judge, "PROGRAMME", few)  # not to look through all of them
    assert main(["mutate", "--json", point]) == 0
    shown = capsys.readouterr()
    (told,) = json.loads(shown.out)
    assert told == verdicts.find(point).to_json()
    assert f"1 of 1: {point}: breaks" in shown.err
    assert "every search was complete" in shown.err
    assert main(["mutate", f"{point}s"]) == 2
    assert f"close to it: '{point}'" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["mutate", "meetings", "random"])
def test_who_has_no_greenlet_is_told(command):
    """Without greenlet the commands that need it name it, in one line."""
    program = (
        "import sys; sys.modules['greenlet'] = None;"
        f"from tlbkit.__main__ import main; sys.exit(main(['{command}']))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 2
    assert ran.stderr == f"tlbkit: {command} needs greenlet: pip install greenlet\n"


def test_an_older_python_is_told_which_is_needed():
    """What such a Python reads first it can read, and it says what is missing."""
    first = (ROOT / "tlbkit" / "__init__.py").read_text("utf-8")
    ast.parse(first, feature_version=(3, 7))
    older = (
        f"import sys; sys.version_info = (3, 9); exec({first!r}, {{'__name__': 'x'}})"
    )
    done = subprocess.run(
        [sys.executable, "-c", older], capture_output=True, text=True, check=False
    )
    assert "ImportError: tlbkit needs Python 3.11 or newer" in done.stderr
    assert "is Python 3.9" in done.stderr
