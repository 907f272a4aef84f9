"""History: what each commit is, and the code as it stood before it.

:mod:`~tlbkit.patches.registry` is the list, one module beside it for each commit;
:mod:`~tlbkit.patches.build` makes a kernel without some of them.
"""
