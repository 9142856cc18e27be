from __future__ import annotations

from typing import Any

import pytest
from support.evidence import make_evidence

from sw_audit.checks.context import StaticContext
from sw_audit.checks.merge_replays import merge_replays
from sw_audit.policy.policy import ModelPolicy, Policy
from sw_audit.record.files import ComparedFiles, ReplayedMerge, ReplayedTensor, Uncompared
from sw_audit.record.verdict import Status, Verdict

DOWN, HEAD = "model.layers.1.mlp.down_proj.weight", "lm_head.weight"


def judge(*tensors: ReplayedTensor, adapter: str | None = "out/adapter", **facts: Any) -> Verdict:
    """Judge a merge of 57 tensors, two of them touched; without facts nobody did it again."""
    evidence = make_evidence()
    merge = ReplayedMerge(**{"adapter": "out/adapter", "compared": 57, "touched": 2, "tensors": tensors, **facts})
    if facts.get("compared") != 0 or "obstacle" in facts:
        evidence = evidence.model_copy(update={"files": ComparedFiles(merge=merge)})
    model = ModelPolicy(source="x", id=evidence.id, parent="base", adapter=adapter)
    return merge_replays.rule(StaticContext(merge_replays, evidence, Policy(models=(model,))))


def off(ulps: float | None, applied: float | None = 1.0, uncertain: float = 1e-6, **facts: Any) -> ReplayedTensor:
    return ReplayedTensor(
        **{"name": DOWN, "touched": True, "ulps": ulps, "applied": applied, "uncertain": uncertain, **facts}
    )


def test_a_merge_that_is_bit_for_bit_the_same_passes() -> None:
    verdict = judge(equal=57)
    assert (verdict.status, verdict.observed, verdict.limit) == (Status.PASS, 0, 4)
    assert verdict.because == "57 of 57 tensors are bit for bit what the merge gives, and the adapter touches 2."


@pytest.mark.parametrize(
    ("tensor", "status"),
    [
        (off(4.0), Status.PASS),
        (off(4.1), Status.FAIL),
        (off(1.0, applied=1.009), Status.PASS),
        (off(1.0, applied=1.02), Status.FAIL),
        (off(1.0, applied=1.02, uncertain=0.005), Status.PASS),  # five standard errors
        (off(1.0, applied=None), Status.PASS),
        (off(None, applied=None), Status.FAIL),
        (off(1e-3, applied=None, touched=False, name=HEAD), Status.FAIL),
    ],
)
def test_one_tensor_decides(tensor: ReplayedTensor, status: Status) -> None:
    assert judge(tensor, equal=56).status is status


def test_a_merge_with_half_the_scale_says_so() -> None:
    verdict = judge(off(30.5, applied=0.5), equal=56)
    words = "it is 30.5 units in the last place from what the merge gives, with 0.5 of the adapter's change"
    assert verdict.because.endswith(f"; {DOWN}: {words}.")
    assert verdict.observed == 30.5
    assert verdict.remedy is not None


def test_a_base_that_the_adapter_names_and_that_is_not_the_parent_is_told() -> None:
    verdict = judge(base="out/base")
    assert verdict.status is Status.PASS
    words = "the adapter names out/base as its base, whose files are not the parent's."
    assert verdict.because.endswith(f"; {words}")
    assert verdict.findings[0].label == "out/base"


def test_a_part_of_the_adapter_that_the_model_has_not_fails() -> None:
    assert judge(equal=57, unplaced=("model.layers.9.q_proj.weight",)).status is Status.FAIL


def test_without_an_adapter_it_is_skipped_and_what_was_not_replayed_passes_nothing() -> None:
    assert judge(adapter=None).status is Status.SKIPPED
    assert judge(compared=0).status is Status.INCONCLUSIVE
    verdict = judge(compared=0, obstacle="the adapter is of type LOHA")
    assert (verdict.status, verdict.because) == (
        Status.INCONCLUSIVE,
        "The merge was not done again: the adapter is of type LOHA.",
    )
    left_out = Uncompared(because="only one of the two has them", count=3, first="a")
    assert judge(touched=0, uncompared=(left_out,)).status is Status.INCONCLUSIVE
