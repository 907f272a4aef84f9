"""The machine: only what the Arm architecture defines."""
