"""A made-up comparison of quantizers: ours plain and held out, others, one that is missing and one that failed."""

from __future__ import annotations

from support.evidence import BASELINE_PERPLEXITY, compose, make_evidence, make_protocol
from support.evidence import make_record as make_audit_record

from sw_audit.record.arm import BASELINE
from sw_audit.record.location import Outcome
from sw_audit.record.measurement import ROUND_TO_NEAREST, ComparedQuantizer, Comparison, Quality
from sw_audit.record.record import ModelResult, Record

MISSING = "gptqmodel is not installed (pip install 'gptqmodel>=7.6')"
FAILED = "ValueError: groups of 64 do not divide 40 input channels"


def make_quality(ratio: float | None, *, spread: float = 0.02) -> Quality:
    """Return a quality with an interval of that spread around a ratio; `None` is not finite."""
    if ratio is None:
        return Quality(top1=0.01, accuracy=0.25)
    return Quality(
        perplexity=BASELINE_PERPLEXITY * ratio,
        ratio=ratio,
        low=ratio * (1 - spread),
        high=ratio * (1 + spread),
        divergence=max(0.0, ratio - 1),
        top1=max(0.0, 1 - 0.3 * (ratio - 1)) if ratio < 4 else 0.05,
        accuracy=0.9 if ratio < 2 else 0.3,
    )


def make_recipe_row(recipe: str, ratio: float | None, bits: float, *, held: bool = False) -> ComparedQuantizer:
    """Return a row of round-to-nearest."""
    return ComparedQuantizer(
        method=ROUND_TO_NEAREST,
        settings=recipe,
        hold_out="held" if held else "none",
        what="round-to-nearest, simulated",
        arm=f"{recipe} {'hold-out' if held else 'plain'}",
        quality=make_quality(ratio),
        bits_per_weight=bits,
        seconds=0.25,
        peak_bytes=1_200_000,
    )


def make_comparison(*, located: bool = True) -> Comparison:
    """Return a comparison; without super weights there is nothing held out."""
    ours = [
        ("int4/group64", 1.011, 1.006, 4.5),
        ("int4/512x512", 25.6, 1.13, 4.004),
        ("int4/tensor", None, 1.2, 4.0),
    ]
    rows = []
    for recipe, plain, held, bits in ours:
        rows.append(make_recipe_row(recipe, plain, bits))
        if located:
            rows.append(make_recipe_row(recipe, held, bits + 1e-5, held=True))
    rows += [
        ComparedQuantizer(
            method="bitsandbytes-nf4",
            settings="Linear4bit, nf4, blocks of 64, no double quantization",
            package="bitsandbytes 0.50.2",
            what="QLoRA's 4-bit normal floats",
            arm="bitsandbytes-nf4",
            quality=make_quality(1.017),
            bits_per_weight=4.57,
            seconds=1.5,
            peak_bytes=79_000,
            left_alone=6,
        ),
        ComparedQuantizer(
            method="gptqmodel-gptq", settings="4 bits, symmetric, groups of 64", what="GPTQ", because=MISSING
        ),
        ComparedQuantizer(
            method="torchao-int4",
            settings="IntxWeightOnlyConfig, groups of 64",
            package="torchao 0.18.0",
            what="int4, weights only",
            because=FAILED,
        ),
    ]
    return Comparison(
        protocol=make_protocol().signature,
        baseline=Quality(
            perplexity=BASELINE_PERPLEXITY, ratio=1.0, low=1.0, high=1.0, divergence=0.0, top1=1.0, accuracy=0.9
        ),
        dtype_bits=32,
        confidence=0.95,
        calibration_windows=16,
        rows=tuple(rows),
    )


def make_comparison_evidence(*, located: bool = True) -> ModelResult:
    """Return evidence that holds a comparison and nothing of an audit but where the super weights are."""
    evidence = make_evidence(outcome=Outcome.LOCATED if located else Outcome.NONE)
    measured = tuple(one for one in evidence.measurements if one.arm.name == BASELINE.name)
    return ModelResult(
        model=evidence.model,
        protocol=evidence.protocol,
        location=evidence.location,
        measurements=measured,
        comparison=make_comparison(located=located),
        decoder_weights=evidence.decoder_weights,
        seconds=171.0,
    )


def make_comparison_record(*, located: bool = True) -> Record:
    """Return a record without verdicts, as `compare-quantizers` writes it."""
    policy = make_audit_record(windows=8, items=8).policy
    return compose(make_comparison_evidence(located=located), policy=policy)
