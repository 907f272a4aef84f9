"""Scenarios: parameters, a run, a result."""
