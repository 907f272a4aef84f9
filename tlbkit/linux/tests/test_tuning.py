"""Settings of a kernel by name, and kernels on machines of every kind."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlbkit.arm64.machine import Machine
from tlbkit.arm64.models import MODELS, PROPERTIES
from tlbkit.errors import InputError
from tlbkit.linux.tests.support import boot
from tlbkit.linux.tuning import TUNABLES, read_tuning, tune
from tlbkit.observe.sanitizer import Sanitizer
from tlbkit.patches.kernels import Kernel

PAGES = 24


def state(kernel):
    """What the settings decide."""
    huge = kernel.huge_memory
    return (
        huge.enabled,
        huge.mthp_orders,
        huge.use_zero_page,
        [h.nr_huge_pages for h in kernel.hugetlb.hstates],
        [device.free for device in kernel.swapfile.devices],
    )


def test_settings_are_what_the_kernel_would_be_told():
    """Each name does what its file in sysfs does."""
    one, other = boot(), boot()
    settings = {
        "thp": "always",
        "thp.64kB": "madvise",
        "use_zero_page": False,
        "hugepages": 3,
        "hugepages.1GB": "1",
        "swap": 8,
    }
    tune(one, settings)
    other.huge_memory.enabled = "always"
    other.huge_memory.set_hugepages_enabled(64, "madvise")
    other.huge_memory.use_zero_page = False
    other.hugetlb.set_max_huge_pages(3)
    other.hugetlb.set_max_huge_pages(1, 1 << 30)
    other.swapfile.swapon(8)
    assert state(one) == state(other) != state(boot())
    assert {name.split(".")[0] for name in settings} == {
        name.split(".")[0] for name in TUNABLES
    }


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("thp", "often", "thp=often: must be always, madvise or never"),
        ("thp.3kB", "always", "'3kB': a large folio has a power of two"),
        ("thp.64kB", "often", "always, inherit, madvise or never"),
        ("thp.", "always", "no setting is called 'thp.'; there are thp, thp.SIZE"),
        ("hugepages", -1, "a whole number from 0"),
        ("hugepages.3MB", 1, "huge pages here have"),
        ("use_zero_page", "maybe", "on or off"),
        ("swap", 0, "a whole number from 1"),
        ("swappiness", 60, "no setting is called 'swappiness'"),
    ],
)
def test_after_a_wrong_setting_nothing_has_changed(name, value, said):
    """All settings are judged before the first is made."""
    kernel = boot()
    before = state(kernel)
    with pytest.raises(InputError) as error:
        tune(kernel, {"thp": "always", "hugepages": 2, name: value})
    assert said in str(error.value)
    assert state(kernel) == before


@given(st.dictionaries(st.sampled_from([*TUNABLES, "thp.64kB"]) | st.text(), st.text()))
def test_any_settings_are_made_or_refused(settings):
    """Whatever is written, the kernel is tuned, or a sentence says what is wrong."""
    kernel = boot()
    before = state(kernel)
    try:
        tune(kernel, settings)
    except InputError:
        assert state(kernel) == before


def test_settings_are_read_from_texts():
    """NAME=VALUE each, once."""
    assert read_tuning(["thp=always", "swap=8"]) == {"thp": "always", "swap": "8"}
    for texts, said in ((["thp"], "NAME=VALUE"), (["a=1", "a=2"], "given twice")):
        with pytest.raises(InputError, match=said):
            read_tuning(texts)


FLAGS = [name for name, one in PROPERTIES.items() if one.allowed.startswith("on or")]
MACHINES = [
    *MODELS,
    *(f"{name},page={page}" for name in MODELS for page in ("16K", "64K")),
    *(f"neoverse-v2,{flag}" for flag in FLAGS),
    *(f"neoverse-v2,page=16K,{flag}" for flag in FLAGS),
    *(f"neoverse-v2,{flag}=off" for flag in FLAGS if flag != "hw_af"),
    "neoverse-v2,pa_bits=52,lpa2",
    "neoverse-v2,pa_bits=52,page=64K",
    "neoverse-v2,pa_bits=32",
    "neoverse-v2,asid_bits=8,kpti",
    "neoverse-v2,shared_tlb=2",
    "neoverse-v2,l1i=1,l1d=1,l2=1,walk_cache=1",
]


@pytest.mark.parametrize("cpu", MACHINES)
def test_a_kernel_runs_on_every_machine_that_can_be_asked_for(cpu):
    """Writes, mprotect, fork and munmap do what they must, and no rule is broken."""
    kernel = Kernel(Machine(4, cpu))
    page = kernel.pgtable.page_size
    with Sanitizer(kernel):
        parent = kernel.spawn(0)
        base = parent.mmap(PAGES * page)
        for n in range(PAGES):
            parent.write(base + n * page, n, cpu=n % 4)
        parent.mprotect(base, PAGES // 2 * page, "r")
        child = parent.fork(1)
        for n in range(PAGES // 2, PAGES):
            parent.write(base + n * page, n + 1, cpu=2)
        assert [child.read(base + n * page) for n in range(PAGES)] == [*range(PAGES)]
        child.exit()
        parent.munmap(base, PAGES // 4 * page)
        assert parent.read(base + (PAGES - 1) * page) == PAGES
        parent.exit()
