from __future__ import annotations

from pathlib import Path

import pytest
from support.checkpoints import HIDDEN, save_checkpoint
from support.evidence import make_arms, make_policy

from sw_audit.checkpoint.stored import Size
from sw_audit.checks.judging import list_checks
from sw_audit.policy.policy import CorpusPolicy, ModelPolicy, Policy
from sw_audit.record.arm import ZeroedExpert, ZeroedExperts
from sw_audit.runner.assignments import Assignment
from sw_audit.runner.fitting import (
    PROGRAM,
    count_arms,
    count_fitting,
    estimate_weights,
    list_needs,
    memory_needed,
    tell_fitting,
)

GB = 1_000_000_000


def test_the_arms_are_those_of_a_model_with_one_super_weight() -> None:
    policy = make_policy("it")
    checks = [check.id for check in list_checks(policy)]
    # What else SmoothQuant's search turns up is known only when it has searched.
    arms = [arm for arm in make_arms(policy) if not arm.name.endswith("searched")]
    # Which experts are tried is known when the text has been routed.
    arms = [arm for arm in arms if not isinstance(arm.purpose, ZeroedExpert | ZeroedExperts)]
    assert count_arms(policy, checks, descends=False) == len(arms)
    assert count_arms(policy, ["super-weight-located"], descends=False) == 1
    assert count_arms(policy, checks, descends=True) == 3


def test_a_parent_is_whole_alone_or_there_by_layers_beside_the_model() -> None:
    def make(memory: int, layer: int) -> Size:
        return Size("plain", 1, memory, memory, layer, memory, 8, 4, None)

    assert estimate_weights(make(100, 10), None) == 110
    assert estimate_weights(make(30, 3), make(100, 10)) == 100
    assert estimate_weights(make(95, 9), make(100, 10)) == 114


def test_what_is_needed_is_the_weights_and_the_states_of_all_arms(tmp_path: Path) -> None:
    for name in ("llama", "w4"):
        save_checkpoint(tmp_path / name)
    parent = ModelPolicy(source=str(tmp_path / "llama"))
    model = ModelPolicy(source=str(tmp_path / "w4"), parent=str(tmp_path / "llama"))
    policy = Policy(models=(parent, model), corpus=CorpusPolicy(source="english", window=32, windows=10))
    plain = sum(path.stat().st_size for path in (tmp_path / "llama").glob("*.safetensors"))
    streams = 3 * 10 * 32 * HIDDEN * 4
    needed = memory_needed(policy, model)
    assert needed is not None
    # Both are float32, and of two layers the larger is at most the whole.
    assert plain * 0.9 + streams < needed < plain * 3 + streams
    assert memory_needed(policy.model_copy(update={"memory": 1000}), model) == 1000
    known = policy.model_copy(update={"models": (*policy.models, ModelPolicy(source="gone", id="gone"))})
    alone, beside, gone = list_needs([Assignment("", "it", known, {})])
    assert (alone, beside, gone) == (memory_needed(policy, parent), needed, None)


@pytest.mark.parametrize(
    ("needs", "available", "fitting"),
    [
        ([1, 1, 1], 3 * (PROGRAM + 1), 3),
        ([1, 1, 1], 3 * (PROGRAM + 1) - 1, 2),
        ([5 * GB, 0, 0], 5 * GB + 2 * PROGRAM, 2),
        ([5 * GB, 0, 0], 0, 1),
        ([None, None], 2 * PROGRAM, 2),
        ([], 0, 1),
    ],
    ids=["all", "a byte short", "the largest first", "nothing free", "not known", "no model"],
)
def test_as_many_fit_as_do_whichever_come_together(needs: list[int | None], available: int, fitting: int) -> None:
    assert count_fitting(needs, available) == fitting


def test_what_does_not_fit_is_told_and_what_does_is_not() -> None:
    needs = [2 * GB, 3 * GB, None]
    assert tell_fitting(needs, 2, 2 * PROGRAM + 5 * GB) is None
    assert tell_fitting(needs, 8, 2 * PROGRAM + 5 * GB) == (
        "3 models at once may take 5.89 GiB of memory, and 5.48 GiB are free: 2 at once will fit"
    )
