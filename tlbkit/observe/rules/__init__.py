"""The rules that the sanitizer holds a kernel to, one module for each kind."""
