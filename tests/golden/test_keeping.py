"""The comparison itself: what it sees, here and on another machine."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from golden.keeping import find_differences, write_lines

KEPT: dict[str, Any] = {
    "figures": {"a check": {"status": "pass", "observed": 0.1, "low": None}, "another": {"observed": 2}},
    "findings": {"a check / one": {"status": "skipped", "observed": 0.3}},
    "located": {"a model": {"outcome": "located", "super weights": [{"layer": 1, "value": 3.25}]}},
    "sentences": {"a check": "perplexity 1.494 becomes 8.2e-05, times 3"},
}


def change(section: str, key: str, entry: Any) -> dict[str, Any]:
    return {**KEPT, section: {**KEPT[section], key: entry}}


def count(seen: dict[str, Any], *, exact: bool) -> int:
    return len(list(find_differences(KEPT, seen, exact=exact)))


@pytest.mark.parametrize("exact", [True, False])
def test_the_same_is_the_same(*, exact: bool) -> None:
    assert count(KEPT, exact=exact) == 0
    assert json.loads(write_lines(KEPT)) == KEPT
    assert sum('"a check' in line for line in write_lines(KEPT).splitlines()) == 3


def test_the_last_bit_counts_here_and_not_elsewhere() -> None:
    seen = change("figures", "a check", {"status": "pass", "observed": math.nextafter(0.1, 1), "low": None})
    assert (count(seen, exact=True), count(seen, exact=False)) == (1, 0)


def test_numbers_in_sentences_count_here_and_not_elsewhere() -> None:
    seen = change("sentences", "a check", "perplexity 1.495 becomes -8e-05, times 4")
    assert (count(seen, exact=True), count(seen, exact=False)) == (1, 0)


@pytest.mark.parametrize(
    "seen",
    [
        change("findings", "a check / one", {"status": "skipped", "observed": 0.6}),
        change("findings", "a check / another", {"status": "skipped", "observed": 0.6}),
        {**KEPT, "sentences": {}},
    ],
)
def test_what_turns_on_the_last_bit_counts_here_and_not_elsewhere(seen: dict[str, Any]) -> None:
    assert (count(seen, exact=True), count(seen, exact=False)) == (1, 0)


@pytest.mark.parametrize(
    "seen",
    [
        change("figures", "a check", {"status": "fail", "observed": 0.1, "low": None}),
        change("figures", "a check", {"status": "pass", "observed": 0.12, "low": None}),
        change("figures", "a check", {"status": "pass", "observed": 0.1, "low": 0.1}),
        change("figures", "a check", {"status": "pass", "observed": 0.1}),
        change("figures", "another", {"observed": 3}),
        change("figures", "a third", {"observed": 3}),
        change("sentences", "a check", "perplexity 1.494 turns into 8.2e-05, times 3"),
        change("findings", "a check / one", {"status": "fail", "observed": 0.3}),
        change("located", "a model", {"outcome": "located", "super weights": [{"layer": 2, "value": 3.25}]}),
        change("located", "a model", {"outcome": "located", "super weights": [{"layer": 1, "value": 3.26}]}),
        change("located", "a model", {"outcome": "located", "super weights": []}),
        {**KEPT, "figures": {}},
    ],
)
@pytest.mark.parametrize("exact", [True, False])
def test_what_matters_counts_everywhere(seen: dict[str, Any], *, exact: bool) -> None:
    assert count(seen, exact=exact) > 0
