"""Which columns of an answer each panel of a figure draws, as data.

Nothing here draws. The page's own Python, which has no Bokeh, feeds the panels that
the site build drew with Bokeh; both sides therefore start from this module.

A *feed* is what one panel needs for one answer: the data of each of its
``ColumnDataSource`` by name.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tlbkit.errors import InputError
from tlbkit.lab.flush import WAYS
from tlbkit.lab.hugetlb import FORMS
from tlbkit.lab.tlb import MAPPED
from tlbkit.show.walk_tree import walk_tree

Cell = float | int | str
Columns = Mapping[str, Sequence[Cell]]
Feed = dict[str, dict[str, list[Cell]]]


def _column(columns: Columns, name: str, panel: str) -> list[Cell]:
    """Return one column, or say which panel misses it."""
    if name not in columns:
        raise InputError(
            f"panel {panel!r}: the answer has no column {name!r}; it has "
            + ", ".join(sorted(columns))
        )
    return list(columns[name])


def number(value: Cell) -> str:
    """Write a value the way a figure labels it.

    >>> number(4096), number(2.851), number(0), number("none")
    ('4,096', '2.85', '0', 'none')
    """
    if isinstance(value, str):
        return value
    if isinstance(value, int) or value == int(value):
        return f"{int(value):,}"
    return f"{value:,.3g}" if abs(value) < 100 else f"{value:,.0f}"


@dataclass(frozen=True, slots=True)
class Bars:
    """Pairs of bars: each quantity before and after.

    Attributes:
        title: Stands over the panel.
        quantity: Column with the names of the quantities; one name, one pair.
        before: Column drawn as the hatched bars.
        after: Column drawn as the solid bars.
    """

    title: str
    quantity: str = "quantity"
    before: str = "before"
    after: str = "after"

    def feed(self, columns: Columns) -> Feed:
        """Pick this panel's data out of an answer's columns."""
        before = _column(columns, self.before, self.title)
        after = _column(columns, self.after, self.title)
        return {
            "pairs": {
                "quantity": _column(columns, self.quantity, self.title),
                "before": before,
                "after": after,
                "before_label": [number(value) for value in before],
                "after_label": [number(value) for value in after],
            }
        }


@dataclass(frozen=True, slots=True)
class Sweep:
    """Two lines over one parameter, with the current setting marked.

    Both axes are logarithmic: the parameter grows by doubling, and a saving counts in
    proportion. All values are therefore positive.

    Attributes:
        title: Stands over the panel.
        x: Column with the values of the parameter.
        before: Column drawn as the dashed line.
        after: Column drawn as the solid line.
        at: Column of one value: where the controls stand now.
        x_label: Name and unit of the parameter.
        y_label: Name and unit of what is drawn.
    """

    title: str
    x: str
    before: str
    after: str
    at: str
    x_label: str
    y_label: str

    def feed(self, columns: Columns) -> Feed:
        """Pick this panel's data out of an answer's columns."""
        at = _column(columns, self.at, self.title)
        return {
            "line": {
                "x": _column(columns, self.x, self.title),
                "before": _column(columns, self.before, self.title),
                "after": _column(columns, self.after, self.title),
            },
            "mark": {"at": at, "label": [number(value) for value in at]},
        }


@dataclass(frozen=True, slots=True)
class Lines:
    """Several lines over one quantity, with one or more places marked on it.

    Attributes:
        title: Stands over the panel.
        x: Column with the values of the quantity.
        lines: Columns drawn over it, each with its name in the legend; at most four.
        at: Column with the values of x that are marked; each has a label there ...
        at_label: ... in this column.
        x_label: Name and unit of the quantity.
        y_label: Name and unit of what is drawn.
        log: What is drawn spans magnitudes; its axis is logarithmic then.
        steps: The quantity counts steps from 0 and has an even axis; any other grows
            by factors, and its axis is logarithmic.
    """

    title: str
    x: str
    lines: tuple[tuple[str, str], ...]
    at: str
    at_label: str
    x_label: str
    y_label: str
    log: bool = False
    steps: bool = False

    def feed(self, columns: Columns) -> Feed:
        """Pick this panel's data out of an answer's columns."""
        names = (self.x, *(name for name, _ in self.lines))
        lines = {name: _column(columns, name, self.title) for name in names}
        marks = _column(columns, self.at, self.title)
        drawn = [float(v) for name in names[1:] for v in lines[name]]
        return {
            "lines": lines,
            "marks": {
                "at": marks,
                "label": _column(columns, self.at_label, self.title),
                # Where the labels begin: the bottom, which a logarithm has none of.
                "foot": [min(drawn) if self.log else 0 for _ in marks],
            },
        }


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields of a word, each a box with its bits, its name and its value.

    They are drawn as text, so that they wrap on a phone and can be read aloud.

    Attributes:
        title: Stands over the boxes.
        name: Column with the names of the fields, the highest first.
        bits: Column with where each stands, such as "63:48".
        value: Column with what each holds.
        chosen: Column that is 1 for the fields that stand out, else 0.
    """

    title: str
    name: str = "field"
    bits: str = "bits"
    value: str = "value"
    chosen: str = "chosen"

    def feed(self, columns: Columns) -> Feed:
        """Pick this panel's data out of an answer's columns."""
        parts = ("name", "bits", "value", "chosen")
        return {
            "fields": {
                part: _column(columns, getattr(self, part), self.title)
                for part in parts
            }
        }


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture that is made here and needs nothing to draw it: SVG.

    Attributes:
        title: Stands over it.
        draw: Makes it of an answer's columns.
    """

    title: str
    draw: Callable[[Columns], str]

    def feed(self, columns: Columns) -> Feed:
        """Draw it for an answer."""
        return {"picture": {"svg": [self.draw(columns)]}}


Written = Fields | Picture
"""Panels that are markup of our own, and no figure of Bokeh."""

Panel = Bars | Sweep | Lines | Written


def _flow(what: str) -> tuple[Panel, ...]:
    """Return the panels of a scenario that compares two kernels by one operation."""
    return (
        Bars(f"What {what} issues"),
        Sweep(
            f"What {what} costs",
            x="sweep_pages",
            before="sweep_before",
            after="sweep_after",
            at="at",
            x_label="pages",
            y_label="ns (modelled)",
        ),
    )


def _unsharing() -> tuple[Panel, ...]:
    """Return the panels of a scenario of shared tables."""
    return (
        Bars("What the other CPUs hear"),
        Lines(
            "Broadcasts, by the formula",
            x="sharers",
            lines=tuple((form.column, form.name) for form in FORMS),
            at="at",
            at_label="at_label",
            x_label="processes that share",
            y_label="broadcasts",
        ),
    )


PANELS: dict[str, tuple[Panel, ...]] = {
    "mprotect": _flow("the call"),
    "fork-reuse": _flow("rewriting"),
    "fork-copy": _flow("writing"),
    "fork-storm": _flow("the storm"),
    "move": _flow("the request"),
    "arena": _flow("growing"),
    "unmap": _flow("the call"),
    "hugetlb-unshare": _unsharing(),
    "hugetlb-exit": _unsharing(),
    "walk": (
        Fields("The address"),
        Picture("The walk", walk_tree),
        Fields(
            "The last word that was read",
            "word_field",
            "word_bits",
            "word_value",
            "word_chosen",
        ),
    ),
    "permissions": (Fields("The descriptor, as far as it is about rights"),),
    "lru": (),
    "tlb": (
        Lines(
            "What a TLB of another size would miss",
            x="size",
            lines=tuple((way, way) for way in MAPPED),
            at="at",
            at_label="at_label",
            x_label="entries",
            y_label="misses, % of accesses",
        ),
    ),
    "stale": (),
    "insert": (),
    "gather-flags": (),
    "gather-flush": (),
    "huge-zero": (),
    "dax-hole": (),
    "not-said": (Bars("What is issued"),),
    "pmd-shared": (),
    "unshare": (),
    "write-needs-flush": (),
    "write-gather-flush": (),
    "write-batch-end": (),
    "write-unshare-interrupt": (),
    "tlbi": (Fields("The operand"),),
    "mapcount": (
        Lines(
            "The statistics, step by step",
            x="step",
            lines=(("mapped", "NR_ANON_MAPPED"), ("blocks", "NR_ANON_THPS")),
            at="at",
            at_label="at_label",
            x_label="step",
            y_label="pages",
            steps=True,
        ),
    ),
    "normal-page": (Fields("What the newest kernel asks"),),
    "bad-page-map": (Fields("The entry"),),
    "litmus": (Fields("The program, and the question"),),
    "own-litmus": (Fields("The program, and the question"),),
    "own-sequence": (Fields("The instructions, and the verdict"),),
    "flush": (
        Lines(
            "The same on other machines",
            x="cpus",
            lines=tuple((way, way) for way in WAYS),
            at="at",
            at_label="at_label",
            x_label="CPUs of the machine",
            y_label="ns (modelled)",
            log=True,
        ),
    ),
}
"""The panels of each scenario, by the scenario's name; none if its table says all."""


def panels_of(scenario: str) -> tuple[Panel, ...]:
    """Return the panels that draw *scenario*.

    Raises:
        InputError: No panels are described for it.
    """
    if scenario not in PANELS:
        raise InputError(
            f"scenario {scenario!r} has no figure; described are: "
            + ", ".join(sorted(PANELS))
            + " (add it to tlbkit.show.panels.PANELS)"
        )
    return PANELS[scenario]


def feeds(scenario: str, columns: Columns) -> list[Feed]:
    """Return the feed of every panel of *scenario*, in their order."""
    return [panel.feed(columns) for panel in panels_of(scenario)]
