"""A benchmark is no test: it is run by hand, and its peers are not installed here."""

collect_ignore = ["answers.py", "run.py", "starts.py"]
