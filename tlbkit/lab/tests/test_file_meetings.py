"""What each step is for of flows that meet at a page of a file."""

import pytest

from tlbkit.explore.search import explore
from tlbkit.lab.gallery.file_meetings import FILE_MEETINGS


@pytest.mark.parametrize(
    ("name", "without"),
    [
        ("write back", "tlbi in folio_mkclean"),
        ("write back", "dsb ish in folio_mkclean"),
        ("write back and unmap", "tlb_delay_rmap in zap_present_folio_ptes"),
        ("truncate", "tlbi in unmap_mapping_pages"),
    ],
)
def test_what_is_taken_out_is_missed(name, without):
    """Without the step a schedule with few preemptions breaks a rule."""
    search = explore(FILE_MEETINGS[name].scenario({without}), preemptions=2)
    assert search.breach is not None
