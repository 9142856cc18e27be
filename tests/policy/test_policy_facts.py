from __future__ import annotations

import pytest
from pydantic import ValidationError

from sw_audit.checks.limits import CheckLimits, Limits
from sw_audit.checks.other_outliers_harmless import OtherOutliersHarmlessLimits
from sw_audit.checks.prune_collapses import PruneCollapsesLimits
from sw_audit.checks.registry import find_checks
from sw_audit.checks.rtn_holdout_quality import RtnHoldoutQualityLimits
from sw_audit.checks.stopword_shift import StopwordShiftLimits
from sw_audit.checks.super_weight_located import SuperWeightLocatedLimits
from sw_audit.policy.policy import CorpusPolicy, ModelPolicy, Policy, QuantizationPolicy


def test_the_default_policy_is_the_documented_one() -> None:
    policy = Policy()
    assert policy.models == ()
    assert (policy.expect, policy.inconclusive, policy.seed) == ("some", "fail", 0)
    assert (policy.confidence, policy.resamples, policy.minimum_windows) == (0.95, 2000, 8)
    assert policy.corpus.source == "specimen"
    limits = policy.checks
    assert limits[SuperWeightLocatedLimits].maximum_count == 6
    assert limits[SuperWeightLocatedLimits].early_fraction == pytest.approx(1 / 3)
    assert limits[PruneCollapsesLimits].minimum_ratio == 10
    assert limits[OtherOutliersHarmlessLimits].fraction == 1e-6
    assert (limits[StopwordShiftLimits].minimum_ratio, limits[StopwordShiftLimits].maximum_ratio) == (None, None)
    assert all(limits.of(check).enabled for check in tuple(find_checks()))


def test_limits_with_a_default_are_of_recipes_that_are_measured_by_default() -> None:
    policy = Policy()
    assert set(policy.checks[RtnHoldoutQualityLimits].maximum_ratio) <= set(policy.quantization.recipes)


def test_every_check_has_limits_and_no_limits_are_without_a_check() -> None:
    for check in find_checks().values():
        assert isinstance(CheckLimits().of(check.id), Limits)
        assert check.title[0].isupper()
        assert not check.title.endswith(".")
        assert check.meaning.endswith(".")
    with pytest.raises(KeyError):
        CheckLimits().of("no-such-check")


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("models/llama-w4/", "llama-w4"),
        ("org/Model-7B", "Model-7B"),
        (r"C:\models\mine", "mine"),
        ("a[b]:c", "a-b--c"),
        ("/", "model"),
        ("..", "model"),
    ],
)
def test_a_model_is_called_after_the_last_part_of_its_source(source: str, name: str) -> None:
    assert ModelPolicy(source=source).id == name


@pytest.mark.parametrize("name", ["a/b", "a::b", "a[1]", " a"])
def test_an_id_must_fit_into_the_id_of_a_test(name: str) -> None:
    with pytest.raises(ValidationError, match="an id has no brackets"):
        ModelPolicy(source="x", id=name)


def test_two_models_of_one_name_are_refused() -> None:
    with pytest.raises(ValidationError, match="two models are called 'b'"):
        Policy(models=(ModelPolicy(source="a/b"), ModelPolicy(source="c/b")))


def test_a_model_s_expectation_goes_before_the_general_one() -> None:
    one, other = ModelPolicy(source="one", expect="none"), ModelPolicy(source="other")
    policy = Policy(models=(one, other), expect="any")
    assert policy.expectation(one) == "none"
    assert policy.expectation(other) == "any"
    assert policy.find_model("other") == other
    with pytest.raises(KeyError):
        policy.find_model("third")


def test_recipes_are_kept_in_their_own_notation_and_once() -> None:
    policy = QuantizationPolicy(recipes=("INT4/Tensor/Z9", "int8/row/symmetric"))
    assert policy.recipes == ("int4/tensor/z9", "int8/row/symmetric")
    assert [str(recipe) for recipe in policy.parsed()] == list(policy.recipes)
    with pytest.raises(ValidationError, match="a recipe is named twice"):
        QuantizationPolicy(recipes=("int4/row", "INT4/ROW"))


def test_a_limit_of_a_recipe_that_is_not_measured_is_refused() -> None:
    limits = CheckLimits({"rtn-holdout-quality": RtnHoldoutQualityLimits(maximum_ratio={"int4/row": 1.5})})
    with pytest.raises(ValidationError, match="limits 'int4/row', which is not among the recipes"):
        Policy(checks=limits)


def test_default_limits_do_not_tie_down_the_recipes_also_when_read_back() -> None:
    policy = Policy(quantization=QuantizationPolicy(recipes=("int8/row",)))
    assert Policy.model_validate_json(policy.model_dump_json(by_alias=True), strict=True) == policy


def test_a_stride_longer_than_its_window_is_refused() -> None:
    assert CorpusPolicy(window=64, stride=64).stride == 64
    with pytest.raises(ValidationError, match="stride 65 is larger than window 64"):
        CorpusPolicy(window=64, stride=65)
