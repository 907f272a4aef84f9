"""The Jupyter rendering of players: ipywidgets that move through the same texts."""

from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from tlbkit.show.film import state
from tlbkit.show.player_page import rows_html, steps_html

if TYPE_CHECKING:
    from collections.abc import Callable

    from tlbkit.show.film import Film
    from tlbkit.show.replay import Replay
    from tlbkit.show.turns import Turns

_STYLE = (
    "<style>.tlbkit-steps { max-height: 16em; overflow: auto; margin: 0; padding: 0;"
    " list-style: none; line-height: 1.5 }"
    " .tlbkit-steps li { padding-left: calc(var(--depth) * 1em) }"
    " .tlbkit-steps .here { font-weight: bold }"
    " .tlbkit-rows :is(th, td) { text-align: left; padding: 0 1em 0 0 }</style>"
)


def _button(text: str, act: "Callable[[], None]") -> widgets.Button:
    button = widgets.Button(description=text, layout={"width": "auto"})
    button.on_click(lambda _: act())
    return button


def _table(rows: dict[str, str]) -> str:
    return (
        f'{_STYLE}<table class="tlbkit-rows"><tbody>{rows_html(rows)}</tbody></table>'
    )


def _steps(film: "Film", at: int) -> str:
    """Return the steps, with a mark at the one that was taken last."""
    items = steps_html(film)
    if 0 < at <= len(film["steps"]):
        here = f'<li data-step="{at - 1}"'
        items = items.replace(here, f'<li class="here" data-step="{at - 1}"', 1)
    return f'{_STYLE}<ol class="tlbkit-steps">{items}</ol>'


def _said(film: "Film", at: int) -> str:
    """Say what the last step was."""
    if not at:
        return "At the start."
    if at > len(film["steps"]):
        return "At the end."
    cpu, text, why, _ = film["steps"][at - 1]
    said, reason = film["texts"][text], film["texts"][why]
    return f"CPU {cpu}: {said}" + ("" if reason in said else f", {reason}")


def replay_widget(player: "Replay") -> widgets.VBox:
    """Return the replay as a widget."""
    films = player.films
    longest = max(len(one["steps"]) for one in films)
    where = widgets.IntSlider(player.at, 0, longest, description="Position")
    status = widgets.HTML()
    lists = [widgets.HTML() for _ in films]
    tables = [widgets.HTML() for _ in films]

    def show(_: Any = None) -> None:
        at = where.value
        said = dict.fromkeys(_said(one, at) for one in films)
        status.value = f'<p role="status">{escape(" — ".join(said))}</p>'
        for one, steps, table in zip(films, lists, tables, strict=True):
            steps.value = _steps(one, at)
            table.value = _table(dict(state(one, at)))

    def go(position: int) -> None:
        where.value = max(0, min(position, longest))

    def over() -> None:
        groups = films[0]["groups"]
        ends = [last + 1 for _, first, last, _ in groups if first == where.value]
        go(max([where.value + 1, *ends]))

    def over_back() -> None:
        groups = films[0]["groups"]
        starts = [first for _, first, last, _ in groups if last == where.value - 1]
        go(min([where.value - 1, *starts]))

    buttons = [
        _button("Back over", over_back),
        _button("Back", lambda: go(where.value - 1)),
        _button("Step", lambda: go(where.value + 1)),
        _button("Step over", over),
    ]
    difference = player.difference
    if difference is not None:
        buttons.append(_button("First difference", lambda: go(difference + 1)))
    where.observe(show, names="value")
    show()
    takes = [
        widgets.VBox([widgets.HTML(f"<b>{escape(name)}</b>"), steps, table])
        for name, steps, table in zip(player.names, lists, tables, strict=True)
    ]
    return widgets.VBox(
        [
            widgets.HTML(
                f"<b>{escape(player.title)}</b><p>{escape(player.summary)}</p>"
            ),
            widgets.HBox(buttons, layout={"flex_flow": "row wrap"}),
            where,
            status,
            widgets.HBox(takes, layout={"flex_flow": "row wrap"}),
        ]
    )


def turns_widget(player: "Turns") -> widgets.VBox:
    """Return the game as a widget."""
    taken: list[tuple[str, int, str]] = []
    status = widgets.HTML()
    table = widgets.HTML()
    path = widgets.HTML()
    choices = widgets.VBox()

    def here() -> int:
        return taken[-1][1] if taken else 0

    def show() -> None:
        node = here()
        choices.children = [
            _button(f"{choice[0]}: {choice[2]}", partial(choose, choice))
            for choice in player.choices(node)
        ]
        waits = "".join(f"<p>{escape(text)}</p>" for text in player.waits(node))
        said = player.end(node) or (f"{taken[-1][0]}: {taken[-1][2]}." if taken else "")
        status.value = f'<p role="status">{escape(said or "The start.")}</p>{waits}'
        table.value = _table(player.shows(node))
        steps = "".join(
            f"<li>{escape(f'{who}: {what}')}</li>" for who, _, what in taken
        )
        path.value = f"<ol>{steps}</ol>"

    def choose(choice: tuple[str, int, str]) -> None:
        taken.append(choice)
        show()

    def undo() -> None:
        del taken[-1:]
        show()

    def restart() -> None:
        taken.clear()
        show()

    def worst() -> None:
        taken[:] = player.way(player.worst())
        show()

    show()
    buttons = [
        _button("Undo", undo),
        _button("Start again", restart),
        _button("Show me a way that ends it", worst),
    ]
    return widgets.VBox(
        [
            widgets.HTML(
                f"<b>{escape(player.title)}</b><p>{escape(player.summary)}</p>"
            ),
            widgets.HTML("Who goes on?"),
            choices,
            widgets.HBox(buttons, layout={"flex_flow": "row wrap"}),
            status,
            widgets.HBox([table, path], layout={"flex_flow": "row wrap"}),
        ]
    )
