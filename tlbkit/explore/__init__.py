"""Interleavings: the reader is the scheduler."""
