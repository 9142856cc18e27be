"""Made-up evidence with known figures: a healthy model, a failing one, one without super weights.

Every perplexity ratio is chosen by the caller; noise is shared between arms but for a small part, as it is
where arms are measured on the same windows. Nothing here needs torch.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from datetime import date
from functools import cache
from typing import Any, Literal

import numpy
from support.maps import make_map, make_neighbourhood

from sw_audit.checks.arms import ArmTargets
from sw_audit.checks.judging import judge_verdicts
from sw_audit.checks.plan import plan_arms, plan_needs
from sw_audit.checks.registry import find_checks
from sw_audit.policy.model_policy import Waiver
from sw_audit.policy.policy import ModelPolicy, Policy
from sw_audit.policy.scheme import ActivationSetup, AlphaSearch, AlphaTrial
from sw_audit.record.address import ScalarAddress, WeightAddress
from sw_audit.record.arm import (
    BASELINE,
    CONTROL_KINDS,
    FLIPPED,
    OTHER_OUTLIERS,
    PRUNED,
    RESTORED,
    Arm,
    Placebo,
)
from sw_audit.record.checkpoint import WeightsReport
from sw_audit.record.critical import CriticalScalar, CriticalSearch, Effect
from sw_audit.record.experts import ExpertAddress, ExpertStudy, TriedExpert
from sw_audit.record.identity import CorpusIdentity, Environment, FileDigest, ModelIdentity, Protocol, Tool
from sw_audit.record.keys import CachedKeyError, CacheKind, KeyChannel, KeyReport, LayerKeys
from sw_audit.record.location import (
    BreakingPrompt,
    Candidate,
    Contribution,
    LayerMechanism,
    LayerTrace,
    Location,
    Mechanism,
    Outcome,
    PredictedWeight,
    PromptSearch,
    PromptTrace,
    SuperActivation,
    SuperWeight,
    WeightNormPrediction,
)
from sw_audit.record.measurement import (
    Agreement,
    ChoiceAccuracy,
    Measurement,
    PromptContinuation,
    StopWordMass,
    TokenLoss,
)
from sw_audit.record.published import (
    DoseCurve,
    Impact,
    LocalFinding,
    Lookup,
    Match,
    PublishedModel,
    PublishedWeight,
    Source,
)
from sw_audit.record.record import ModelFailure, ModelResult, Record

LAYERS = 8
DECODER_WEIGHTS = 1_572_864
HIDDEN = 128
CHANNEL = 37
COLUMN = 211
LAYER = 1
PARAMETER = f"model.layers.{LAYER}.mlp.down_proj.weight"
BASELINE_PERPLEXITY = 6.25
PROMPTS = ("the mill stands by the river", "a letter came from the coast", "nobody counted the hours")

SUPER_WEIGHT = SuperWeight(
    parameter=PARAMETER, row=CHANNEL, column=COLUMN, layer=LAYER, value=-1.9268, share=0.9731
)
PREDICTION = WeightNormPrediction(
    agrees=True,
    because="from the weights alone, 1 of 1 stand first in their layer",
    weights=(
        PredictedWeight(
            **SUPER_WEIGHT.address.model_dump(),
            layer=LAYER,
            row_rank=1,
            rows=HIDDEN,
            column_rank=1,
            columns=344,
            row_ratio=31.62,
            largest_ratio=31.62,
            share=0.9417,
            agrees=True,
        ),
    ),
)
_DOWN = "model.layers.1.mlp.experts.down_proj"
# One expert carries the model, and one that serves as many tokens does not.
EXPERTS = ExpertStudy(
    experts=32,
    windows=4,
    tokens=256,
    marked=1,
    tried=(
        TriedExpert(
            address=ExpertAddress(layer=1, number=2, parameter=_DOWN, expert=2),
            marks=("output",),
            tokens=9,
            peak=210.0,
        ),
        TriedExpert(address=ExpertAddress(layer=1, number=3, parameter=_DOWN, expert=3), tokens=11, peak=3.5),
    ),
)
# Of two scalars that were tried the located one matters, and a gain does not.
SEARCHED = CriticalSearch(
    text="specimen",
    window=64,
    windows=8,
    minimum_ratio=1.2,
    confidence=0.95,
    ranked=2_098_304,
    candidates=64,
    questions=71,
    tokens=24_576,
    scalars=(
        CriticalScalar(
            address=SUPER_WEIGHT.address.scalar,
            value=SUPER_WEIGHT.value,
            layer=LAYER,
            size=44_032,
            rank=3,
            located=True,
            kind="alone",
            effect=Effect(ratio=213.6, low=180.0, high=253.0, windows=4),
        ),
        CriticalScalar(
            address=ScalarAddress(parameter="model.norm.weight", index=(5,)),
            value=0.75,
            size=HIDDEN,
            rank=1,
            effect=Effect(ratio=1.02, low=1.01, high=1.03, windows=8),
        ),
    ),
    lead=Effect(ratio=0.00478, low=0.004, high=0.0057, windows=4),
    impacts={str(SUPER_WEIGHT.address.scalar): "bearing"},
)
SUPER_ACTIVATION = SuperActivation(channel=CHANNEL, token=0, value=-412.5, first_layer=1, last_layer=6)

SETUP = ActivationSetup(
    smoothed=40,
    projections=56,
    calibration_windows=32,
    calibration_tokens=2048,
    searches=(
        AlphaSearch(
            scheme="w8a8",
            trials=(AlphaTrial(alpha=0.5, nats=1.846), AlphaTrial(alpha=0.85, nats=1.844)),
            chosen=0.85,
        ),
        AlphaSearch(
            scheme="w16a4",
            trials=(AlphaTrial(alpha=0.5, nats=2.131), AlphaTrial(alpha=0.85, nats=2.184)),
            chosen=0.5,
        ),
    ),
)

# Perplexity over the baseline's, per arm; arms that are not named are at 1.0005.
HEALTHY: Mapping[str, float | None] = {
    PRUNED.name: 213.6,
    OTHER_OUTLIERS.name: 1.031,
    RESTORED.name: 9.4,
    FLIPPED.name: 61.0,
    "experts": 8.0,
    "expert/1/2": 8.0,
    "dose/0.1": 118.0,
    "dose/0.25": 31.0,
    "dose/0.5": 1.31,
    "dose/0.75": 1.02,
    "dose/3": 1.04,
    "int8/row hold-out": 1.004,
    "int4/group64 hold-out": 1.05,
    "nf4/group64 hold-out": 1.07,
    "int4/16x16 plain": 1.062,
    "int4/16x16 hold-out": 1.041,
    "int4/64x64 plain": 1.184,
    "int4/64x64 hold-out": 1.083,
    "int4/256x256 plain": 2.41,
    "int4/256x256 hold-out": 1.127,
    "int4/tensor plain": 4.73,
    "int4/tensor hold-out": 1.162,
    "w8a8 naive": 1.06,
    "w8a8 hold-out": 1.014,
    "w8a8 smoothquant": 1.011,
    "w16a4 naive": 1.9,
    "w16a4 hold-out": 1.21,
    "w16a4 smoothquant": 1.42,
    "w16a4 smoothquant searched": 1.35,
}
BITS = {
    f"{recipe} {treatment}": bits
    for recipe, bits in {"int8/row": 8.125, "int4/group64": 4.5, "int4/64x64": 4.008, "int4/tensor": 4.0}.items()
    for treatment in ("plain", "hold-out")
}
# A model whose scalar is found but carries little, while its neighbours matter.
FAILING: Mapping[str, float | None] = {
    PRUNED.name: 1.72,
    OTHER_OUTLIERS.name: 1.64,
    RESTORED.name: 1.71,
    FLIPPED.name: 2.2,
    "dose/0.1": 1.6,
    "dose/0.25": 1.4,
    "dose/0.5": 1.1,
    Placebo(control="same-row", draw=2).name: 1.38,
    "int4/group64 hold-out": 1.9,
    "int4/16x16 plain": 1.31,
    "int4/16x16 hold-out": 1.36,
    "int4/64x64 plain": 1.93,
    "int4/64x64 hold-out": 1.92,
    "int4/256x256 plain": 8.2,
    "int4/256x256 hold-out": 8.1,
    "int4/tensor plain": None,
    "int4/tensor hold-out": None,
    "w8a8 naive": 1.31,
    "w8a8 hold-out": 1.32,
    "w8a8 smoothquant": 1.05,
    "w16a4 naive": 7.2,
    "w16a4 hold-out": 7.3,
    "w16a4 smoothquant": 1.8,
    "w16a4 smoothquant searched": 1.5,
}


def make_loss(
    perplexity: float | None, *, windows: int = 32, tokens: int = 63, noise: float = 0.03, seed: int = 0
) -> TokenLoss:
    """Return the loss whose perplexity is exactly what was asked for (but for rounding errors).

    The shared part of the noise, the text's own difficulty, is the same for every seed.
    """
    if perplexity is None:
        return TokenLoss(nats=(None,) * windows, tokens=(tokens,) * windows)
    difficulty = 0.3 * numpy.random.default_rng(7).standard_normal(windows)
    own = noise * numpy.random.default_rng([11, seed]).standard_normal(windows) if seed else 0.0
    nats = math.log(perplexity) + (difficulty - difficulty.mean()) + (own - numpy.mean(own))
    return TokenLoss(nats=tuple(float(tokens * one) for one in nats), tokens=(tokens,) * windows)


def make_arms(policy: Policy, outcome: Outcome = Outcome.LOCATED) -> tuple[Arm, ...]:
    """Return the arms that the policy's checks need, the baseline first."""
    checks = tuple(find_checks())
    placebos = plan_needs(policy, checks, DECODER_WEIGHTS).placebos
    targets = ArmTargets(
        super_weights=(SUPER_WEIGHT.address,) if outcome is Outcome.LOCATED else (),
        other_outliers=tuple(
            WeightAddress(parameter="model.layers.3.mlp.down_proj.weight", row=row, column=column)
            for row, column in ((5, 17), (9, 300))
        ),
        placebos={one: (make_address(CONTROL_KINDS.index(one.control), one.draw),) for one in placebos},
        channels=(CHANNEL,),
        experts=EXPERTS.tried if outcome is Outcome.LOCATED else (),
    )
    return plan_arms(policy, checks, targets, SETUP)


def make_location(outcome: Outcome = Outcome.LOCATED) -> Location:
    """Return where the super weight of the made-up model is, or why there is none."""
    found = outcome is Outcome.LOCATED
    because = {
        Outcome.LOCATED: "one scalar explains the super activation of channel 37",
        Outcome.DISTRIBUTED: "six scalars explain only 0.41 of the activation of channel 37",
        Outcome.NONE: "no channel of the residual stream is massive: the largest is 6.1 times typical",
    }[outcome]
    massive = outcome is not Outcome.NONE
    return Location(
        outcome=outcome,
        because=because,
        prompt=PROMPTS[0],
        token_ids=(1, 14, 92, 7, 33, 14, 61),
        bos=True,
        super_weights=(SUPER_WEIGHT,) if found else (),
        super_activations=(SUPER_ACTIVATION,) if found else (),
        candidates=(
            Candidate(
                layer=LAYER,
                parameter=PARAMETER,
                row=CHANNEL,
                column=COLUMN,
                token=0,
                input_value=208.1 if massive else 3.4,
                output_value=-412.0 if massive else -6.0,
                weight=-1.9268,
                share=0.9731 if found else 0.22,
                accepted=found,
                because=because,
            ),
            Candidate(
                layer=6,
                parameter="model.layers.6.mlp.down_proj.weight",
                row=88,
                column=140,
                token=3,
                input_value=301.0,
                output_value=455.2,
                weight=0.412,
                share=0.272,
                accepted=False,
                because="the spike does not persist: it is gone after the layer that made it",
            ),
        ),
        trace=tuple(
            LayerTrace(
                layer=layer,
                residual=412.5 + layer if massive and 1 <= layer <= 6 else 6.1,
                residual_channel=CHANNEL,
                residual_token=0,
                typical=0.71 + 0.02 * layer,
                down_input=208.1 if massive and layer == LAYER else 9.5 + layer,
                down_output=412.0 if massive and layer == LAYER else 4.5 + layer,
            )
            for layer in range(LAYERS)
        ),
        weight_norm_prediction=PREDICTION if found else None,
    )


def make_persistence(
    values: tuple[float | None, ...] = (-2.0, -411.0, -412.0, -412.5, -413.0, -413.0, -413.4, -20.0),
    *,
    peaks: tuple[int, ...] = (3, 0, 0, 0, 0, 0, 0, 4),
    ranks: tuple[int, ...] = (40, 0, 0, 0, 0, 0, 0, 12),
    prompts: tuple[str, ...] = PROMPTS,
) -> tuple[PromptTrace, ...]:
    """Return the super activation's channel on several prompts, the same on each."""
    return tuple(
        PromptTrace(
            prompt=prompt,
            tokens=len(prompt.split()) + 1,
            channel=CHANNEL,
            peaks=peaks,
            values=values,
            ranks=ranks,
        )
        for prompt in prompts
    )


def make_search(
    values: tuple[float | None, ...], *, peaks: tuple[int, ...] = (3, 0, 0, 0, 0, 0, 0, 4), tolerance: float = 0.3
) -> PromptSearch:
    """Return a search that found a prompt of two tokens, on which the channel, located at -412.5, holds these."""
    traces = make_persistence(values, peaks=peaks, prompts=("zat",))
    found = BreakingPrompt(prompt="zat", token_ids=(1, 61), because="channel 37 is lost", traces=traces)
    return PromptSearch(examples=50, tolerance=tolerance, found=found)


def make_published(*weights: PublishedWeight, match: Match = Match.LISTED, own: bool = False) -> Lookup:
    """Return what an index says of the made-up model: by default its super weight, load-bearing alone."""
    published = weights or (
        PublishedWeight(layer=LAYER, row=CHANNEL, column=COLUMN, bearing=Impact.ALONE, sources=("PAPER",)),
    )
    finding = LocalFinding(tool="sw-audit 0.1.0", created="", digest="", dtype="float32", prompt="a", bos=True)
    return Lookup(
        asked="owner/made-up",
        match=match,
        because="its hub id is the entry's",
        model=PublishedModel(id="owner/made-up", weights=published),
        sources=(
            Source(key="PAPER", title="A paper", trust="high", finding=finding if own else None),
            Source(key="RUMOUR", title="A rumour", trust="low"),
        ),
    )


NOT_PUBLISHED = Lookup(
    asked="models/control",
    match=Match.NONE,
    because="the index has no entry for 'models/control'",
    nearest=("huggyllama/llama-7b",),
)


def make_mechanism() -> tuple[Mechanism, ...]:
    """Return the super activation block by block: made by the MLP of layer 1, carried, removed by the last."""
    added = {0: (0.5, -2.0), LAYER: (1.5, -412.0), 7: (2.0, 390.0)}
    layers, entry, pruned = [], 0.0, 0.0
    for layer in range(LAYERS):
        attention, mlp = added.get(layer, (-0.25, -0.25))
        without = mlp if layer != LAYER else 0.5
        intact = Contribution(skip=entry, attention=attention, mlp=mlp, leaving=entry + attention + mlp)
        zeroed = Contribution(skip=pruned, attention=attention, mlp=without, leaving=pruned + attention + without)
        rests = 0.9 if layer > LAYER else 0.3
        layers.append(
            LayerMechanism(layer=layer, intact=intact, pruned=zeroed, attended=rests, attended_pruned=0.25)
        )
        entry, pruned = intact.leaving, zeroed.leaving
    return (Mechanism(channel=CHANNEL, token=0, first_layer=1, last_layer=6, layers=tuple(layers)),)


def make_dose_curves() -> tuple[DoseCurve, ...]:
    """Return a published curve of perplexity of another model, and one of accuracy of this one."""
    return (
        DoseCurve(
            model="lab/own",
            quantity="accuracy, percent",
            unit="percent",
            points=((0.0, 35.0), (1.0, 70.0)),
            source="A",
            own=True,
        ),
        DoseCurve(
            model="lab/other",
            quantity="perplexity ratio over the factor",
            unit="perplexity ratio",
            points=((0.0, 1400.0), (0.25, 80.0), (0.75, 1.03)),
            source="B",
        ),
    )


def make_protocol(*, windows: int = 32, dtype: str = "float32", seed: int = 0) -> Protocol:
    """Return a protocol; another seed or dtype makes another signature."""
    return Protocol(
        corpus=CorpusIdentity(name="specimen", sha256=_sha256("corpus"), characters=41_218),
        tokenizer=_sha256("tokenizer"),
        window=64,
        stride=63,
        windows=windows,
        bos="prepended",
        dtype=dtype,
        seed=seed,
    )


def make_identity(model_id: str = "specimen") -> ModelIdentity:
    """Return the identity of a small Llama-like model."""
    weights = FileDigest(path="model.safetensors", size=4_201_880, sha256=_sha256(model_id))
    return ModelIdentity(
        id=model_id,
        source=f"models/{model_id}",
        revision=None,
        family="llama",
        architecture="LlamaForCausalLM",
        layers=LAYERS,
        hidden_size=HIDDEN,
        parameters=2_098_304,
        dtype="float32",
        device="cpu",
        files=(weights,),
        digest=_sha256(f"{model_id} manifest"),
    )


def make_measurement(
    arm: Arm,
    ratio: float | None,
    *,
    model_id: str = "specimen",
    protocol: Protocol | None = None,
    windows: int = 32,
    seed: int = 1,
    accuracy: float | None = 0.9,
    stop_mass: float | None = 0.31,
    items: int = 200,
) -> Measurement:
    """Return one arm's measurement with the wanted perplexity ratio to the baseline's 6.25."""
    tokens = (63,) * windows
    severity = 0.0 if ratio is None else abs(math.log(ratio))
    wave = numpy.random.default_rng([5, seed]).uniform(0.8, 1.2, windows)
    agree = 63 if not seed else max(int(60 - 12 * severity), 1)
    massive = ratio is not None and ratio < 100
    return Measurement(
        model=model_id,
        arm=arm,
        protocol=(protocol or make_protocol(windows=windows)).signature,
        loss=make_loss(ratio and BASELINE_PERPLEXITY * ratio, windows=windows, seed=seed),
        agreement=Agreement(
            divergence=tuple(None if ratio is None else float(63 * severity * one * bool(seed)) for one in wave),
            same_top=(agree,) * windows,
            tokens=tokens,
        ),
        stop_words=None
        if stop_mass is None
        else StopWordMass(
            mass=tuple(None if ratio is None else float(63 * stop_mass * one) for one in wave), tokens=tokens
        ),
        choices=None
        if accuracy is None
        else ChoiceAccuracy(
            correct=tuple(int((n + 1) * accuracy) > int(n * accuracy) for n in range(items)), chance=0.25
        ),
        peaks=tuple(
            (412.5 if massive and 1 <= layer <= 6 else 24.0 + 3 * layer) if ratio is not None else None
            for layer in range(LAYERS)
        ),
        seconds=0.25,
    )


def make_prompt_continuations(*new_tokens: Sequence[int]) -> tuple[PromptContinuation, ...]:
    """Return what a model by itself goes on with after prompts of five tokens, by default no token twice."""
    return tuple(
        PromptContinuation(prompt="a mill", tokens=5, new_tokens=tuple(tokens), text="stands")
        for tokens in new_tokens or (range(40), range(40))
    )


def make_keys() -> KeyReport:
    """Return what is known of keys that a rounded cache keeps, in two layers."""
    errors: dict[CacheKind, float] = {"q8_0": 0.006, "q4_0": 0.1, "fp8": 0.026}
    return KeyReport(
        layers=tuple(
            LayerKeys(
                layer=layer,
                projection=f"model.layers.{layer}.self_attn.k_proj",
                heads=2,
                channels=64,
                rotated=64,
                constant=KeyChannel(head=0, channel=5, partner=37, value=0.0, ratio=0.0),
                spread=KeyChannel(head=1, channel=9, partner=41, value=1.5, ratio=2.0),
                errors=tuple(
                    CachedKeyError(kind=kind, predicted=error, head=1, measured=error)
                    for kind, error in errors.items()
                ),
            )
            for layer in range(2)
        ),
        draws=256,
        tokens=8,
    )


def make_evidence(
    model_id: str = "specimen",
    *,
    outcome: Outcome = Outcome.LOCATED,
    ratios: Mapping[Any, float | None] = HEALTHY,
    policy: Policy | None = None,
    omit: tuple[object, ...] = (),
    windows: int = 32,
    items: int = 200,
    accuracy: Mapping[str, float | None] | None = None,
    stop_mass: Mapping[str, float | None] | None = None,
    persistence: tuple[PromptTrace, ...] | None = None,
    prompt_search: PromptSearch | None = None,
    location: Location | None = None,
    published: Lookup | None = None,
    activations: ActivationSetup | None = SETUP,
    critical: CriticalSearch | None = SEARCHED,
) -> ModelResult:
    """Return the evidence on one model.

    Args:
        model_id: Its id.
        outcome: What locating ended with.
        ratios: Per arm, by purpose or name, perplexity over the baseline's; `None` is not finite. Others: 1.0005.
        policy: Which recipes and draws there are.
        omit: Arms that were not measured.
        windows: Windows of 63 scored tokens.
        items: Multiple-choice items.
        accuracy: Per arm, accuracy; `None` where no items were read. Pruned 0.25, others 0.9.
        stop_mass: Per arm, mean mass on stop words; `None` where none was read. Pruned 0.58, others 0.31.
        persistence: The channel on several prompts.
        prompt_search: What a search for a prompt that breaks it came to; by default there was none.
        location: Where the super weights are.
        published: What the index says; by default the super weight where one is located, else nothing.
        activations: What was found out before activations were quantized.
        critical: What a search for critical scalars found; `None` if there was none.
    """
    ratios = {str(arm): ratio for arm, ratio in ratios.items()}
    omit = tuple(map(str, omit))
    policy = policy or Policy()
    protocol = make_protocol(windows=windows)
    accuracies: dict[str, float | None] = {PRUNED.name: 0.25, **(accuracy or {})}
    masses: dict[str, float | None] = {PRUNED.name: 0.58, **(stop_mass or {})}
    ratios = {BASELINE.name: 1.0, **ratios}
    found = location or make_location(outcome)
    return ModelResult(
        model=make_identity(model_id),
        protocol=protocol,
        location=found,
        critical=critical,
        experts=EXPERTS if outcome is Outcome.LOCATED else None,
        attention_keys=make_keys(),
        persistence=persistence
        if persistence is not None
        else (make_persistence() if found.super_activations else ()),
        prompt_search=prompt_search,
        measurements=tuple(
            make_measurement(
                arm,
                ratios.get(arm.name, 1.0005),
                model_id=model_id,
                protocol=protocol,
                windows=windows,
                seed=number,
                accuracy=accuracies.get(arm.name, 0.9),
                stop_mass=masses.get(arm.name, 0.31),
                items=items,
            )
            for number, arm in enumerate(make_arms(policy, outcome))
            if arm.name not in omit
        ),
        published=published or (make_published() if outcome is Outcome.LOCATED else NOT_PUBLISHED),
        mechanism=make_mechanism() if found.super_weights else (),
        activation_map=make_map() if found.super_weights else None,
        neighbourhoods=tuple(make_neighbourhood(one.address, one.layer, one.value) for one in found.super_weights),
        bits_per_weight=BITS,
        published_doses=make_dose_curves() if found.super_weights else (),
        activations=activations,
        continuations=make_prompt_continuations(),
        weights=WeightsReport(files=1, tensors=57, scanned=57),
        decoder_weights=DECODER_WEIGHTS,
        notes=(),
        seconds=12.5,
    )


def make_policy(*model_ids: str) -> Policy:
    """Return a policy for models of these ids under which laws are gates, and that is else the default one.

    What is expected of the models is what is made up.
    """
    return Policy(
        laws="gate",
        models=tuple(
            ModelPolicy(source=f"models/{name}", id=name, expect=tell_expected(name))
            for name in model_ids or ("specimen",)
        ),
    )


def tell_expected(source: str) -> Literal["some", "none"]:
    """Tell what is expected of a made-up model."""
    return "none" if "control" in source else "some"


def make_failing_evidence(
    model_id: str = "broken", policy: Policy | None = None, *, windows: int = 32, items: int = 200
) -> ModelResult:
    """Return the evidence on a model whose located scalar does not carry it: several checks fail."""
    return make_evidence(
        model_id,
        ratios=FAILING,
        policy=policy,
        windows=windows,
        items=items,
        accuracy={PRUNED.name: 0.85},
        stop_mass={PRUNED.name: 0.32},
        persistence=make_persistence(values=(-2.0, -411.0, -310.0, -250.0, -190.0, -120.0, -60.0, -20.0)),
        prompt_search=make_search((-2.0, *[-95.0] * 6, -20.0)),
    )


def make_none_evidence(
    model_id: str = "control", policy: Policy | None = None, *, windows: int = 32, items: int = 200
) -> ModelResult:
    """Return the evidence on a model without a super weight."""
    return make_evidence(
        model_id,
        outcome=Outcome.NONE,
        ratios={
            OTHER_OUTLIERS.name: 1.04,
            "int4/tensor plain": 1.09,
            "int4/tensor hold-out": 1.09,
            "w8a8 naive": 1.003,
            "w16a4 naive": 1.02,
        },
        activations=ActivationSetup(smoothed=40, projections=56, calibration_windows=32, calibration_tokens=2048),
        critical=SEARCHED.model_copy(update={"scalars": SEARCHED.scalars[1:], "lead": None, "impacts": {}}),
        policy=policy,
        windows=windows,
        items=items,
    )


@cache
def make_record(*, windows: int = 32, items: int = 200) -> Record:
    """Return the record of an audit of three models, and of a fourth that could not be opened."""
    policy = make_policy("specimen", "broken", "control", "gone")
    evidence = (
        make_evidence(
            "specimen",
            policy=policy,
            windows=windows,
            items=items,
            prompt_search=PromptSearch(examples=50, tolerance=0.3),
        ),
        make_failing_evidence("broken", policy=policy, windows=windows, items=items),
        make_none_evidence("control", policy=policy, windows=windows, items=items),
    )
    failure = ModelFailure(
        model="gone", message="model models/gone: there is no such folder; give an existing path"
    )
    return Record(
        models=(*(judge_model(result, policy) for result in evidence), failure),
        tool=Tool(version="0.1.0"),
        created="2026-01-02T03:04:05+00:00",
        environment=Environment(
            python="3.11.9",
            platform="Linux-6.1-x86_64",
            threads=2,
            packages={"numpy": "2.4.6", "torch": "2.13.0", "transformers": "5.23.0"},
        ),
        policy=policy,
    )


def judge_model(result: ModelResult, policy: Policy) -> ModelResult:
    """Return a result with the verdicts that the policy's checks come to."""
    from sw_audit.checks.judging import judge_result

    return result.model_copy(update={"verdicts": judge_result(result, policy)})


def compose(*models: ModelResult | ModelFailure, **changes: object) -> Record:
    """Return a record of these models that is otherwise the one of `make_record`.

    Args:
        models: Results and failures, verdicts included.
        changes: Fields that differ, such as `policy`.
    """
    return make_record(windows=8, items=8).model_copy(update={"models": models, "policy": Policy(), **changes})


def change_model(record: Record, model_id: str = "specimen", **changes: object) -> Record:
    """Return a record in which some fields of one audited model differ."""
    models = tuple(model.model_copy(update=changes) if model.id == model_id else model for model in record.models)
    return record.model_copy(update={"models": models})


def make_address(row: int = CHANNEL, column: int = COLUMN) -> WeightAddress:
    """Return an address in the super weight's matrix."""
    return WeightAddress(parameter=PARAMETER, row=row, column=column)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def make_true_record() -> Record:
    """Return a record of one model, whose verdicts all follow from it; one waiver of it has expired."""
    waiver = Waiver(check="prune-collapses", model="a", owner="Ada", until=date(2020, 1, 1), reason="it is known")
    policy = make_policy("a").model_copy(update={"waivers": (waiver,)})
    evidence = make_evidence("a", windows=4, ratios={"pruned": 1.5})
    record = compose(judge_model(evidence, policy), policy=policy)
    checks = [verdict.check for verdict in record.verdicts]
    verdicts = judge_verdicts(evidence, policy, checks, date.fromisoformat(record.created[:10]))
    return record.model_copy(update={"models": (evidence.model_copy(update={"verdicts": verdicts}),)})
