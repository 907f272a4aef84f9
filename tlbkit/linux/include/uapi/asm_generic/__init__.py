"""include/uapi/asm-generic."""
