"""The gallery: whatever can be taken out of the flows, and what happens then.

`meetings` are flows that interleave, `census` finds everything that can be taken out of
them, `levels` are meetings for a reader to schedule by hand.
"""
