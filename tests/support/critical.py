"""Made-up searches for critical scalars, each figure chosen by the caller. Nothing needs torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from support.evidence import SUPER_WEIGHT, make_location

from sw_audit.policy.policy import Intervention
from sw_audit.record.address import ScalarAddress
from sw_audit.record.critical import CriticalKind, CriticalScalar, CriticalSearch, CriticalSet, Effect
from sw_audit.record.location import Impact, Location

NORM = "model.norm.weight"
GAIN = "model.layers.3.input_layernorm.weight"
EMBEDDING = "model.embed_tokens.weight"
LOCATED = SUPER_WEIGHT.address.scalar


def make_effect(ratio: float | None) -> Effect:
    """Return an effect on two windows, whose interval reaches from a tenth below to a tenth above."""
    ends = {} if ratio is None else {"low": 0.9 * ratio, "high": 1.1 * ratio}
    return Effect(ratio=ratio, windows=2, **ends)


def make_scalar(
    parameter: str,
    *index: int,
    ratio: float | None = 1.0,
    kind: CriticalKind | None = "alone",
    value: float = 0.5,
    others: Mapping[Intervention, float | None] | None = None,
    **changes: Any,
) -> CriticalScalar:
    """Return a scalar that was zeroed alone; `effect=None` for one that was tried in sets only."""
    fields: dict[str, Any] = {
        "address": ScalarAddress(parameter=parameter, index=index),
        "value": value,
        "kind": kind,
        "effect": make_effect(ratio),
        "others": {name: make_effect(other) for name, other in (others or {}).items()},
        **changes,
    }
    return CriticalScalar.model_validate(fields)


def make_set(kind: str, ratio: float | None, *members: ScalarAddress) -> CriticalSet:
    """Return a set that was zeroed as one."""
    return CriticalSet.model_validate({"kind": kind, "members": members, "effect": make_effect(ratio)})


def make_search(
    *scalars: CriticalScalar, sets: Sequence[CriticalSet] = (), candidates: int = 128, **changes: Any
) -> CriticalSearch:
    """Return a search on two windows of 96 tokens."""
    fields: dict[str, Any] = {
        "text": "wikitext",
        "window": 96,
        "windows": 2,
        "minimum_ratio": 1.1,
        "confidence": 0.95,
        "ranked": 134_515_008,
        "candidates": candidates,
        "questions": 61,
        "scalars": scalars,
        "sets": tuple(sets),
        **changes,
    }
    return CriticalSearch(**fields)


def make_rich_search() -> CriticalSearch:
    """Return a search with a gain, a stored gain less 1, a located one, a pair, a masking one and an inert one."""
    pair = (ScalarAddress(parameter=GAIN, index=(7,)), ScalarAddress(parameter=EMBEDDING, index=(11, 7)))
    mask = ScalarAddress(parameter=GAIN, index=(9,))
    flipped: Mapping[Intervention, float | None] = {"negate": None}
    return make_search(
        make_scalar(NORM, 17, ratio=22.35, value=-1.2578125, rank=4, others={"negate": 9_060_484.0}),
        make_scalar(GAIN, 5, ratio=7.875, value=-0.25, applied=0.75, rank=1, others=flipped),
        make_scalar(*_spell(LOCATED), ratio=6.612, value=-1.9268, rank=5, located=True, set=0),
        make_scalar(GAIN, 7, ratio=1.02, kind="together", rank=40, set=1),
        make_scalar(EMBEDDING, 11, 7, kind="together", effect=None, set=1),
        make_scalar(GAIN, 9, ratio=0.98, kind="masks", set=2),
        make_scalar(EMBEDDING, 3, 3, ratio=1.0, kind=None, rank=90),
        sets=[
            make_set("located", 22603.0, LOCATED),
            make_set("together", 3.4, *pair),
            make_set("masks", 0.25, mask),
        ],
        notes=("the gradient does not reach the router of layer 2",),
    )


def make_searched_location(impact: Impact = "bearing") -> Location:
    """Return the made-up location as a search leaves it."""
    location = make_location()
    weights = tuple(weight.model_copy(update={"impact": impact}) for weight in location.super_weights)
    return location.model_copy(update={"super_weights": weights})


def _spell(address: ScalarAddress) -> tuple[Any, ...]:
    return address.parameter, *address.index
