"""drivers/char/."""
