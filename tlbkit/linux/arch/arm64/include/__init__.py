"""Headers of the arm64 port."""
