"""What a search for critical scalars comes to, in words."""

from __future__ import annotations

import pytest
from support.critical import (
    GAIN,
    LOCATED,
    NORM,
    make_rich_search,
    make_scalar,
    make_search,
    make_searched_location,
)
from support.evidence import make_location

from sw_audit.record.critical import CriticalSearch
from sw_audit.record.location import Outcome


@pytest.mark.parametrize(
    ("search", "words"),
    [
        (
            make_rich_search(),
            "on wikitext (2 windows of 96 tokens) 6 of 128 candidates matter: 3 alone, 2 only together, 1 by "
            "masking the damage of the located set",
        ),
        (
            make_search(make_scalar(NORM, 1, ratio=3.0), own_text=True, windows=1),
            "on text that the model wrote itself (1 window of 96 tokens) 1 of 128 candidates matters: 1 alone",
        ),
        (
            make_search(make_scalar(NORM, 1, kind=None), candidates=7),
            "on wikitext (2 windows of 96 tokens) none of 7 candidates is known to multiply perplexity by 1.1 or "
            "more",
        ),
    ],
)
def test_a_search_says_how_many_candidates_matter_and_how(search: CriticalSearch, words: str) -> None:
    assert search.summary == words


def test_the_costliest_is_the_first_that_matters_alone() -> None:
    pair = make_scalar(GAIN, 1, effect=None, kind="together", set=0)
    alone = make_scalar(NORM, 2, ratio=None)
    assert make_search(pair, alone, make_scalar(NORM, 3, ratio=9.0)).costliest == alone
    assert make_search(pair).costliest is None


def test_the_located_set_says_what_depends_on_it_where_somebody_tried() -> None:
    assert make_location().impacts is None
    assert make_location(Outcome.NONE).impacts is None
    inert = make_searched_location("inert")
    assert inert.impacts == "located super weights: 1 inert"
    both = (*inert.super_weights, *make_searched_location().super_weights)
    mixed = inert.model_copy(update={"super_weights": both})
    assert mixed.impacts == "located super weights: 1 inert, 1 bearing"
    assert inert.super_weights[0].address.scalar == LOCATED
