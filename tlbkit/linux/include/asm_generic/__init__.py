"""include/asm-generic."""
