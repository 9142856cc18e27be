"""Made-up descendants for the report: one that kept everything, one that lost its super weight, one unreadable.

Their verdicts are written by hand: what the report shows is known to a letter. Nothing here needs torch.
"""

from __future__ import annotations

from datetime import date

from support import descent
from support.descent import MODULE, make_retained, make_ridden
from support.evidence import (
    LAYER,
    LAYERS,
    SUPER_WEIGHT,
    compose,
    make_identity,
    make_location,
    make_measurement,
    make_protocol,
)

from sw_audit.policy.model_policy import Waiver
from sw_audit.policy.policy import ModelPolicy, Policy
from sw_audit.record.arm import DESCENDANT, PARENT, RESTORED_WEIGHTS, Arm, Purpose, RestoredModule
from sw_audit.record.checkpoint import (
    Flaw,
    HeldScalar,
    PatternCount,
    QuantizationReport,
    QuantizedModule,
    WeightsReport,
)
from sw_audit.record.descent import ComparedText, Continuation, Descent, LayerError, TaskResult
from sw_audit.record.location import Outcome
from sw_audit.record.measurement import Measurement
from sw_audit.record.record import ModelFailure, ModelResult, Record
from sw_audit.record.verdict import Finding, Paste, Status, Verdict

OTHER_MODULE = "model.layers.0.self_attn.o_proj"
OTHER_RESTORED = RestoredModule(module=OTHER_MODULE)
WAIVER = Waiver(
    check="top1-agreement", model="broken", until=date(2027, 3, 31), owner="Ada", reason="the old kernel goes then"
)
_PROTOCOL = make_protocol()
_STORY = "once upon a time there was a wise fox called jane who lived in the mill"
_PARENT_TEXT = "with sarah and had a lamp . so the fox crept to the mill with the lamp ."
_LOOP = "with sarah and bob bob bob bob bob bob bob bob bob bob bob bob bob bob"


def make_arm(purpose: Purpose, ratio: float | None, seed: int, *, spread: float | None = None) -> Measurement:
    """Return one arm on the text, with how its divergence spreads if that is wanted."""
    measured = make_measurement(Arm(purpose=purpose), ratio, protocol=_PROTOCOL, seed=seed)
    if spread is None:
        return measured
    agreement = measured.agreement
    tokens = descent.draw_divergence(len(agreement.tokens), agreement.tokens[0], spread)
    return measured.model_copy(update={"agreement": agreement.model_copy(update={"token_divergence": tokens})})


def make_descent(*, kept: bool, finite: bool = True) -> Descent:
    """Return a descendant beside its parent.

    Args:
        kept: Whether it kept its super weight; else perplexity is 118 times as high, 1.02 with it put back.
        finite: Whether anything of it is finite.
    """
    ratio = None if not finite else 1.016 if kept else 118.4
    measurements = [make_arm(PARENT, 1.0, 0), make_arm(DESCENDANT, ratio, 1, spread=0.004 if kept else 4.4)]
    if not kept:
        measurements += [make_arm(RESTORED_WEIGHTS, 1.021, 2), make_arm(OTHER_RESTORED, 117.6, 3)]
    riding = LAYERS - 1 - LAYER
    value = -412.5 * (0.996 if kept else 0.021) if finite else None
    spoilt = {layer: not kept and layer >= LAYER for layer in range(LAYERS)}
    errors = {"row_error": 0.041, "column_error": 0.052}
    right = (True,) * 79 + (False,) * 20 + (True,) if kept else (False,) * 70 + (True,) * 30
    return descent.make_descent(
        ComparedText(protocol=_PROTOCOL, measurements=tuple(measurements)),
        super_weights=(make_retained((1.0 if kept else 0.02) if finite else None, finite=finite, **errors),),
        super_activations=(
            make_ridden(
                [1.0] * riding,
                parent=(-412.5,) * riding,
                value=(value,) * riding,
                loudest=(kept,) * riding,
                sink_parent=0.871,
                sink=0.868 if kept else 0.142,
            ),
        ),
        layers=tuple(
            LayerError(
                layer=layer,
                signal=1e6,
                noise=None if not finite else 9e5 if spoilt[layer] else 1e3 * (layer + 1),
                own_noise=None if not finite else 9e5 if spoilt[layer] and layer == LAYER else 9e2,
                down_input=31.5,
                down_output=412.5,
            )
            for layer in range(LAYERS)
        ),
        continuations=(
            Continuation(
                prompt=_STORY,
                tokens=17,
                parent=tuple(range(20)),
                descendant=tuple(range(20)) if kept else (0, 1, 2, *[7] * 17),
                parent_text=_PARENT_TEXT,
                descendant_text=_PARENT_TEXT if kept else _LOOP,
            ),
        ),
        tasks=(
            TaskResult(
                task="arc_easy", version="1.0", metric="acc", parent=(True,) * 80 + (False,) * 20, descendant=right
            ),
        ),
        worst_modules=() if kept else ((MODULE, 0.413), (OTHER_MODULE, 0.094)),
    )


def make_quantization(*, kept: bool) -> QuantizationReport:
    """Return how a descendant is quantized."""
    own = QuantizedModule(module=MODULE, bits=4, group=32)
    return QuantizationReport(
        method="compressed-tensors",
        described="int4, groups of 32",
        patterns=(
            PatternCount(key="ignore", pattern="lm_head", modules=1),
            PatternCount(key="ignore", pattern="re:.*experts.*", modules=0),
        ),
        quantized=(
            own,
            *(QuantizedModule(module=f"model.layers.{n}.mlp.up_proj", bits=4, group=32) for n in range(3)),
        ),
        unquantized=("model.layers.5.mlp.experts.down_proj",),
        exact=False,
        because="activations are rounded as well",
        super_weights=(
            HeldScalar(
                address=SUPER_WEIGHT.address,
                module=own,
                parent=SUPER_WEIGHT.value,
                value=SUPER_WEIGHT.value * (1.0 if kept else 0.02),
                step=0.2,
            ),
        ),
    )


def make_flawed() -> WeightsReport:
    """Return what a static look at a checkpoint without its quantization_config finds."""
    return WeightsReport(
        files=1,
        tensors=93,
        scanned=51,
        flaws=(
            Flaw(
                kind="codes-without-config",
                where=f"{MODULE}.weight_packed",
                found="stored as codes, and config.json has no quantization_config",
            ),
            Flaw(kind="constant", where="model.layers.3.mlp.up_proj.weight", found="all 0.5", serious=False),
        ),
        counts={"codes-without-config": 42, "constant": 1},
        serious=42,
        remedy="put the quantization_config back into config.json",
    )


def make_evidence(name: str, *, kept: bool, finite: bool = True) -> ModelResult:
    """Return the evidence on one descendant."""
    return ModelResult(
        model=make_identity(name),
        protocol=_PROTOCOL,
        location=make_location(Outcome.LOCATED if kept else Outcome.NONE),
        weights=WeightsReport(files=1, tensors=57, scanned=57),
        quantization=make_quantization(kept=kept),
        descent=make_descent(kept=kept, finite=finite),
        decoder_weights=1_572_864,
        seconds=9.5,
    )


def make_verdicts(name: str, *, kept: bool) -> tuple[Verdict, ...]:
    """Return what is concluded of a descendant, in the checks' order."""
    status = Status.PASS if kept else Status.FAIL
    ratio, low, high = (1.016, 1.011, 1.022) if kept else (118.4, 112.9, 124.7)
    on_text = {"text": "specimen", "because": "so it was measured"}
    held = Finding(
        label="specimen",
        status=status,
        observed=ratio,
        low=low,
        high=high,
        limit=1.1,
        arm=DESCENDANT.name,
        **on_text,
    )
    shares = [
        Finding(
            label=f"specimen, {arm} put back",
            status=Status.SKIPPED,
            observed=share,
            low=share - 0.004,
            high=share + 0.003,
            arm=arm.name,
            **on_text,
        )
        for arm, share in ((RESTORED_WEIGHTS, 0.9956), (OTHER_RESTORED, 0.0013))
    ]
    error = 0.0 if kept else 0.98
    ignore = Paste(where="llm-compressor, in the modifier", text=f'ignore=["lm_head", "{MODULE}"]')
    return (
        Verdict(
            check="super-weight-retained",
            model=name,
            status=status,
            observed=error,
            limit=0.25,
            quantity="largest relative error",
            because=f"{SUPER_WEIGHT.address}: its error is {error}",
            remedy=None if kept else f"Leave `{MODULE}` out of quantization.",
            paste=() if kept else (ignore,),
        ),
        Verdict(
            check="perplexity-ratio",
            model=name,
            status=status,
            observed=ratio,
            low=low,
            high=high,
            limit=1.1,
            quantity="perplexity ratio to the parent",
            because="specimen: what was measured",
            protocol=_PROTOCOL.signature,
            findings=(held, *(() if kept else shares)),
        ),
        Verdict(
            check="top1-agreement",
            model=name,
            status=status,
            observed=0.97 if kept else 0.04,
            limit=0.9,
            quantity="share of tokens",
            because="specimen: where both agree",
            waiver=None if kept else WAIVER,
        ),
    )


def make_descent_record() -> Record:
    """Return the record of an audit of a sound descendant, a broken one, and one whose files are broken."""
    names = ("sound", "broken", "stripped")
    policy = Policy(
        models=tuple(ModelPolicy(source=f"models/{name}", id=name, parent="models/parent") for name in names),
        waivers=(WAIVER,),
    )
    flawed = make_flawed()
    intact = Verdict(
        check="weights-intact",
        model="stripped",
        status=Status.FAIL,
        observed=42,
        limit=0,
        quantity="serious flaws",
        because="42 serious flaws",
        remedy=flawed.remedy,
    )
    skipped = Verdict(
        check="perplexity-ratio", model="stripped", status=Status.SKIPPED, because="The weights are not intact."
    )
    failure = ModelFailure(
        model="stripped",
        message="model models/stripped: codes without config",
        weights=flawed,
        verdicts=(intact, skipped),
    )
    descendants = (
        make_evidence(name, kept=kept).model_copy(update={"verdicts": make_verdicts(name, kept=kept)})
        for name, kept in (("sound", True), ("broken", False))
    )
    return compose(*descendants, failure, policy=policy)
