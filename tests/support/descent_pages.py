"""Made-up descendants for the report: one that kept everything, one that lost its super weight, one unreadable.

Nothing here needs torch.
"""

from __future__ import annotations

from support.descent import purpose_called
from support.evidence import (
    CHANNEL,
    LAYER,
    LAYERS,
    SUPER_WEIGHT,
    make_identity,
    make_location,
    make_measurement,
    make_protocol,
)

from sw_audit.record.address import group_addresses
from sw_audit.record.arm import DESCENDANT, PARENT, RESTORED_WEIGHTS, Arm, RestoredModule, SetTo, SwapModules
from sw_audit.record.checkpoint import (
    Flaw,
    HeldScalar,
    PatternCount,
    QuantizationReport,
    QuantizedModule,
    WeightsReport,
)
from sw_audit.record.descent import (
    ComparedText,
    Continuation,
    Descent,
    LayerError,
    RetainedActivation,
    RetainedWeight,
    TaskResult,
)
from sw_audit.record.location import Outcome
from sw_audit.record.measurement import DivergenceSpread, Measurement
from sw_audit.record.record import ModelResult

MODULE = f"model.layers.{LAYER}.mlp.down_proj"
OTHER_MODULE = "model.layers.0.self_attn.o_proj"
_PROTOCOL = make_protocol()
_STORY = "once upon a time there was a wise fox called jane who lived in the mill"
_PARENT_TEXT = "with sarah and had a lamp . so the fox crept to the mill with the lamp ."
_LOOP = "with sarah and bob bob bob bob bob bob bob bob bob bob bob bob bob bob"


def make_arm(name: str, ratio: float | None, seed: int, *, spread: float | None = None) -> Measurement:
    """Return one arm on the text, with how its divergence spreads if that is wanted."""
    address = group_addresses([SUPER_WEIGHT.address])
    acts: dict[str, tuple[SetTo | SwapModules, ...]] = {
        RESTORED_WEIGHTS.name: (SetTo(addresses=address, value=SUPER_WEIGHT.value),),
        RestoredModule(module=OTHER_MODULE).name: (SwapModules(modules=(OTHER_MODULE,)),),
    }
    found = make_measurement(
        Arm(purpose=purpose_called(name), acts=acts.get(name, ())), ratio, protocol=_PROTOCOL, seed=seed
    )
    if spread is None:
        return found
    tail = DivergenceSpread(median=spread, p99=9 * spread, maximum=31 * spread)
    return found.model_copy(update={"agreement": found.agreement.model_copy(update={"spread": tail})})


def make_descent(*, kept: bool, finite: bool = True) -> Descent:
    """Return a descendant beside its parent.

    Args:
        kept: Whether it kept its super weight; else perplexity is 118 times as high, 1.02 with it put back.
        finite: Whether anything of it is finite.
    """
    ratio = None if not finite else 1.016 if kept else 118.4
    measurements = [
        make_arm(PARENT.name, 1.0, 0),
        make_arm(DESCENDANT.name, ratio, 1, spread=0.004 if kept else 4.4),
    ]
    if not kept:
        measurements += [
            make_arm(RESTORED_WEIGHTS.name, 1.021, 2),
            make_arm(RestoredModule(module=OTHER_MODULE).name, 117.6, 3),
        ]
    riding = tuple(range(LAYER, LAYERS - 1))
    share = 0.996 if kept else 0.021
    return Descent(
        parent=make_identity("parent"),
        parent_location=make_location(Outcome.LOCATED),
        super_weights=(
            RetainedWeight(
                address=SUPER_WEIGHT.address,
                layer=LAYER,
                parent=SUPER_WEIGHT.value,
                value=None if not finite else SUPER_WEIGHT.value * (1.0 if kept else 0.02),
                finite=finite,
                row_error=0.041,
                column_error=0.052,
            ),
        ),
        super_activations=(
            RetainedActivation(
                channel=CHANNEL,
                token=0,
                layers=riding,
                parent=(-412.5,) * len(riding),
                value=tuple(-412.5 * share if finite else None for _ in riding),
                loudest=(kept,) * len(riding),
                sink_parent=0.871,
                sink=0.868 if kept else 0.142,
            ),
        ),
        texts=(ComparedText(protocol=_PROTOCOL, measurements=tuple(measurements)),),
        layers=tuple(
            LayerError(
                layer=layer,
                signal=1e6,
                noise=None if not finite else 1e3 * (layer + 1) if kept or layer < LAYER else 9e5,
                own_noise=None if not finite else 9e2 if kept or layer != LAYER else 9e5,
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
                task="arc_easy",
                version="1.0",
                metric="acc",
                parent=(True,) * 80 + (False,) * 20,
                descendant=((True,) * 79 + (False,) * 20 + (True,)) if kept else ((False,) * 70 + (True,) * 30),
            ),
        ),
        worst_modules=() if kept else ((MODULE, 0.413), (OTHER_MODULE, 0.094)),
        notes=(),
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
