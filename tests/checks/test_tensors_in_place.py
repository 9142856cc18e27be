from __future__ import annotations

from typing import Any, get_args

import pytest
from support.descent import make_descent_policy
from support.evidence import make_evidence

from sw_audit.checks.context import StaticContext
from sw_audit.checks.tensors_in_place import tensors_in_place
from sw_audit.record.files import ChangedTensor, ComparedFiles, ComparedTensors, TensorChange, Uncompared
from sw_audit.record.verdict import Status, Verdict

GATE, QUERY = "model.layers.2.mlp.gate_proj.weight", "model.layers.2.self_attn.q_proj.weight"
SWAPPED = ChangedTensor(
    name=GATE, change="swapped", nearest="model.layers.4.mlp.gate_proj.weight", own=0.02, other=1
)
ZEROED = ChangedTensor(name=GATE, change="zeroed", axis="rows", indices=tuple(range(8)), count=20, of=192)
FLIPPED = ChangedTensor(name=QUERY, change="flipped", axis="rows", indices=(7,), of=64, own=0.97)


def judge(*changed: ChangedTensor, limits: dict[str, Any] | None = None, **facts: Any) -> Verdict:
    counts = dict[TensorChange, int]()
    for one in changed:
        if one.serious:
            counts[one.change] = counts.get(one.change, 0) + 1
    compared = ComparedTensors(**{"compared": 57, "equal": 50, "changed": changed, "counts": counts, **facts})
    evidence = make_evidence().model_copy(update={"files": ComparedFiles(tensors=compared)})
    policy = make_descent_policy()
    if limits is not None:
        policy = policy.model_validate({**policy.model_dump(), "checks": {tensors_in_place.id: limits}})
    return tensors_in_place.rule(StaticContext(tensors_in_place, evidence, policy))


def test_tensors_in_their_places_pass() -> None:
    verdict = judge()
    assert (verdict.status, verdict.observed, verdict.limit, verdict.remedy) == (Status.PASS, 0, 0, None)
    assert verdict.because == "57 tensors are nearest to their own in the parent, 50 of them equal."


def test_an_adapters_base_that_is_not_the_parent_is_told_and_passes_if_its_tensors_do() -> None:
    verdict = judge(base="out/base")
    assert verdict.status is Status.PASS
    assert verdict.because == (
        "its base out/base is not the parent by its files: 57 tensors are nearest to their own in the parent, "
        "50 of them equal."
    )
    assert [(one.label, one.because) for one in verdict.findings] == [
        (
            "out/base",
            "The adapter goes on this, whose files are not the parent's; "
            "50 of 57 tensors are equal to the parent's.",
        )
    ]
    assert judge(SWAPPED, base="out/base").status is Status.FAIL


def test_a_tensor_that_is_anothers_fails_and_is_named_with_both_cosines() -> None:
    verdict = judge(SWAPPED, FLIPPED)
    assert (verdict.status, verdict.observed) == (Status.FAIL, 2)
    assert verdict.because == (
        f"{GATE}: it has changed places with the parent's model.layers.4.mlp.gate_proj.weight "
        "(cosine 0.02 with its own, 1 with that) (and 1 more)."
    )
    assert verdict.findings[1].because == "1 of its 64 rows (7) is the parent's times -1."


def test_rows_that_became_zero_fail_unless_the_policy_lets_so_many() -> None:
    verdict = judge(ZEROED)
    assert (
        verdict.because
        == f"{GATE}: 20 of its 192 rows (0, 1, 2, 3, 4, 5, 6, 7, ...) are zero, and not in the parent."
    )
    assert verdict.status is Status.FAIL
    assert judge(ZEROED, limits={"maximum_zeroed": 20 / 192}).status is Status.PASS
    assert judge(ZEROED, limits={"maximum_zeroed": 19 / 192}).status is Status.FAIL
    assert judge(FLIPPED, limits={"maximum_zeroed": 1.0, "maximum_misplaced": 9}).status is Status.FAIL


def test_layers_left_out_on_purpose_are_allowed_by_number() -> None:
    missing = ChangedTensor(name="model.layers.5", change="missing", count=9, of=9)
    assert judge(SWAPPED, missing, limits={"maximum_misplaced": 1}).status is Status.FAIL
    assert judge(SWAPPED, missing, limits={"maximum_misplaced": 2}).status is Status.PASS


def test_what_sound_compression_makes_too_is_told_and_fails_nothing() -> None:
    verdict = judge(ZEROED.model_copy(update={"serious": False, "axis": "columns"}), rotated=3)
    assert verdict.status is Status.PASS
    assert [finding.status for finding in verdict.findings] == [Status.SKIPPED]
    assert verdict.because.endswith("; 3 were multiplied by an orthogonal matrix.")


def test_where_nothing_could_be_compared_it_is_skipped_with_the_reason() -> None:
    verdict = judge(compared=0, equal=0, uncompared=(Uncompared(because="it is an adapter", count=4, first="a"),))
    assert (verdict.status, verdict.because) == (
        Status.SKIPPED,
        "No tensor was compared: 4 not compared: it is an adapter.",
    )


def test_a_part_of_the_tensors_is_not_taken_for_all_of_them() -> None:
    packed = Uncompared(because="its codes cannot be read from files here", count=42, first="a")
    assert judge(compared=15, uncompared=(packed,)).status is Status.SKIPPED
    assert judge(compared=43, uncompared=(packed,)).status is Status.PASS
    assert judge(SWAPPED, compared=15, uncompared=(packed,)).status is Status.FAIL


def test_files_that_nobody_compared_pass_nothing() -> None:
    context = StaticContext(tensors_in_place, make_evidence(), make_descent_policy())
    assert tensors_in_place.rule(context).status is Status.INCONCLUSIVE


@pytest.mark.parametrize("change", get_args(TensorChange))
def test_every_change_has_its_words(change: TensorChange) -> None:
    one = ChangedTensor(name=GATE, change=change, axis="rows", indices=(3,), of=64, nearest="4")
    assert judge(one).because.startswith(f"{GATE}: ")
