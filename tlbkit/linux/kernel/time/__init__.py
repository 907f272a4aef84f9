"""kernel/time/."""
