"""A flush sequence of any kernel, in Arm's assembly, judged.

:mod:`~tlbkit.lab.sequence.form` says how one is written,
:mod:`~tlbkit.lab.sequence.judge` what is asked of it, and
:mod:`~tlbkit.lab.sequence.examples` has four that stood in kernels.
"""

from tlbkit.lab.sequence.examples import EXAMPLES
from tlbkit.lab.sequence.form import read_sequence
from tlbkit.lab.sequence.judge import Judgement, judge

__all__ = ["EXAMPLES", "Judgement", "judge", "read_sequence"]
