"""The kernel: one module for each kernel source file, same path, same function names."""
