"""Programs as lines of Python: what runs here is what can be pasted into a cell."""

from tlbkit.linux.arch.arm64.mm.fault import OutOfMemoryError
from tlbkit.linux.include.uapi.asm_generic.errno import Signal, SystemCallError

LEGAL = (SystemCallError, Signal, OutOfMemoryError)

_BEGIN = '''\
from contextlib import suppress
from dataclasses import replace

from tlbkit import Kernel, Machine
from tlbkit.arm64.models import find_model
from tlbkit.linux.arch.arm64.mm.fault import OutOfMemoryError
from tlbkit.linux.include.uapi.asm_generic.errno import Signal, SystemCallError
from tlbkit.observe.sanitizer import Sanitizer

model = replace(find_model({model!r}), bbml2_noabort={bbml2}, mte={mte})
kernel = Kernel(Machine({cpus}, model), {version!r})
kernel.huge_memory.enabled = {enabled!r}
Sanitizer(kernel).start()
kernel.swapfile.swapon(64)
kernel.hugetlb.set_max_huge_pages({huge})
pins, taken = [], []


def pin(process, address):
    """Let a device write to a page, and keep it."""
    pins.append(process.pin(address, 1, write=True))


def take(process, address):
    """Let a driver look at a page, and keep it."""
    taken.append(process.get_pages(address, 1))


def unpin():
    """Let go of all pages that are pinned or taken."""
    while pins:
        kernel.gup.unpin_user_pages(pins.pop())
    while taken:
        kernel.gup.put_pages(taken.pop())


def fail_after(number):
    """Let one allocation fail, after *number* of them did not."""
    answers = iter([False] * number + [True])
    kernel.page_alloc.fail = lambda: next(answers, False)
'''


class Play:
    """One kernel that runs a program line by line, under the rules.

    Args:
        version: Name of the kernel.
        model: Name of the CPU model.
        bbml2: It bears two sizes of one translation at once.
        mte: Its memory has tags.
        enabled: Who gets blocks.
        kib: Sizes of large folios that everybody gets.
        huge: Huge pages in the pool.
    """

    CPUS = 3

    def __init__(
        self,
        version,
        model="neoverse-v2",
        *,
        bbml2=False,
        mte=False,
        enabled="never",
        kib=(),
        huge=2,
    ):
        begin = _BEGIN.format(
            model=model,
            bbml2=bbml2,
            mte=mte,
            cpus=self.CPUS,
            version=version,
            enabled=enabled,
            huge=huge,
        )
        self.lines = [begin]
        self.names = {"__name__": "program"}
        exec(begin, self.names)  # noqa: S102 - our own lines
        for size in kib:
            line = f"kernel.huge_memory.set_hugepages_enabled({size}, 'always')"
            self.do(line)

    @property
    def kernel(self):
        """The kernel."""
        return self.names["kernel"]

    def do(self, line, into=None):
        """Run one line; return its value, or the name of the error that it raised."""
        text = line if into is None else f"{into} = {line}"
        self.lines.append(text)
        try:
            value = eval(line, self.names)  # noqa: S307 - our own lines
        except LEGAL as error:
            names = ", ".join(kind.__name__ for kind in LEGAL)
            self.lines[-1] = f"with suppress({names}):\n    {text}"
            return getattr(error, "errno", None) or getattr(error, "signal", "OOM")
        if into is not None:
            self.names[into] = value
        return value

    def source(self):
        """The program up to here, for a cell."""
        return "\n".join(self.lines)
