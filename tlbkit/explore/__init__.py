"""Interleavings: the reader is the scheduler.

`tlbkit.explore.search` looks for the shortest schedule that breaks a rule, over flows
of `tlbkit.explore.scheduler`; `tlbkit.explore.graph` draws all schedules of a small
scenario. They need greenlet; `tlbkit.explore.litmus`, which runs litmus tests, does
not.
"""
