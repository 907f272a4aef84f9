"""The gallery to look through: each point opens its replay, or its argument."""

from __future__ import annotations

import os
from html import escape
from typing import TYPE_CHECKING, Any, Final

from tlbkit.errors import InputError
from tlbkit.lab.gallery import replays, verdicts
from tlbkit.lab.gallery.catalogue import Entry, catalogue
from tlbkit.lab.gallery.programme import PROGRAMME
from tlbkit.show.explorer import STATIC_PAGE
from tlbkit.show.film import slug
from tlbkit.show.stage.film import Ending, film
from tlbkit.show.stage.page import html, standalone
from tlbkit.show.stage.show import FIRST_DIFFERENCE, Stage
from tlbkit.show.text import table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

SOURCE: Final = "https://git.kernel.org/linus/"
"""Where a commit of mainline is found, by its hash."""


def replayed(point: str, meeting: str = "") -> Stage:
    """Return what comes of it if a point is taken out, beside the complete kernel.

    It begins where the two part, and ends in the harm.

    Args:
        point: As the gallery names it.
        meeting: Where to look for harm; as the gallery has found it if not given.

    Raises:
        InputError: There is no such point or meeting, or no harm comes of it.
    """
    told = replays.ends(point, meeting)
    title = PROGRAMME[told.meeting].title
    return Stage(
        title,
        {
            take.name: film(take.recording, Ending(take.ending, take.harmed))
            for take in replays.replay(point, told)
        },
        title=f"Without {point}: {told.kind}",
        lead=f"What meets: {title}. Both kernels take the same schedule.",
        at=FIRST_DIFFERENCE,
        name=f"{point} {meeting}",
    )


class Gallery:
    """Everything that can be taken out of the flows, to be filtered and opened.

    The last expression of a cell shows it: in the site and in JupyterLab as a list, in
    which each entry opens its replay or its argument, else as a table.

    Attributes:
        entries: What it holds, by flow, kind and name.
    """

    def __init__(self) -> None:
        self.entries = catalogue()

    def find(self, point: str) -> Entry:
        """Return the entry of a point; `InputError` if there is none."""
        for entry in self.entries:
            if entry.verdict.point == point:
                return entry
        raise InputError(f"no point is called {point!r}; all of them: `entries`")

    def text(self) -> str:
        """Return the text rendering: one line for each point."""
        rows = [
            [one.verdict.point, one.flow, one.kind, one.outcome] for one in self.entries
        ]
        return table(["without", "flow", "kind", "what comes of it"], rows)

    def __repr__(self) -> str:
        return self.text()

    def fragments(self) -> Iterator[tuple[str, str]]:
        """Yield name and HTML of what each entry opens, for a page that loads them."""
        for entry in self.entries:
            yield slug(entry.verdict.point), detail(entry, html)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        """Return the rendering for whoever displays this object."""
        if os.environ.get(STATIC_PAGE):
            return {"text/plain": self.text(), "text/html": page(self)}
        from tlbkit.show.gallery_live import gallery_widget  # noqa: PLC0415 - as Turns

        bundle: dict[str, Any] = gallery_widget(self)._repr_mimebundle_()
        return bundle | {"text/plain": self.text()}


FILTERS: Final[Mapping[str, tuple[str, Callable[[Entry], list[str]]]]] = {
    "flow": ("Flow", lambda entry: [entry.flow]),
    "kind": ("Kind", lambda entry: [entry.kind]),
    "outcome": ("What comes of it", lambda entry: [entry.outcome]),
    "commit": (
        "Commit",
        lambda entry: [f"{commit} {subject}" for commit, subject in entry.commits],
    ),
}
"""By what the list can be filtered: a label, and what an entry has of it."""


def choices(gallery: Gallery, name: str) -> list[str]:
    """Return what there is to choose from in a filter."""
    _, of = FILTERS[name]
    return sorted({value for entry in gallery.entries for value in of(entry)})


def detail(entry: Entry, render: Callable[[Stage], str] = standalone) -> str:
    """Return what an entry opens, as HTML.

    Args:
        entry: Of the catalogue.
        render: How a stage becomes HTML.
    """
    one = entry.verdict
    head = (
        f"<p><b>Without <code>{escape(one.point)}</code>:</b> {escape(entry.outcome)}"
        "</p>"
    )
    facts = [("Flow", escape(entry.flow)), ("Kind", escape(entry.kind))]
    if one.error:
        facts.append(("First broken rule", escape(one.error)))
    if one.harm is not None:
        facts.append(("Harm", escape(one.harm.error)))
        try:
            head = render(replayed(one.point))
        except InputError as gone:  # the verdict is older than the flows, and says so
            facts.append(("Replay", escape(str(gone))))
    elif one.verdict == verdicts.BREAKS:
        facts.append(("Harm", "No continuation that was tried ends in harm."))
    if one.why:
        facts.append(("Why nothing breaks", escape(one.why)))
    facts.append(("Searched", escape(entry.searched)))
    facts += [
        ("Commit", f"{_commit(commit)}: {escape(subject)}")
        for commit, subject in entry.commits
    ]
    if entry.history is not None:
        past = entry.history
        source = ", ".join(filter(None, [_commit(past.commit), past.record]))
        facts.append(
            ("In the real kernel", f"{escape(past.text)} {source}: {past.subject}.")
        )
    rows = "".join(f"<dt>{name}</dt><dd>{said}</dd>" for name, said in facts)
    return f'<div class="tlbkit-detail">{head}<dl>{rows}</dl></div>'


def _commit(commit: str) -> str:
    return f'<a href="{SOURCE}{commit}"><code>{commit}</code></a>'


def page(gallery: Gallery) -> str:
    """Return the list as HTML, for a page that has the script and the fragments."""
    menus = "".join(
        f'<label>{label} <select name="{name}" autocomplete="off">'
        '<option value="">all</option>'
        + "".join(
            f'<option value="{escape(_key(name, choice))}">{escape(choice)}</option>'
            for choice in choices(gallery, name)
        )
        + "</select></label>"
        for name, (label, _) in FILTERS.items()
    )
    items = "".join(map(_item, gallery.entries))
    return (
        '<section class="tlbkit-gallery" aria-label="The gallery">'
        f'<fieldset class="tlbkit-filters" disabled><label>Name <input type="search"'
        f' name="name" autocomplete="off" spellcheck="false"></label>{menus}'
        '<label><input type="checkbox" name="history" autocomplete="off"> happened'
        " in the real kernel</label></fieldset>"
        f'<p role="status">{len(gallery.entries)} points. Opening them needs '
        "JavaScript.</p>"
        f'<ul class="tlbkit-points" tabindex="0" aria-label="Points">{items}</ul>'
        '<div class="tlbkit-opened" aria-live="polite"></div></section>'
    )


def _key(name: str, choice: str) -> str:
    """Return what items say of themselves where a filter has this choice."""
    return choice.partition(" ")[0] if name == "commit" else choice


def _item(entry: Entry) -> str:
    commits = "|".join(commit for commit, _ in entry.commits)
    past = " past" if entry.history else ""
    return (
        f'<li data-flow="{escape(entry.flow)}" data-kind="{escape(entry.kind)}"'
        f' data-outcome="{escape(entry.outcome)}" data-commit="{escape(commits)}"'
        f' data-history="{"yes" if entry.history else ""}">'
        f'<button type="button" disabled data-open="{slug(entry.verdict.point)}"'
        f' class="tlbkit-point{past}"><code>{escape(entry.verdict.point)}</code>'
        f"<small>{escape(entry.flow)} · {escape(entry.outcome)}</small></button></li>"
    )
