from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.backends import require, write_few_choices
from support.checkpoints import save_checkpoint
from support.evidence import make_measurement

from sw_audit.backends.registry import find_methods
from sw_audit.checkpoint.opening import open_checkpoint
from sw_audit.checks.statistics import bound_mean_difference
from sw_audit.errors import InputError, PolicyError
from sw_audit.policy.policy import CorpusPolicy, ModelPolicy, Policy, QuantizationPolicy
from sw_audit.policy.recipe import parse_recipe
from sw_audit.policy.scheme import ActivationPolicy
from sw_audit.record.address import AddressGroup
from sw_audit.record.arm import BASELINE, Arm, Custom, Quantize
from sw_audit.record.measurement import ComparedQuantizer
from sw_audit.record.store import decode_record, encode_record
from sw_audit.runner.compare import RECIPES, compare_quantizers, plan_rounding, rate_quality
from sw_audit.specimen.shipped import control_path, specimen_path

SPECIMEN = ModelPolicy(source=str(specimen_path()), id="specimen")
MakePolicy = Callable[..., Policy]
BASE = make_measurement(BASELINE, 1.0, seed=0)
POLICY = Policy()
HELD = (AddressGroup(parameter="w", rows=(0,), columns=(0,)),)


@pytest.fixture
def make_policy(tmp_path: Path) -> MakePolicy:
    choices = write_few_choices(tmp_path)

    def make(*recipes: str, model: ModelPolicy = SPECIMEN, **more: Any) -> Policy:
        return Policy(
            models=(model,),
            corpus=CorpusPolicy(windows=16, choices=choices),
            quantization=QuantizationPolicy(recipes=recipes, **more),
        )

    return make


def by_name(rows: tuple[ComparedQuantizer, ...]) -> dict[str, ComparedQuantizer]:
    return {row.name: row for row in rows}


def test_holding_out_beats_plain_rounding_where_a_block_is_as_large_as_a_matrix(make_policy: MakePolicy) -> None:
    record = compare_quantizers(make_policy("int4/tensor", "int4/tensor/z9"), methods=[])
    comparison = record.results[0].comparison
    assert [row.name for row in comparison.rows] == [
        "int4/tensor",
        "int4/tensor, held out",
        "int4/tensor/z9",
        "int4/tensor/z9, held out",
    ]
    for plain, held in zip(comparison.rows[::2], comparison.rows[1::2], strict=True):
        assert plain.quality is not None
        assert held.quality is not None
        assert plain.quality.low is not None
        assert held.quality.high is not None
        assert held.quality.high < plain.quality.low
    assert comparison.baseline.ratio == 1.0
    assert comparison.protocol == record.results[0].protocol.signature
    assert {one.protocol for one in record.results[0].measurements} == {comparison.protocol}
    assert record.verdicts == ()
    assert decode_record(encode_record(record)) == record


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["int4/16x16", "int4/group64", "int4/64x64"])
@pytest.mark.parametrize("calibration_windows", [0, 16])
def test_a_searched_clip_never_loses_to_no_clip_by_more_than_its_interval(
    make_policy: MakePolicy, recipe: str, calibration_windows: int
) -> None:
    learns = ActivationPolicy(calibration_windows=calibration_windows)
    policy = make_policy(recipe, f"{recipe}/search").model_copy(update={"activations": learns})
    result = compare_quantizers(policy, methods=[]).results[0]
    for way in ("plain", "hold-out"):
        searched, unclipped = (result.measured(f"{name} {way}") for name in (f"{recipe}/search", recipe))
        assert searched is not None
        assert unclipped is not None
        losses = (searched.loss.finite_nats, unclipped.loss.finite_nats, unclipped.loss.tokens)
        assert bound_mean_difference(*losses, policy.confidence)[1] <= 0


def test_bits_are_codes_scales_and_what_is_held_out(make_policy: MakePolicy) -> None:
    rows = by_name(compare_quantizers(make_policy("int4/tensor"), methods=[]).results[0].comparison.rows)
    layers = open_checkpoint(SPECIMEN).layers
    sizes = [matrix.tensor.numel() for layer in layers for matrix in layer.matrices]
    # Four bits a weight; per matrix a scale and a lower end of 16 bits each.
    plain = (4 * sum(sizes) + 32 * len(sizes)) / sum(sizes)
    assert rows["int4/tensor"].bits_per_weight == pytest.approx(plain, rel=1e-12)
    # One weight of 16 bits more, and where it is among 64 x 192: 14 bits.
    held = (4 * sum(sizes) + 32 * len(sizes) + 16 + 14) / sum(sizes)
    assert rows["int4/tensor, held out"].bits_per_weight == pytest.approx(held, rel=1e-12)
    peak = rows["int4/tensor"].peak_bytes
    largest = max(sum(4 * matrix.tensor.numel() for matrix in layer.matrices) for layer in layers)
    assert peak is not None
    # At most one layer, and what a matrix takes while it is rounded.
    assert largest <= peak < 1.5 * largest


def test_matrices_that_are_no_target_stay_and_their_bits_count(make_policy: MakePolicy) -> None:
    policy = make_policy("int4/tensor", targets=("*.down_proj",))
    row = compare_quantizers(policy, methods=[]).results[0].comparison.rows[0]
    layers = open_checkpoint(SPECIMEN).layers
    down = sum(layer.down_projections[0].tensor.numel() for layer in layers)
    everything = sum(matrix.tensor.numel() for layer in layers for matrix in layer.matrices)
    bits = (4 * down + 32 * len(layers) + 32 * (everything - down)) / everything
    assert row.bits_per_weight == pytest.approx(bits, rel=1e-12)
    assert row.left_alone == 6 * len(layers)


def test_without_super_weights_nothing_is_held_out_and_that_is_said(make_policy: MakePolicy) -> None:
    control = ModelPolicy(source=str(control_path()), id="control")
    record = compare_quantizers(make_policy("int4/64x64", model=control), methods=[])
    (row,) = record.results[0].comparison.rows
    assert row.hold_out == "nothing-to-hold"


def test_another_library_is_measured_beside_ours_on_the_same_tokens(make_policy: MakePolicy) -> None:
    (method,) = find_methods(["bitsandbytes-nf4"])
    require(method)
    record = compare_quantizers(make_policy("nf4/group64"), methods=["bitsandbytes-nf4"])
    rows = by_name(record.results[0].comparison.rows)
    ours, theirs = rows["nf4/group64"].quality, rows["bitsandbytes-nf4"].quality
    assert ours is not None
    assert theirs is not None
    # Every matrix of the specimen is a multiple of 64 wide, so both round the same 64 weights to the same levels.
    # Where the processor has bfloat16 the library multiplies in it.
    assert theirs.ratio == pytest.approx(ours.ratio, rel=2e-3)
    assert theirs.top1 == pytest.approx(ours.top1, abs=0.01)
    assert (rows["bitsandbytes-nf4"].package or "").startswith("bitsandbytes 0.")


def test_a_method_that_fails_is_a_row_that_says_why_and_leaves_no_measurement(tmp_path: Path) -> None:
    (method,) = find_methods(["torchao-int4"])
    require(method)
    text = tmp_path / "text.txt"
    text.write_text("the fox sang . the owl slept and the mill sang , " * 40)
    model = ModelPolicy(source=str(save_checkpoint(tmp_path / "narrow")), id="narrow")
    policy = Policy(
        models=(model,),
        corpus=CorpusPolicy(source=str(text), window=16, windows=8),
        quantization=QuantizationPolicy(recipes=("int4/row",)),
    )
    record = compare_quantizers(policy, methods=["torchao-int4"])
    row = by_name(record.results[0].comparison.rows)["torchao-int4"]
    assert row.because == "ValueError: groups of 64 do not divide 32 input channels"
    assert (row.quality, row.bits_per_weight, row.seconds, row.arm) == (None, None, None, None)
    assert "torchao-int4" not in {one.arm.name for one in record.results[0].measurements}


def test_blocks_that_hold_every_matrix_whole_are_left_out_beside_the_whole_matrix(make_policy: MakePolicy) -> None:
    policy = make_policy("int4/64x64", "int4/512x512", "int4/512x512/z9", "int4/tensor", "int8/512x512")
    arms = plan_rounding(policy, HELD, {(64, 64), (192, 64)})
    recipes = [str(act.recipe) for arm in arms for act in arm.acts if isinstance(act, Quantize)]
    # The clipped one has no whole matrix beside it that is clipped alike, nor has the one of 8 bits.
    assert recipes[::2] == ["int4/64x64", "int4/512x512/z9", "int4/tensor", "int8/512x512"]
    assert recipes[::2] == recipes[1::2]
    assert [arm.name for arm in arms][:2] == ["int4/64x64 plain", "int4/64x64 hold-out"]
    assert len(plan_rounding(policy, (), {(64, 1024)})) == 5


def test_the_default_recipes_are_canonical() -> None:
    assert [str(parse_recipe(recipe)) for recipe in RECIPES] == list(RECIPES)
    assert {parse_recipe(recipe).clip is not None for recipe in RECIPES} == {True, False}


def test_a_wrong_name_and_a_pattern_without_a_match_are_told_before_anything_is_measured(
    make_policy: MakePolicy,
) -> None:
    with pytest.raises(InputError, match="no such quantizer"):
        compare_quantizers(make_policy("int4/row"), methods=["nosuch"])
    with pytest.raises(PolicyError, match="matches none"):
        compare_quantizers(make_policy("int4/row", targets=("*.nosuch",)), methods=[])


def test_the_model_itself_is_of_perfect_quality() -> None:
    quality = rate_quality(BASE, BASE, POLICY)
    assert (quality.ratio, quality.low, quality.high) == (1.0, 1.0, 1.0)
    assert (quality.divergence, quality.top1) == (0.0, 1.0)


def test_a_ratio_has_the_interval_of_paired_windows() -> None:
    measured = make_measurement(Arm(purpose=Custom(label="x")), 1.25, seed=3)
    quality = rate_quality(measured, BASE, POLICY)
    nats = [[one for one in arm.loss.nats if one is not None] for arm in (measured, BASE)]
    logs = bound_mean_difference(nats[0], nats[1], measured.loss.tokens, POLICY.confidence)
    assert (quality.ratio, quality.low, quality.high) == tuple(math.exp(log) for log in logs)
    assert quality.ratio == pytest.approx(1.25, rel=0.05)
    assert quality.low is not None
    assert quality.high is not None
    assert quality.low < quality.ratio < quality.high
    assert measured.loss.perplexity is not None
    assert BASE.loss.perplexity is not None
    assert quality.ratio == pytest.approx(measured.loss.perplexity / BASE.loss.perplexity)


def test_with_too_few_windows_there_is_a_ratio_and_no_interval() -> None:
    base = make_measurement(BASELINE, 1.0, seed=0, windows=3)
    quality = rate_quality(make_measurement(Arm(purpose=Custom(label="x")), 2.0, windows=3), base, POLICY)
    assert quality.ratio is not None
    assert (quality.low, quality.high) == (None, None)


def test_what_is_not_finite_has_no_ratio_but_can_still_be_counted() -> None:
    quality = rate_quality(make_measurement(Arm(purpose=Custom(label="x")), None), BASE, POLICY)
    assert (quality.perplexity, quality.ratio, quality.low, quality.divergence) == (None, None, None, None)
    assert quality.accuracy is not None


def test_figures_of_different_protocols_are_never_compared() -> None:
    with pytest.raises(ValueError, match="not scored on the baseline's tokens"):
        rate_quality(make_measurement(Arm(purpose=Custom(label="x")), 1.1, windows=16), BASE, POLICY)
