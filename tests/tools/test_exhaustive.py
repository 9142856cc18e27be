"""Every scalar of the specimen was zeroed alone: how, and the list of it, are held against plain passes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.critical_suite import read_known

from sw_audit.checkpoint.opening import open_checkpoint
from sw_audit.policy.policy import ModelPolicy
from sw_audit.specimen import specimen_path
from tools.exhaustive import Llama, cut_text, run_changed, run_plainly


@pytest.fixture(scope="module")
def known() -> dict[str, Any]:
    return read_known("specimen-exhaustive")


@pytest.fixture(scope="module")
def llama() -> Llama:
    checkpoint = open_checkpoint(ModelPolicy(source=str(specimen_path())))
    token_ids, _ = cut_text(checkpoint)
    with torch.no_grad():
        return Llama(checkpoint.model, token_ids)


@pytest.mark.parametrize(
    ("name", "indices"),
    [
        ("model.embed_tokens.weight", [[0, 39], [152, 3], [7, 60]]),
        ("model.layers.0.input_layernorm.weight", [[39], [2]]),
        ("model.layers.2.self_attn.k_proj.weight", [[3, 5], [40, 39]]),
        ("model.layers.1.mlp.down_proj.weight", [[5, 7], [6, 7]]),
        ("model.norm.weight", [[0], [63]]),
        ("lm_head.weight", [[7, 12], [200, 5]]),
    ],
)
@torch.no_grad()
def test_scalars_zeroed_side_by_side_cost_what_each_costs_alone(
    llama: Llama, name: str, indices: list[list[int]]
) -> None:
    together = llama.take_nats(name, torch.tensor(indices))
    alone = [run_changed(llama.model, llama.token_ids, name, tuple(index)) for index in indices]
    assert together.tolist() == pytest.approx(alone, abs=1e-6)


def test_the_list_is_of_the_first_step_of_the_specimens_own_audit(llama: Llama, known: dict[str, Any]) -> None:
    assert known["text"]["windows"] == llama.token_ids.tolist()
    assert known["scalars"] == sum(parameter.numel() for parameter in llama.model.parameters())
    counts = {
        limit: sum(one["perplexity_ratio"] >= float(limit) for one in known["listed"]) for limit in known["counts"]
    }
    assert known["counts"] == counts


@torch.no_grad()
def test_each_listed_scalar_costs_what_is_said(llama: Llama, known: dict[str, Any]) -> None:
    base = run_plainly(llama.model, llama.token_ids)
    for one in known["listed"]:
        nats = run_changed(llama.model, llama.token_ids, one["parameter"], tuple(one["index"])) - base
        assert torch.tensor(nats).exp().item() == pytest.approx(one["perplexity_ratio"], rel=1e-4)
