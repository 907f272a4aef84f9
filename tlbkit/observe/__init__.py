"""Listeners on the machine's event stream."""
