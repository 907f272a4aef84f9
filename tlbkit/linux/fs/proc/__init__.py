"""fs/proc/."""
