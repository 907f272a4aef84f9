"""The kernel: a module for each kernel source file, same path, same function names.

A name that begins with two underscores in the kernel ends with one here, since Python
changes such names in classes: ``set_ptes_`` is ``__set_ptes()``, and ``set_ptes``,
which uses it, is ``set_ptes()``. Each function says in its docstring for which it
stands (``Source:``), and how it differs (``Deviates:``).
"""
