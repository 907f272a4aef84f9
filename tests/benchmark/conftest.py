"""A benchmark is no test: it is run by hand, and its peers are not installed for tests."""

collect_ignore = ["run.py"]
