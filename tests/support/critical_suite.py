"""A search for critical scalars, held against what is known: of planted models, of the specimen and of SmolLM2."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sw_audit.checkpoint.opening import Checkpoint, open_checkpoint
from sw_audit.checkpoint.parameters import list_parameters
from sw_audit.corpus.windows import Windows
from sw_audit.critical.search import find_critical_scalars
from sw_audit.locate.locator import locate_super_weights
from sw_audit.policy.policy import ModelPolicy
from sw_audit.record.address import ScalarAddress
from sw_audit.record.critical import CriticalSearch
from sw_audit.specimen import specimen_path
from sw_audit.testing.critical_models import (
    CRITICAL,
    SMALL,
    CriticalModel,
    draw_critical_model,
    measure_nats,
    measure_zeroed,
)

DATA = Path(__file__).parents[1] / "critical" / "data"


def read_known(name: str) -> dict[str, Any]:
    """Return a file of scalars that were zeroed one by one: its text, how it was made, the scalars."""
    content: dict[str, Any] = json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))
    return content


def open_specimen() -> tuple[Checkpoint, Windows, dict[ScalarAddress, float]]:
    """Open the specimen, with the windows of its exhaustive search and what that found."""
    content = read_known("specimen-exhaustive")
    rows = torch.tensor(content["text"]["windows"])
    windows = Windows(rows, torch.ones(len(rows), dtype=torch.long), bos=int(rows[0, 0]))
    checkpoint = open_checkpoint(ModelPolicy(source=str(specimen_path())))
    return checkpoint, windows, list_known(content["listed"])


def list_known(scalars: list[dict[str, Any]]) -> dict[ScalarAddress, float]:
    """Return the perplexity ratio of each scalar of such a file."""
    return {
        ScalarAddress(parameter=one["parameter"], index=tuple(one["index"])): one["perplexity_ratio"]
        for one in scalars
    }


def list_alone(search: CriticalSearch) -> dict[ScalarAddress, float]:
    """Return what a search calls critical alone, with its perplexity ratio."""
    return {
        scalar.address: scalar.effect.ratio
        for scalar in search.scalars
        if scalar.kind == "alone" and scalar.effect is not None and scalar.effect.ratio is not None
    }


@dataclass(frozen=True)
class Judged:
    """What a search made of one planted model; by sort (`alone`, `together`, `masks`) how many were to be found.

    `missed` says what was not, `false` what is called critical or bearing and is not. A search is of `passes`
    plain passes over its text.
    """

    number: int
    family: str
    kind: str
    wanted: dict[str, int]
    missed: dict[str, tuple[str, ...]]
    inert: int
    false: tuple[str, ...]
    passes: float
    seconds: float


def judge_model(number: int, seed: int = 0) -> Judged:
    """Draw a planted model and search it."""
    planted = draw_critical_model(number, seed)
    begun = time.process_time()
    search = search_model(planted)
    return judge_search(number, planted, search, time.process_time() - begun)


def search_model(planted: CriticalModel) -> CriticalSearch:
    """Locate super weights on the beginning of the text, and search it."""
    text = " ".join(map(str, planted.token_ids[0, 1:9].tolist()))
    location = locate_super_weights(planted.checkpoint, text)
    return find_critical_scalars(planted.checkpoint, take_windows(planted), location, name="its own text")


def take_windows(planted: CriticalModel) -> Windows:
    """Return a planted model's text as windows."""
    token_ids = planted.token_ids
    return Windows(token_ids, torch.ones(len(token_ids), dtype=torch.long), bos=1)


def judge_search(number: int, planted: CriticalModel, search: CriticalSearch, seconds: float = 0.0) -> Judged:
    """Hold a search against the truth, which is measured once more where the truth does not say."""
    checkpoint, token_ids = planted.checkpoint, planted.token_ids
    parameters = {one.name: one for one in list_parameters(checkpoint)}
    base = measure_nats(checkpoint, token_ids)

    def measure(*addresses: ScalarAddress) -> float:
        nats = measure_zeroed(checkpoint, parameters, token_ids, addresses)
        return math.exp(min(nats - base, 700.0))

    kinds = {scalar.address: scalar.kind for scalar in search.critical}
    masking = {member for one in search.sets if one.kind == "masks" for member in one.members}
    missed = {
        "alone": [address for address in planted.alone if kinds.get(address) != "alone"],
        # What it names of a set has to be enough for the damage: of two, one of which is enough, both.
        "together": [
            next(iter(members)) for members in planted.together if measure(*members.intersection(kinds)) < CRITICAL
        ],
        "masks": [partner for _, partner in planted.masks if partner not in masking],
    }
    bearing = {address for address, impact in search.impacts.items() if impact == "bearing"}
    false = [str(address) for address in planted.inert if address in kinds or str(address) in bearing]
    false += [str(address) for address, kind in kinds.items() if kind == "alone" and measure(address) < SMALL]
    false += [
        " and ".join(map(str, one.members))
        for one in search.sets
        if one.kind == "together" and measure(*one.members) < SMALL
    ]
    return Judged(
        number,
        planted.family,
        planted.kind,
        {
            "alone": len(planted.alone),
            "together": len(planted.together),
            "masks": len(planted.masks),
        },
        {
            sort: tuple(f"{address} (x{planted.ratios[address]:.3g})" for address in addresses)
            for sort, addresses in missed.items()
        },
        len(planted.inert),
        tuple(false),
        search.tokens / token_ids.numel(),
        seconds,
    )
