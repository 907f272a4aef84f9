"""Measure real arm64 kernels: boot them under QEMU, count their TLBI, write the rows.

    python3 tests/kernel/measure.py 6.17.13 6.19.14
    python3 tests/kernel/measure.py --list

Each kernel is a Debian package, booted once for each kind of CPU. What a step needs,
and how long it takes on two cores:

- ``fetch`` (a minute, once for each kernel): apt, and Debian's archive as this machine
  has it. Kernels leave the archive in time; ``--list`` shows what is there. They are
  unpacked under ``.cache/kernel``, and nothing is installed.
- ``build`` (a second): gcc, gcc-aarch64-linux-gnu and cpio, for the plugin, the guest
  and its initial file system.
- ``boot`` (about five minutes): QEMU 9.2 or newer, which is in Debian 13 and in the
  backports of Debian 12: qemu-system-arm.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from kernel_rows import MEASURED, Key, Measured  # noqa: E402 - its folder is named above
from kernel_scenarios import SCENARIOS  # noqa: E402
from kernel_text import Seen  # noqa: E402

from tlbkit.linux.include.uapi.asm_generic.errno import NAMES  # noqa: E402

GUEST: Final = Path(__file__).parent / "guest"
CACHE: Final = ROOT / ".cache" / "kernel"
SUITES: Final = ("trixie", "trixie-backports", "forky", "sid", "experimental")
KEYRING: Final = "/usr/share/keyrings/debian-archive-keyring.gpg"


class Board(NamedTuple):
    """What a kernel is booted on.

    Attributes:
        cpu: QEMU's name for the CPU.
        kpti: Whether the kernel hides itself from user space.
    """

    cpu: str
    kpti: str = "off"

    @property
    def options(self) -> str:
        """The kernel's command line."""
        return f"{OPTIONS} kpti={self.kpti}"


CPUS: Final = {
    "range": Board("max,lpa2=off"),
    "norange": Board("neoverse-n1"),
    "lpa2": Board("max"),
    "kpti": Board("max,lpa2=off", kpti="on"),
}
"""Boards by what is special: range operations, none, 52-bit addresses as well, KPTI."""

STANDS_FOR: Final = {"6.17": "v6.17", "6.18": "v6.18", "6.19": "v6.19", "7.0": "v7.0"}
"""Which kernel of the model is held against a release; else the newest."""

OPTIONS: Final = "console=ttyAMA0 nokaslr rdinit=/init panic=-1 loglevel=3"
SIGNALS: Final = {
    "S11/1": "SIGSEGV/SEGV_MAPERR",
    "S11/2": "SIGSEGV/SEGV_ACCERR",
    "S7/2": "SIGBUS/BUS_ADRERR",
    "S7/4": "SIGBUS/BUS_MCEERR_AR",
}
END_OF_FILE: Final = "E1000"
UNKNOWN_VERB: Final = "E1001"
DISTURBANCES: Final = (
    "timers and RCU go on: a row is what most repetitions agree in, its i their median"
)


class MeasureError(Exception):
    """A step failed; the message says what to do."""


def run(*command: str | Path, **how: str | Path) -> str:
    """Run a command and return what it printed."""
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        check=False,
        cwd=how.get("cwd"),
    )
    if done.returncode:
        raise MeasureError(f"{' '.join(map(str, command))}\n{done.stderr.strip()}")
    return done.stdout


def need(tool: str, package: str) -> str:
    """Return where *tool* is, or say which package brings it."""
    found = shutil.which(tool)
    if found is None:
        raise MeasureError(f"{tool} is missing: apt-get install {package}")
    return found


# -- fetch -----------------------------------------------------------------------------


class Archive:
    """Debian's archive for arm64, with package lists of its own."""

    def __init__(self, cache: Path = CACHE) -> None:
        self.cache = cache
        lists = cache / "apt"
        for folder in ("lists/partial", "cache/archives/partial"):
            (lists / folder).mkdir(parents=True, exist_ok=True)
        sources = "".join(
            f"deb [arch=arm64 signed-by={KEYRING}] {self._mirror()} {suite} main\n"
            for suite in SUITES
        )
        (lists / "sources").write_text(sources, "utf-8")
        settings = {
            "Dir::Etc::sourcelist": lists / "sources",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::State::Lists": lists / "lists",
            "Dir::State::status": "/dev/null",
            "Dir::Cache": lists / "cache",
            "APT::Architecture": "arm64",
            "APT::Architectures::": "arm64",
        }
        self._options = [f"-o{name}={value}" for name, value in settings.items()]

    @staticmethod
    def _mirror() -> str:
        """Return the mirror that this machine uses."""
        apt = Path("/etc/apt")
        for file in (
            apt / "sources.list",
            *sorted(apt.glob("sources.list.d/*")),
        ):
            if file.is_file():
                found = re.search(
                    r"https?://\S+/debian/?(?=\s|$)", file.read_text("utf-8")
                )
                if found:
                    return found[0]
        return "http://deb.debian.org/debian"

    def update(self) -> None:
        """Fetch the package lists."""
        run("apt-get", *self._options, "update", "-qq")

    def download(self, packages: Sequence[str]) -> list[Path]:
        """Fetch packages of Debian 13 with all that they need; return the files."""
        status = self.cache / "apt" / "status"
        status.touch()  # nothing is installed, which apt wants to read
        options = [
            f"-oDir::State::status={status}" if "State::status" in one else one
            for one in self._options
        ]
        run(
            *("apt-get", *options, "install", "-y", "--no-install-recommends"),
            *("--download-only", "-qq", "-t", SUITES[0], *packages),
        )
        return sorted((self.cache / "apt/cache/archives").glob("*.deb"))

    def kernels(self) -> dict[str, str]:
        """Return the packages that hold a kernel for cloud machines, by version."""
        pattern = r"^linux-(image|binary)-[0-9].*-cloud-arm64$"
        answer = run(
            "apt-cache", *self._options, "search", "--names-only", pattern
        ).splitlines()
        found: dict[str, str] = {}
        for package in sorted(line.split()[0] for line in answer):
            version = re.search(r"-(\d+\.\d+\.\d+)\+deb", package)
            # From 6.19 on the image itself is in linux-binary, which sorts first.
            if version and "unsigned" not in package:
                found.setdefault(version[1], package)
        return found

    def kernel(self, version: str) -> tuple[Path, str]:
        """Return the image of a kernel and its package, fetched if need be."""
        folder = self.cache / version
        found = sorted(folder.rglob("vmlinuz*"))
        if not found:
            self.update()
            kernels = self.kernels()
            if version not in kernels:
                raise MeasureError(
                    f"no kernel {version} in Debian's archive; there are: "
                    f"{', '.join(kernels)}"
                )
            folder.mkdir(parents=True, exist_ok=True)
            run("apt-get", *self._options, "download", kernels[version], cwd=folder)
            run("dpkg-deb", "-x", next(folder.glob("*.deb")), folder)
            found = sorted(folder.rglob("vmlinuz*"))
        package = next(folder.glob("*.deb"))
        name, number, _ = package.name.split("_")
        return found[0], f"{name} {number}"


# -- build -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Built:
    """What a boot needs besides the kernel."""

    plugin: Path
    init: Path


def build(cache: Path = CACHE) -> Built:
    """Compile the plugin for this machine, and the guest for arm64."""
    cache.mkdir(parents=True, exist_ok=True)
    plugin, init = cache / "count.so", cache / "init"
    common = ("-Wall", "-Wextra", "-Werror")
    host = need("gcc", "gcc libc6-dev")
    run(
        *(host, "-O2", *common, "-shared", "-fPIC", "-fvisibility=hidden"),
        *("-o", plugin, GUEST / "count.c"),
    )
    cross = need("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu")
    run(
        *(cross, "-O1", *common, "-ffreestanding", "-nostdlib", "-static"),
        *("-fno-stack-protector", "-fno-tree-loop-distribute-patterns"),
        *("-mgeneral-regs-only", "-o", init, GUEST / "guest.c"),
    )
    return Built(plugin, init)


# -- boot ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Program:
    """What is played from a fresh process on."""

    name: str
    lines: Sequence[str]


@dataclass(frozen=True, slots=True)
class Emulator:
    """QEMU, and how it is started.

    Attributes:
        path: Where it is.
        quiet: For how many seconds a guest may say nothing. One that hangs as it boots,
            which happens on a machine with more to do than CPUs, is started again.
        tries: How often it is started.
    """

    path: str
    quiet: int = 900
    tries: int = 3

    @property
    def version(self) -> str:
        """The version that it says it is."""
        found = re.search(r"version (\S+)", run(self.path, "--version"))
        return found[1] if found else "unknown"

    def check(self) -> None:
        """Refuse one whose plugins cannot read registers."""
        major, minor = map(int, self.version.split(".")[:2])
        if (major, minor) < (9, 2):
            raise MeasureError(
                f"QEMU {self.version}: plugins read registers from 9.2 on; Debian 13 "
                "has it, and the backports of Debian 12: qemu-system-arm"
            )

    def boot(
        self, kernel: Path, cpu: str, built: Built, programs: Iterable[Program]
    ) -> Iterator[tuple[str, list[str]]]:
        """Play programs on a kernel; yield the lines that each came to, by its name."""
        folder = built.init.parent / f"boot-{os.getpid()}"
        root = folder / "root"
        root.mkdir(parents=True)
        try:
            shutil.copy(built.init, root / "init")
            text = "".join(
                f"# {program.name}\n"
                + "".join(f"{line}\n" for line in program.lines)
                + "\n"
                for program in programs
            )
            (root / "programs").write_text(text, "utf-8")
            initrd = folder / "initrd"
            self._pack(root, initrd)
            told = folder / "told"
            for left in reversed(range(self.tries)):
                if self._start(kernel, cpu, built.plugin, initrd, told):
                    break
                if not left:
                    raise MeasureError(f"{kernel} hangs, {self.tries} times in a row")
            yield from self._sort(told.read_text("utf-8", "replace"))
        finally:
            shutil.rmtree(folder)

    @staticmethod
    def _pack(root: Path, initrd: Path) -> None:
        names = "\n".join(path.name for path in root.iterdir())
        with initrd.open("wb") as file:
            subprocess.run(
                [need("cpio", "cpio"), "-o", "-H", "newc", "--quiet"],
                input=names.encode(),
                stdout=file,
                cwd=root,
                check=True,
            )

    def _start(
        self, kernel: Path, cpu: str, plugin: Path, initrd: Path, told: Path
    ) -> bool:
        """Boot once; tell whether the guest came to its end."""
        board = CPUS[cpu]
        data = Path(self.path).resolve().parents[1] / "share" / "qemu"
        command = [
            *("nice", "-n", "15", self.path),
            *(("-L", str(data)) if data.is_dir() else ()),
            *("-machine", "virt,gic-version=3", "-cpu", board.cpu),
            *("-smp", "4", "-m", "4G", "-accel", "tcg,thread=multi"),
            *("-nographic", "-no-reboot", "-nic", "none"),
            *("-kernel", str(kernel), "-initrd", str(initrd)),
            *("-append", board.options),
            *("-plugin", f"{plugin},out={told}"),
        ]
        console = told.with_name("console")
        with console.open("wb") as file:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=file
            )
        size, since = 0, time.monotonic()
        while process.poll() is None:
            time.sleep(0.5)
            grown = told.stat().st_size if told.exists() else 0
            if grown != size:
                size, since = grown, time.monotonic()
            elif time.monotonic() - since > self.quiet:
                process.kill()
                process.wait()
                return False
        if "# done" not in told.read_text("utf-8", "replace"):
            end = console.read_text("utf-8", "replace")[-2000:]
            raise MeasureError(f"{kernel} did not play to the end:\n{end}")
        return True

    @staticmethod
    def _sort(told: str) -> Iterator[tuple[str, list[str]]]:
        name, lines = "", list[str]()
        for line in told.splitlines():
            if line.startswith("# "):
                if name:
                    yield name, lines
                name, lines = line.removeprefix("# "), []
            else:
                lines.append(line)


def seen(line: str) -> Seen:
    """Read what the guest and the plugin said of one line of a program."""
    answer, _, rest = line.partition(" ")
    if answer == UNKNOWN_VERB:
        raise MeasureError("the guest does not know a verb; build it again")
    if answer == END_OF_FILE:
        answer = "-1"
    elif answer[0] == "E":
        answer = NAMES.get(int(answer[1:]), answer)
    return Seen.parse(f"{SIGNALS.get(answer, answer)} {rest}")


# -- rows ------------------------------------------------------------------------------


def scenario_programs(repetitions: int, largest: int) -> Iterator[Program]:
    """Return each scenario for each size, as often as it is repeated."""
    for _ in range(repetitions):
        for scenario in SCENARIOS:
            for size in scenario.sizes:
                if size > max(largest, min(scenario.sizes)):
                    continue
                lines, _ = scenario.lines(size)
                yield Program(f"{scenario.name} {size}", lines)


def settle(answers: dict[Key, list[Seen]]) -> tuple[dict[Key, Seen], list[Key]]:
    """Return the rows that most repetitions agree in, and those that have none such."""
    rows, unsettled = {}, []
    for key, several in answers.items():
        texts = Counter(one._replace(broadcasts=None).text() for one in several)
        text, times = texts.most_common(1)[0]
        if 2 * times <= len(several):
            unsettled.append(key)
            continue
        broadcasts = statistics.median_low(one.broadcasts or 0 for one in several)
        rows[key] = Seen.parse(text)._replace(broadcasts=broadcasts)
    return rows, unsettled


def measure(
    version: str, cpu: str, emulator: Emulator, built: Built, asked: argparse.Namespace
) -> tuple[Measured, list[Key]]:
    """Boot one kernel on one kind of CPU, and return its rows."""
    board, repetitions = CPUS[cpu], asked.repetitions
    image, package = Archive().kernel(version)
    scenarios = {one.name: one for one in SCENARIOS}
    answers: dict[Key, list[Seen]] = defaultdict(list)
    programs = scenario_programs(repetitions, asked.largest)
    for name, lines in emulator.boot(image, cpu, built, programs):
        scenario, size = name.split()
        _, measured = scenarios[scenario].lines(int(size))
        for number, row in measured.items():
            answers[Key(row, int(size))].append(seen(lines[number]))
    rows, unsettled = settle(answers)
    release = ".".join(version.split(".")[:2])
    model = STANDS_FOR.get(release, "fixed")
    about = {
        "model": model,
        "cpu": cpu,
        "kernel": f"Linux {version}",
        "package": package,
        "emulator": f"QEMU {emulator.version}, TCG, virt, GICv3",
        "processors": f"4 of -cpu {board.cpu}, pages of 4 KiB",
        "options": board.options,
        "repetitions": str(repetitions),
        "disturbed by": DISTURBANCES,
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
    }
    return Measured(about, model, cpu, rows), unsettled


def main() -> int:
    """Read the command line, and measure."""
    parser = argparse.ArgumentParser(description="Measure real arm64 kernels.")
    parser.add_argument("versions", nargs="*", help="such as 6.17.13")
    parser.add_argument("--list", action="store_true", help="show which there are")
    parser.add_argument("--cpu", nargs="+", choices=CPUS, default=["range", "norange"])
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument(
        "--largest", type=int, default=1 << 20, help="leave out larger sizes"
    )
    parser.add_argument("--qemu", default="qemu-system-aarch64")
    parser.add_argument("--into", type=Path, default=MEASURED)
    asked = parser.parse_args()
    try:
        if asked.list:
            archive = Archive()
            archive.update()
            for version, package in archive.kernels().items():
                print(f"{version:10} {package}")
            return 0
        emulator = Emulator(need(asked.qemu, "qemu-system-arm"))
        emulator.check()
        built = build()
        for version in asked.versions:
            for cpu in asked.cpu:
                rows, unsettled = measure(version, cpu, emulator, built, asked)
                rows.save(asked.into / f"{version}-{cpu}.json")
                print(f"{version} {cpu}: {len(rows.rows)} rows")
                for key in unsettled:
                    print(f"  left out, no two alike: {key.row} {key.size}")
    except MeasureError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
