"""The Jupyter rendering of the gallery: menus, a list, and what it opens."""

from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from tlbkit.show.gallery import FILTERS, choices, detail

if TYPE_CHECKING:
    from tlbkit.show.gallery import Gallery

_ALL = "all"


def gallery_widget(gallery: "Gallery") -> widgets.VBox:
    """Return the gallery as a widget; an entry's replay is made when it is opened."""
    menus = {
        name: widgets.Dropdown(
            options=[_ALL, *choices(gallery, name)],
            description=label,
            style={"description_width": "9em"},
        )
        for name, (label, _) in FILTERS.items()
    }
    points = widgets.Select(rows=12, layout={"width": "auto"})
    opened = widgets.Output()
    wanted = {entry.verdict.point: entry for entry in gallery.entries}

    def narrow(_: Any = None) -> None:
        points.options = [
            point
            for point, entry in wanted.items()
            if all(
                menu.value == _ALL or menu.value in FILTERS[name][1](entry)
                for name, menu in menus.items()
            )
        ]

    def show(_: Any = None) -> None:
        told = detail(wanted[points.value]) if points.value is not None else ""
        data = {"text/html": told, "text/plain": str(points.value)}
        opened.outputs = (
            {"output_type": "display_data", "data": data, "metadata": {}},
        )

    for menu in menus.values():
        menu.observe(narrow, names="value")
    points.observe(show, names="value")
    narrow()
    return widgets.VBox([*menus.values(), points, opened])
