"""What is put back next: the plan follows from what was measured, one step at a time, and comes to an end."""

from __future__ import annotations

from typing import Any

import pytest
from support.descent import make_descent_evidence, make_descent_policy, make_text

from sw_audit.checks.judging import judge_result
from sw_audit.checks.recovery_plan import RecoveryPlan, plan_recovery
from sw_audit.record.arm import DESCENDANT, RESTORED_SCALARS, RESTORED_WEIGHTS, RestoredKind, RestoredSet

KINDS = {name: RestoredKind(path=f"mlp.{name}_proj") for name in ("up", "gate", "down")}
UP, GATE, DOWN = KINDS.values()
ALONE = {UP.name: 6.0, GATE.name: 5.0, DOWN.name: 4.0, "parent-layers": 1.0}


def plan(
    recovery: dict[str, float | None] | None = None,
    *,
    lost: float | None = 8.0,
    weights: float = 6.0,
    scalars: float = 6.0,
    windows: int = 32,
    total: int = 90,
    **policy: Any,
) -> RecoveryPlan | None:
    """Plan for a descendant of `lost` times its parent's perplexity.

    It is `weights` times that with the super weights put back, and `scalars` times with all critical scalars.
    """
    ratios = {DESCENDANT.name: lost, RESTORED_WEIGHTS.name: weights, RESTORED_SCALARS.name: scalars}
    text = make_text(ratios, windows=windows)
    found = None if recovery is None else make_text({DESCENDANT.name: 8.0, **recovery}, windows=8)
    evidence = make_descent_evidence(text, recovery=found, modules=total)
    asked = make_descent_policy(**policy)
    verdicts = judge_result(evidence, asked, ["perplexity-ratio"])
    return plan_recovery(evidence.model_copy(update={"verdicts": verdicts}), asked)


def list_sets(recovery: dict[str, float | None], **policy: Any) -> tuple[RestoredSet, ...]:
    planned = plan(recovery, **policy)
    return () if planned is None else planned.sets


def together(*parts: RestoredKind) -> RestoredSet:
    return RestoredSet(parts=parts)


def test_first_single_parts_are_put_back_on_about_a_thousand_tokens_in_short_windows() -> None:
    planned = plan(modules=3, layers=1)
    assert planned is not None
    assert (planned.modules, planned.layers, planned.sets) == (3, 1, ())
    assert (planned.window, planned.windows) == (64, 16)


def test_nothing_is_looked_for_where_nothing_is_asked_or_the_super_weights_will_do() -> None:
    assert plan(lost=1.0) is None
    assert plan(weights=1.2) is None
    assert plan(scalars=1.2) is None
    assert plan(windows=3) is None
    assert plan(modules=0) is None
    assert plan(lost=None) is not None


def test_the_two_best_others_are_tried_beside_the_best() -> None:
    assert list_sets(ALONE) == (together(DOWN, GATE), together(DOWN, UP))
    other = RestoredKind(path="self_attn.q_proj")
    assert list_sets({**ALONE, other.name: 5.5}) == (together(DOWN, GATE), together(DOWN, other))


def test_each_step_goes_on_from_the_best_set_of_the_one_before() -> None:
    second = {**ALONE, together(DOWN, GATE).name: 2.0, together(DOWN, UP).name: 2.5}
    assert list_sets(second) == (together(DOWN, GATE, UP),)
    turned = {**ALONE, together(DOWN, GATE).name: 2.5, together(DOWN, UP).name: 2.0}
    assert list_sets(turned) == (together(DOWN, UP, GATE),)


@pytest.mark.parametrize(
    ("recovery", "policy"),
    [
        pytest.param({**ALONE, DOWN.name: 1.1}, {}, id="one part will do"),
        pytest.param(ALONE, {"parts": 1}, id="no more parts are allowed"),
        pytest.param(
            {**ALONE, together(DOWN, GATE).name: 4.0, together(DOWN, UP).name: 4.5}, {}, id="nothing added"
        ),
        pytest.param({DOWN.name: 4.0, "parent-layers": 1.0}, {}, id="nothing else is there"),
        pytest.param({UP.name: 8.1, DOWN.name: 9.0}, {}, id="nothing recovers"),
        pytest.param({}, {}, id="nothing differs"),
    ],
)
def test_the_search_comes_to_an_end(recovery: dict[str, float | None], policy: dict[str, Any]) -> None:
    assert plan(recovery, **policy) is None


def test_sets_of_more_than_a_third_of_all_modules_are_not_tried() -> None:
    second = {**ALONE, together(DOWN, GATE).name: 2.0, together(DOWN, UP).name: 2.5}
    # Three kinds of eight modules each.
    assert plan(second, total=71) is None
    assert plan(second, total=72) is not None
    layer = "parent-layer/model.layers.3"
    [smaller] = list_sets({**second, layer: 7.0}, total=71)
    assert smaller.name == f"{together(DOWN, GATE)} + {layer}"


def test_what_is_a_part_of_the_set_already_or_holds_all_of_it_is_not_tried_beside_it() -> None:
    module = "parent-module/model.layers.3.mlp.down_proj"
    assert list_sets({DOWN.name: 2.0, module: 6.0, UP.name: 7.0}) == (together(DOWN, UP),)
    [single] = list_sets({module: 2.0, DOWN.name: 1.95, UP.name: 7.0})
    assert single.name == f"{module} + {UP.name}"


def test_where_a_kind_will_do_its_modules_that_recover_something_are_tried_in_its_place() -> None:
    first, second, none, other = (
        f"parent-module/model.layers.{layer}.mlp.{path}_proj"
        for layer, path in ((2, "down"), (4, "down"), (5, "down"), (3, "up"))
    )
    known = {DOWN.name: 1.1, second: 5.0, first: 3.0, none: 8.5, other: 7.0}
    [smaller] = list_sets(known)
    assert smaller.name == f"{first} + {second}"
    assert list_sets({**known, smaller.name: 1.1}) == ()
    assert list_sets({DOWN.name: 1.1, first: 3.0}) == ()
