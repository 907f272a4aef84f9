"""What holds for all tests: none is timed, so none fails on a busy machine.

The profile "nightly" looks for failures far longer; `TLBKIT_HYPOTHESIS` names it.
"""

import os

from hypothesis import settings

settings.register_profile("untimed", deadline=None)
settings.register_profile("nightly", deadline=None, max_examples=2000)
settings.load_profile(os.environ.get("TLBKIT_HYPOTHESIS", "untimed"))
