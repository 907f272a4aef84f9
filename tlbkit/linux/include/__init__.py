"""Headers."""
