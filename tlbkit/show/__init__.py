"""Figures, widgets and page embedding."""
