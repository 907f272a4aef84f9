"""History: what each commit is, and the code as it stood before it."""
