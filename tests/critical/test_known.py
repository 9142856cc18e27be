"""The search, held against planted models and against every scalar of the specimen, zeroed alone.

Both in full are in `tests/benchmarks/bench_critical.py`.
"""

from __future__ import annotations

import pytest
from support.critical_suite import judge_model, list_alone, open_specimen

from sw_audit.critical.search import find_critical_scalars
from sw_audit.policy.policy import CriticalPolicy


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1, 2, 4, 5, 6, 7, 8, 11, 13, 17, 21, 25, 26])
def test_what_was_planted_is_found_and_nothing_inert_is_called_critical(number: int) -> None:
    judged = judge_model(number)
    assert judged.missed == {"alone": (), "together": (), "masks": ()}
    assert judged.false == ()


def test_what_is_called_critical_in_the_specimen_is_so_in_an_exhaustive_search() -> None:
    checkpoint, windows, known = open_specimen()
    search = find_critical_scalars(checkpoint, windows, policy=CriticalPolicy(interventions=("zero",)))
    wanted = {address: ratio for address, ratio in known.items() if ratio >= search.minimum_ratio}
    found = list_alone(search)
    assert found == pytest.approx({address: wanted.get(address) for address in found}, rel=1e-3)
    assert found.keys() >= {address for address, ratio in wanted.items() if ratio >= 2.0}
