"""Settings of a running kernel by name: what an administrator would write into sysfs.

Source: none; each setting calls the function that its file in sysfs or procfs does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tlbkit.errors import InputError
from tlbkit.linux.mm.huge_memory.settings import Enabled, EnabledSize, kib_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tlbkit.linux.kernel.kernel import Kernel

MOST_PAGES: Final = 1 << 24
"""How many huge pages or swap slots may be asked for."""


@dataclass(frozen=True, slots=True)
class Tunable:
    """One setting.

    Attributes:
        name: As it is given; SIZE stands for a size such as 64kB.
        what: What it decides, and where Linux has it.
        allowed: Its values, in words.
        prepare: Takes the kernel, the size (empty if the name has none) and the value,
            judges them, and returns what makes it so; ``None`` if the value is wrong.
    """

    name: str
    what: str
    allowed: str
    prepare: Callable[[Kernel, str, str], Callable[[], object] | None]


def tune(kernel: Kernel, settings: Mapping[str, object]) -> None:
    """Give a kernel these settings, all of them or, after an error, none.

    Args:
        kernel: That runs.
        settings: Names of `TUNABLES` with their values, for example
            ``{"thp": "always", "thp.64kB": "always", "hugepages": 8}``.

    Raises:
        InputError: There is no such setting, or it cannot have that value; the message
            says what there is.
    """
    ready = [_prepared(kernel, name, value) for name, value in settings.items()]
    for change in ready:
        change()


def read_tuning(texts: list[str]) -> dict[str, str]:
    """Return the settings that texts such as ``thp=always`` give, one each.

    Raises:
        InputError: One is none, or is given twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"{text}: write NAME=VALUE, as in thp=always")
        if name in found:
            raise InputError(f"{name} is given twice; give it once")
        found[name] = value
    return found


def _prepared(kernel: Kernel, name: str, value: object) -> Callable[[], object]:
    """Return what gives a kernel one setting; `InputError` if that cannot be."""
    base, _, size = name.partition(".")
    one = TUNABLES.get(f"{base}.SIZE" if size else name)
    if one is None:
        raise InputError(f"no setting is called {name!r}; there are {_names()}")
    text = ("off", "on")[value] if isinstance(value, bool) else str(value)
    change = one.prepare(kernel, size, text)
    if change is None:
        raise InputError(f"{name}={text}: must be {one.allowed}")
    return change


def _names() -> str:
    return ", ".join(TUNABLES)


def _number(text: str) -> int | None:
    plain = text.isascii() and text.isdigit() and len(text) < 10
    return int(text) if plain and int(text) <= MOST_PAGES else None


_ENABLED: Final[Mapping[str, Enabled]] = {
    "always": "always",
    "madvise": "madvise",
    "never": "never",
}
_ENABLED_SIZE: Final[Mapping[str, EnabledSize]] = {**_ENABLED, "inherit": "inherit"}


def _thp(kernel: Kernel, _: str, text: str) -> Callable[[], object] | None:
    word = _ENABLED.get(text)
    if word is None:
        return None

    def change() -> None:
        kernel.huge_memory.enabled = word

    return change


def _thp_of_size(kernel: Kernel, size: str, text: str) -> Callable[[], object] | None:
    huge = kernel.huge_memory
    huge.hugepages_order(size)
    word = _ENABLED_SIZE.get(text)
    return None if word is None else lambda: huge.set_hugepages_enabled(size, word)


def _zero_page(kernel: Kernel, _: str, text: str) -> Callable[[], object] | None:
    if text not in {"on", "off", "1", "0"}:
        return None

    def change() -> None:
        kernel.huge_memory.use_zero_page = text in {"on", "1"}

    return change


def _pool(kernel: Kernel, size: str, text: str) -> Callable[[], object] | None:
    count = _number(text)
    if count is None:
        return None
    wanted = kib_of(size) << 10 if size else kernel.hugetlb.default_hstate.size
    kernel.hugetlb.size_to_hstate(wanted)
    return lambda: kernel.hugetlb.set_max_huge_pages(count, wanted)


def _swap(kernel: Kernel, _: str, text: str) -> Callable[[], object] | None:
    slots = _number(text)
    if not slots:
        return None
    return lambda: kernel.swapfile.swapon(slots)


_COUNT: Final = f"a whole number from 0 to {MOST_PAGES}"

TUNABLES: Final[Mapping[str, Tunable]] = {
    one.name: one
    for one in (
        Tunable(
            "thp",
            "who gets huge pages (/sys/kernel/mm/transparent_hugepage/enabled)",
            "always, madvise or never",
            _thp,
        ),
        Tunable(
            "thp.SIZE",
            "who gets folios of a smaller size (.../hugepages-<SIZE>/enabled)",
            "always, inherit, madvise or never",
            _thp_of_size,
        ),
        Tunable(
            "use_zero_page",
            "whether a read may map the huge zero folio (.../use_zero_page)",
            "on or off, 1 or 0",
            _zero_page,
        ),
        Tunable(
            "hugepages",
            "huge pages in the pool of the default size (/proc/sys/vm/nr_hugepages)",
            _COUNT,
            _pool,
        ),
        Tunable(
            "hugepages.SIZE",
            "those of another size (/sys/kernel/mm/hugepages/hugepages-<SIZE>/...)",
            _COUNT,
            _pool,
        ),
        Tunable(
            "swap",
            "pages of a swap device (swapon)",
            f"a whole number from 1 to {MOST_PAGES}",
            _swap,
        ),
    )
}
"""Every setting, by name."""
