"""The digest of a page, in the page itself: a page whose words were changed is no longer what it says it is."""

from __future__ import annotations

import hashlib
import re

UNKNOWN_DIGEST = 64 * "0"
"""What stands where the digest will, while the page is digested."""

_PLACE = re.compile(r'<meta name="sw-audit-page-sha256" content="([0-9a-f]{64})">')


def seal_page(page: str) -> str:
    """Put into a page the sha256 of its UTF-8 with zeros in the digest's place, which it must have."""
    return _PLACE.sub(lambda found: found[0].replace(found[1], _digest(page)), page, count=1)


def is_page_whole(page: str) -> bool | None:
    """Whether a page is what its digest was made of; `None` if it carries none."""
    found = _PLACE.search(page)
    return None if found is None else found[1] == _digest(page)


def _digest(page: str) -> str:
    zeros = _PLACE.sub(lambda found: found[0].replace(found[1], UNKNOWN_DIGEST), page, count=1)
    return hashlib.sha256(zeros.encode()).hexdigest()
