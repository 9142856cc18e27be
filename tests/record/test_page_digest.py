"""A page says what it is itself, and no byte of it can be changed unseen."""

from __future__ import annotations

import hashlib

import pytest

from sw_audit.record.page_digest import UNKNOWN_DIGEST, is_page_whole, seal_page

PLACE = '<meta name="sw-audit-page-sha256" content="{}">'
OPEN = f"<title>ä</title>{PLACE.format(UNKNOWN_DIGEST)}<p>1.5"


def test_the_digest_is_the_pages_with_zeros_in_its_place() -> None:
    expected = hashlib.sha256(OPEN.encode()).hexdigest()
    assert seal_page(OPEN) == OPEN.replace(UNKNOWN_DIGEST, expected)
    assert is_page_whole(seal_page(OPEN)) is True


@pytest.mark.parametrize(
    "change", [("1.5", "1.6"), ("ä", "a"), ('256" content="', '256" content="0'), ("<p>", "<b>")]
)
def test_a_changed_page_is_not_whole(change: tuple[str, str]) -> None:
    assert not is_page_whole(seal_page(OPEN).replace(*change))


def test_a_page_without_a_digest_tells_nothing() -> None:
    assert is_page_whole("<title>other</title>") is None
