from __future__ import annotations

import pytest
from support.descent import judge_descent, with_agreement

from sw_audit.record.verdict import Status


@pytest.mark.parametrize(
    ("same", "status"), [(63, Status.PASS), (56, Status.PASS), (54, Status.INCONCLUSIVE), (50, Status.FAIL)]
)
def test_agreement_is_a_share_of_all_tokens(same: int, status: Status) -> None:
    # 56 / 63 = 0.889, 54 / 63 = 0.857 and 50 / 63 = 0.794; of 2,016 tokens a share is known to 0.016.
    verdict = judge_descent("top1-agreement", with_agreement(same=same))
    assert verdict.status is status
    assert verdict.observed == pytest.approx(same / 63)
