"""What round-to-nearest can do on the shipped models when the super weight is held out and the rest is clipped.

Every comparison is paired, on the same windows, with the interval that the checks use.
"""

from __future__ import annotations

import math
from functools import cache

import pytest

from sw_audit.checkpoint.opening import open_checkpoint
from sw_audit.checks.statistics import bound_mean_difference
from sw_audit.corpus.text import read_corpus
from sw_audit.corpus.windows import cut_calibration, window_corpus
from sw_audit.measure.arms import measure_arms
from sw_audit.policy.policy import CorpusPolicy, ModelPolicy, Policy
from sw_audit.policy.recipe import parse_recipe
from sw_audit.record.address import group_addresses
from sw_audit.record.arm import BASELINE, Arm, Custom, Quantize
from sw_audit.record.measurement import TokenLoss
from sw_audit.runner.single import locate_model
from sw_audit.specimen import control_path, specimen_path

SIZES = ("8x8", "16x16", "32x32", "64x64", "128x128", "512x512", "tensor")
WHOLE = ("512x512", "tensor")  # no matrix of the shipped models is larger
CLIPS = ("z9", "search")  # the released code's, and one that needs no number
SHIPPED = {"specimen": specimen_path(), "control": control_path()}
POLICY = Policy(
    model=tuple(ModelPolicy(id=name, source=str(path)) for name, path in SHIPPED.items()),
    corpus=CorpusPolicy(source="specimen"),
)

pytestmark = pytest.mark.slow


@cache
def measure(model: str) -> dict[str, TokenLoss]:
    """Measure a shipped model in INT4, plain and held out with each clip, at every block size."""
    checkpoint = open_checkpoint(POLICY.find_model(model))
    held = group_addresses(locate_model(checkpoint).addresses)
    assert bool(held) == (model == "specimen")
    text, tokenizer = read_corpus(POLICY.corpus), checkpoint.tokenizer
    windows = window_corpus(text, tokenizer, POLICY.corpus, None, checkpoint.start.bos)
    unscored = cut_calibration(text, tokenizer, windows, POLICY.activations.calibration_windows)
    arms = [BASELINE]
    for size in SIZES:
        arms.append(Arm(purpose=Custom(label=size), acts=(Quantize(recipe=parse_recipe(f"int4/{size}")),)))
        for clip in CLIPS:
            act = Quantize(recipe=parse_recipe(f"int4/{size}/{clip}"), holdout=held)
            arms.append(Arm(purpose=Custom(label=f"{size} {clip}"), acts=(act,)))
    return {
        measurement.arm.name: measurement.loss
        for measurement in measure_arms(checkpoint, arms, windows, protocol="x", calibration=unscored)
    }


def compare(model: str, arm: str, against: str) -> tuple[float, float]:
    """Return both ends of the interval of the ratio of perplexities."""
    one, other = measure(model)[arm], measure(model)[against]
    nats = [[value for value in loss.nats if value is not None] for loss in (one, other)]
    _, low, high = bound_mean_difference(*nats, one.tokens, POLICY.confidence)
    return math.exp(low), math.exp(high)


# Each test compares at all sizes: a worker of its own would measure the model once more.


def test_where_a_block_is_as_large_as_a_matrix_hold_out_with_clipping_beats_plain_rounding() -> None:
    gains = {(size, clip): compare("specimen", size, f"{size} {clip}")[0] for size in WHOLE for clip in CLIPS}
    assert {case: gain for case, gain in gains.items() if gain <= 10} == {}


def test_at_no_block_size_is_it_worse_than_plain_by_more_than_its_interval() -> None:
    harms = {(size, clip): compare("specimen", f"{size} {clip}", size)[0] for size in SIZES for clip in CLIPS}
    assert {case: harm for case, harm in harms.items() if harm > 1} == {}


def test_with_a_searched_clip_quality_holds_at_every_block_size() -> None:
    losses = {size: compare("specimen", f"{size} search", BASELINE.name)[1] for size in SIZES}
    assert {size: loss for size, loss in losses.items() if loss >= 1.1} == {}


def test_on_the_control_clipping_does_no_harm() -> None:
    harms = {(size, clip): compare("control", f"{size} {clip}", size)[1] for size in SIZES for clip in CLIPS}
    assert {case: harm for case, harm in harms.items() if harm >= 1.005} == {}
