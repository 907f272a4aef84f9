"""The kernel: a module for each kernel source file, same path, same function names."""
