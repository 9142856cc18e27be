"""Planted models with critical scalars are what they say, by models that were changed for good."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable

import pytest
import torch
from transformers.pytorch_utils import Conv1D

from sw_audit.record.address import ScalarAddress
from sw_audit.testing.critical_models import (
    CRITICAL,
    FAMILIES,
    INERT,
    KINDS,
    SMALL,
    CriticalModel,
    draw_critical_model,
)

DRAWN = (0, 3, 5, 9, 12, 31, 38, 42)


def measure_ratio(planted: CriticalModel, addresses: Iterable[ScalarAddress]) -> float:
    """Perplexity by transformers' own loss, of a copy with scalars zeroed, over that of the model as it is."""
    changed = copy.deepcopy(planted.checkpoint.model)
    with torch.no_grad():
        for address in addresses:
            module = changed.get_submodule(address.parameter.rpartition(".")[0])
            stored = changed.get_parameter(address.parameter)
            index = address.index[::-1] if isinstance(module, Conv1D) else address.index
            is_gemma_norm = type(module).__name__ == "Gemma2RMSNorm"
            stored[index[-stored.ndim :]] = -1.0 if is_gemma_norm else 0.0
        token_ids = planted.token_ids
        losses = [
            float(model(input_ids=token_ids, labels=token_ids).loss)
            for model in (changed, planted.checkpoint.model)
        ]
    return math.exp(losses[0] - losses[1])


@pytest.mark.slow
@pytest.mark.parametrize("number", DRAWN)
def test_what_is_said_to_be_true_holds_on_a_model_that_was_changed_for_good(number: int) -> None:
    planted = draw_critical_model(number)
    assert planted.alone or planted.together
    for address in planted.alone:
        assert measure_ratio(planted, [address]) >= CRITICAL * 0.999
    for members in planted.together:
        assert all(measure_ratio(planted, [address]) < SMALL * 1.001 for address in members)
        assert measure_ratio(planted, members) >= CRITICAL * 0.999
    for hit, partner in planted.masks:
        assert math.log(measure_ratio(planted, [hit, partner])) < 0.61 * math.log(measure_ratio(planted, [hit]))
    for address in planted.inert:
        assert measure_ratio(planted, [address]) < INERT * 1.001


def test_a_number_decides_everything() -> None:
    first, again = draw_critical_model(6), draw_critical_model(6)
    assert torch.equal(first.token_ids, again.token_ids)
    assert (first.alone, first.together, first.masks) == (again.alone, again.together, again.masks)
    assert first.seed != draw_critical_model(6, seed=1).seed


def test_the_model_wrote_its_text_and_expects_it() -> None:
    planted = draw_critical_model(0)
    with torch.no_grad():
        loss = planted.checkpoint.model(input_ids=planted.token_ids, labels=planted.token_ids).loss
    assert bool((planted.token_ids[:, 0] == 1).all())
    assert float(loss) < 0.6 * math.log(planted.checkpoint.vocabulary)


def test_every_family_is_dealt_every_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    dealt: set[tuple[str, str]] = set()

    def note(family: str, kind: str, _: int) -> str:
        dealt.add((family, kind))
        return "built"

    monkeypatch.setattr("sw_audit.testing.critical_models.build_critical_model", note)
    for number in range(len(FAMILIES) * len(KINDS)):
        draw_critical_model(number)
    assert {family for family, _ in dealt} == set(FAMILIES)
    for family in ("llama", "olmo2"):
        assert {kind for one, kind in dealt if one == family} == set(KINDS) - {"bias"}
    for family in ("qwen2", "gpt2"):
        assert {kind for one, kind in dealt if one == family} == set(KINDS)
