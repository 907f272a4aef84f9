"""drivers/."""
