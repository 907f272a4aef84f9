"""Traces of other people's programs: read, replayed on several kernels, and counted."""

from tlbkit.lab.trace.answer import TraceAnswer
from tlbkit.lab.trace.replay import POLICIES, Policy
from tlbkit.lab.trace.result import Replayed, Share
from tlbkit.lab.trace.survey import survey
from tlbkit.lab.trace.trace import Trace

__all__ = ["POLICIES", "Policy", "Replayed", "Share", "Trace", "TraceAnswer", "survey"]
