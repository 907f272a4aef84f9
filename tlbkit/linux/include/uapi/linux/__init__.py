"""include/uapi/linux."""
