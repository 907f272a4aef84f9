"""Figures, widgets and page embedding."""

from tlbkit.show.explorer import Explorer

__all__ = ["Explorer"]
