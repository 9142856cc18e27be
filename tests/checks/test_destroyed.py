from __future__ import annotations

import math

import pytest
from support.evidence import BASELINE_PERPLEXITY, HEALTHY, make_evidence, make_policy

from sw_audit.checks.context import CheckContext
from sw_audit.checks.destroyed import explain_both_destroyed, explain_destroyed
from sw_audit.checks.registry import find_checks
from sw_audit.record.arm import BASELINE, FLIPPED, PRUNED


def make_context(entropy: float | None = None, omit: tuple[str, ...] = (), **ratios: float | None) -> CheckContext:
    evidence = make_evidence(ratios={**HEALTHY, **ratios}, omit=omit)
    evidence = evidence.model_copy(update={"unigram_nats": entropy})
    return CheckContext(find_checks()["prune-collapses"], evidence, make_policy())


@pytest.mark.parametrize(("ratio", "destroyed"), [(99.9, False), (100.1, True), (1e9, True), (None, True)])
def test_an_arm_of_more_than_a_hundred_times_the_perplexity_is_destroyed(
    ratio: float | None, destroyed: bool
) -> None:
    assert (explain_destroyed(make_context(pruned=ratio), PRUNED) is not None) is destroyed


def test_an_arm_that_predicts_worse_than_the_frequencies_of_tokens_is_destroyed() -> None:
    base = math.log(BASELINE_PERPLEXITY)
    reason = explain_destroyed(make_context(base + math.log(30), pruned=31.0), PRUNED)
    assert reason is not None
    assert "how frequent each token is" in reason
    assert explain_destroyed(make_context(base + math.log(32), pruned=31.0), PRUNED) is None
    # A model that is no better as it is, such as one without training, is no measure.
    assert explain_destroyed(make_context(base - 0.1, pruned=31.0), PRUNED) is None


def test_the_model_as_it_is_is_never_destroyed_nor_what_was_not_measured() -> None:
    assert explain_destroyed(make_context(0.1), BASELINE.purpose) is None
    assert explain_destroyed(make_context(omit=(PRUNED.name,)), PRUNED) is None


def test_two_arms_are_destroyed_only_where_both_are() -> None:
    assert explain_both_destroyed(make_context(pruned=500.0, flipped=60.0), PRUNED, FLIPPED) is None
    words = explain_both_destroyed(make_context(pruned=500.0, flipped=None), PRUNED, FLIPPED)
    assert words == (
        "both arms are destroyed: pruned: its perplexity is 3,125, over 100 times that of the model as it is; "
        "flipped: it is not finite"
    )
