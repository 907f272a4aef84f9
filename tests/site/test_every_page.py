"""Every page opens clean, by day and by night, on a desk and on a phone.

Apart from the other tests of the site, so that another process can run it beside them.
"""

import pytest
from looks import check

SHARES = 8


@pytest.mark.parametrize("share", range(SHARES))
def test_every_page_opens_clean(site, visit, share):
    """No console error, no foreign request, no unnamed control, no overflow."""
    pages = site.pages()[share::SHARES]
    assert pages
    for address in pages:
        check(visit, address)
