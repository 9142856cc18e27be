"""One of each kind of fact that is about where a model comes from: its parent, its baseline, its files."""

from __future__ import annotations

from datetime import date

from support.descent import (
    CHILD,
    MODULE,
    judge_descent,
    make_continuation,
    make_descent,
    make_descent_evidence,
    make_ridden,
    make_text,
)
from support.evidence import (
    CHANNEL,
    LAYER,
    SUPER_WEIGHT,
    make_evidence,
    make_identity,
    make_location,
    make_protocol,
)

from sw_audit.fact import Fact
from sw_audit.policy.model_policy import Waiver
from sw_audit.record.arm import DESCENDANT, RESTORED_WEIGHTS, SwapModules
from sw_audit.record.baseline import Baseline, EarlierRun, HeldActivation, HeldWeight
from sw_audit.record.checkpoint import (
    Flaw,
    HeldScalar,
    PatternCount,
    QuantizationReport,
    QuantizedModule,
    WeightsReport,
)
from sw_audit.record.descent import Decision, Decisions, TaskResult
from sw_audit.record.fingerprint import Fingerprint, FingerprintActivation, FingerprintWeight, Kinship
from sw_audit.record.identity import Tool
from sw_audit.record.measurement import DivergenceSpread


def list_lineage() -> tuple[Fact, ...]:
    """Return facts that hold one of each kind between them."""
    stored = QuantizedModule(module=MODULE, bits=4.0, group=128, activations=8)
    print_of_child = Fingerprint(
        name=CHILD,
        family="llama",
        layers=8,
        hidden_size=128,
        weights=(FingerprintWeight(layer=LAYER, row=37, column=211, value=-1.9268, ratio=1.0, outlier=31.6),),
        activations=(FingerprintActivation(channel=CHANNEL, value=-412.5, gain=214.1),),
    )
    harmed = make_text({DESCENDANT.name: 8.0, RESTORED_WEIGHTS.name: 1.2})
    measured = make_evidence(windows=8, items=8).measurements[0]
    return (
        make_descent(
            harmed,
            super_activations=(make_ridden([1.0, None], sink=0.5, sink_parent=0.9),),
            continuations=(make_continuation((7,) * 20, finite=False),),
            decisions=(
                Decisions(
                    kind="yes", sides=("yes", "no"), decisions=(Decision(name="q", parent=1.5, descendant=None),)
                ),
            ),
            tasks=(TaskResult(task="t", version="1", metric="acc", parent=(True,), descendant=(False,)),),
            worst_modules=((MODULE, 0.31),),
        ),
        judge_descent("perplexity-ratio", make_descent_evidence(harmed)),
        QuantizationReport(
            method="gptq",
            described="4 bits",
            patterns=(PatternCount(key="ignore", pattern="lm_head", modules=1),),
            quantized=(stored,),
            exact=False,
            because="activations are quantized",
            super_weights=(
                HeldScalar(address=SUPER_WEIGHT.address, module=stored, parent=-1.9, value=-1.8, step=0.2),
            ),
        ),
        WeightsReport(
            files=1,
            tensors=9,
            flaws=(Flaw(kind="constant", where="w", found="all zero", serious=False),),
            counts={"constant": 1},
        ),
        Waiver(check="layer-error", model="*", until=date(2030, 1, 31), owner="ana", reason="a new kernel"),
        Baseline(
            name="v1",
            created="2026-01-02T03:04:05+00:00",
            tool=Tool(version="0.1.0"),
            model=make_identity("parent"),
            protocol=make_protocol(),
            location=make_location(),
            measurement=measured,
            weights=(HeldWeight(address=SUPER_WEIGHT.address, layer=LAYER, before=-1.9, value=None),),
            activations=(HeldActivation(channel=CHANNEL, token=0, before=-412.5, value=-400.0),),
            earlier=(
                EarlierRun(
                    name="v0",
                    created="2025-01-02T03:04:05+00:00",
                    tool="0.0.9",
                    model="parent",
                    digest="d0",
                    protocol="p",
                    loss=measured.loss,
                ),
            ),
        ),
        SwapModules(modules=(MODULE,)),
        DivergenceSpread(median=0.003, p99=0.7, maximum=4.0),
        print_of_child,
        Kinship(other="parent", kin="close", shared=1, of=1, drift=0.01, because="1 of 1 coordinates"),
    )
