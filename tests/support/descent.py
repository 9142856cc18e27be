"""Made-up evidence on a descendant beside its parent, each figure chosen by the caller. Nothing needs torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy
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
from support.maps import make_map, make_neighbourhood

from sw_audit.checks.judging import judge_result
from sw_audit.policy.policy import ModelPolicy, Policy
from sw_audit.record.arm import (
    DESCENDANT,
    PARENT,
    RESTORED_SCALARS,
    RESTORED_WEIGHTS,
    Arm,
    Purpose,
    RestoredKind,
    RestoredLayer,
    RestoredLayers,
    RestoredModule,
    RestoredScalars,
    RestoredSet,
    SwapModules,
)
from sw_audit.record.descent import (
    ComparedText,
    Continuation,
    Descent,
    LayerError,
    RetainedActivation,
    RetainedWeight,
)
from sw_audit.record.identity import Protocol
from sw_audit.record.location import Outcome
from sw_audit.record.measurement import Agreement, Measurement
from sw_audit.record.record import ModelResult
from sw_audit.record.verdict import Verdict

CHILD = "child"
MODULE = f"model.layers.{LAYER}.mlp.down_proj"
PATHS = (
    *(f"self_attn.{name}_proj" for name in "qkvo"),
    *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
)


def make_descent_policy(**descent: Any) -> Policy:
    """Return the default policy for one descendant."""
    return Policy(models=(ModelPolicy(source="models/child", id=CHILD, parent="models/parent"),), descent=descent)


def purpose_called(name: str) -> Purpose:
    """Return the purpose of an arm that every descendant is measured in, by its name."""
    known: dict[str, Purpose] = {
        str(purpose): purpose
        for purpose in (PARENT, DESCENDANT, RESTORED_WEIGHTS, RESTORED_SCALARS, RestoredLayers())
    }
    if (single := known.get(name)) is not None:
        return single
    if " + " in name:
        return RestoredSet.model_validate({"parts": [purpose_called(part) for part in name.split(" + ")]})
    head, _, rest = name.partition("/")
    match head:
        case "parent-scalar":
            parameter, _, index = rest.removesuffix("]").partition("[")
            scalar = {"parameter": parameter, "index": [int(number) for number in index.split(",")]}
            return RestoredScalars.model_validate({"scalar": scalar})
        case "parent-layer":
            return RestoredLayer(layer=rest)
        case "parent-kind":
            return RestoredKind(path=rest)
        case _:
            return RestoredModule(module=rest)


def list_swapped(purpose: Purpose) -> list[str]:
    """Return the modules that an arm replaces, in a model of Llama's modules."""
    every = [f"model.layers.{layer}.{path}" for layer in range(LAYERS) for path in PATHS]
    match purpose:
        case RestoredModule(module=module):
            return [module]
        case RestoredLayer(layer=layer):
            return [f"{layer}.{path}" for path in PATHS]
        case RestoredKind(path=path):
            return [name for name in every if name.endswith(f".{path}")]
        case RestoredLayers():
            return every
        case RestoredSet(parts=parts):
            return [name for part in parts for name in list_swapped(part)]
        case _:
            return []


def make_text(
    ratios: Mapping[str, float | None], *, windows: int = 32, protocol: Protocol | None = None, **changes: Any
) -> ComparedText:
    """Return both models on one text.

    Args:
        ratios: Per arm, perplexity over 6.25; `None` is not finite. The parent is at 1 unless it is named.
        windows: Windows of 63 scored tokens.
        protocol: How it is measured.
        changes: Of the descendant's measurement, by field.
    """
    protocol = protocol or make_protocol(windows=windows)
    measured: list[Measurement] = []
    for number, (arm, ratio) in enumerate({PARENT.name: 1.0, **ratios}.items()):
        purpose = purpose_called(arm)
        swapped = list_swapped(purpose)
        found = make_measurement(
            Arm(purpose=purpose, acts=(SwapModules(modules=tuple(swapped)),) if swapped else ()),
            ratio,
            model_id=CHILD,
            protocol=protocol,
            windows=windows,
            seed=number,
            stop_mass=0.4,
        )
        if ratio is not None and arm != PARENT.name:
            each = {"token_divergence": draw_divergence(windows, 63, 0.01)}
            found = found.model_copy(update={"agreement": found.agreement.model_copy(update=each)})
        measured.append(found.model_copy(update=changes) if arm == DESCENDANT.name else found)
    return ComparedText(protocol=protocol, measurements=tuple(measured))


def draw_divergence(windows: int, tokens: int, mean: float) -> tuple[float, ...]:
    """Return divergences of single tokens, window by window, as exponential as those of real models about are."""
    generator = numpy.random.default_rng(0)
    return tuple(generator.exponential(mean, windows * tokens).tolist())


def make_descent(*texts: ComparedText, **changes: Any) -> Descent:
    """Return a sound descendant beside its parent, but for what is changed."""
    carried = tuple(range(LAYER, LAYERS - 1))
    fields: dict[str, Any] = {
        "parent": make_identity("parent"),
        "parent_location": make_location(Outcome.LOCATED),
        "super_weights": (make_retained(1.0),),
        "super_activations": (make_ridden([1.0] * len(carried)),),
        "activation_map": make_map(412.5, 400.0),
        "texts": texts or (make_text({DESCENDANT.name: 1.01}),),
        "layers": make_layers([1e-2] * LAYERS),
        "continuations": (make_continuation(range(40)),),
    }
    return Descent(**{**fields, **changes})


def make_descent_evidence(*texts: ComparedText, **changes: Any) -> ModelResult:
    """Return the evidence on a descendant."""
    descent = make_descent(*texts, **changes)
    return ModelResult(
        model=make_identity(CHILD),
        protocol=descent.texts[0].protocol,
        location=make_location(Outcome.NONE),
        descent=descent,
    )


def with_agreement(
    mean: float | None = 0.01, same: int = 60, tokens: Sequence[float] = (), windows: int = 32
) -> ModelResult:
    """Return the evidence where every window has the same divergence per token."""
    agreement = Agreement(
        divergence=tuple(None if mean is None else 63 * mean for _ in range(windows)),
        same_top=(same,) * windows,
        tokens=(63,) * windows,
        token_divergence=tuple(tokens),
    )
    return make_descent_evidence(make_text({DESCENDANT.name: 1.01}, windows=windows, agreement=agreement))


def make_retained(factor: float | None, **changes: Any) -> RetainedWeight:
    """Return the parent's super weight here: so many times its value there, or `None`."""
    there = SUPER_WEIGHT.value
    here = None if factor is None else factor * there
    return RetainedWeight(
        **{
            "address": SUPER_WEIGHT.address,
            "layer": LAYER,
            "parent": there,
            "value": here,
            "parent_neighbourhood": make_neighbourhood(SUPER_WEIGHT.address, LAYER, there),
            "neighbourhood": make_neighbourhood(SUPER_WEIGHT.address, LAYER, here, rank=2),
            **changes,
        }
    )


def make_ridden(factors: Sequence[float | None], **changes: Any) -> RetainedActivation:
    """Return the parent's super activation of 400 here: so many times its value, layer by layer."""
    layers = tuple(range(LAYER, LAYER + len(factors)))
    fields: dict[str, Any] = {
        "channel": CHANNEL,
        "token": 0,
        "layers": layers,
        "parent": (400.0,) * len(factors),
        "value": tuple(None if one is None else 400.0 * one for one in factors),
        "loudest": (True,) * len(factors),
    }
    return RetainedActivation(**{**fields, **changes})


def make_layers(
    own: Sequence[float | None], noise: Sequence[float | None] | None = None, **changes: Any
) -> tuple[LayerError, ...]:
    """Return layers whose signal is 1, with noise of their own, and noise after each: by default the same."""
    after = own if noise is None else noise
    fields: dict[str, Any] = {"down_input": 20.0, "down_output": 410.0, **changes}
    return tuple(
        LayerError(layer=layer, signal=1.0, noise=whole, own_noise=single, **fields)
        for layer, (single, whole) in enumerate(zip(own, after, strict=True))
    )


def make_continuation(tokens: Sequence[int], parent: Sequence[int] = range(40), **changes: Any) -> Continuation:
    """Return what both go on with after a prompt of five tokens."""
    said = {"prompt": "a mill", "parent_text": "stands", "descendant_text": "stood"}
    new = {"parent": tuple(parent), "descendant": tuple(tokens)}
    return Continuation(**{**said, **new, "tokens": 5, **changes})


def judge_descent(check: str, evidence: ModelResult, policy: Policy | None = None) -> Verdict:
    """Return what one check says of a descendant."""
    (verdict,) = judge_result(evidence, policy or make_descent_policy(), [check])
    return verdict
