"""drivers/dax."""
